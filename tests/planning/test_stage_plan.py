"""The plan of every stage on a cluster: its JSON, its sums, what does not fit and what is said to help."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cascade.errors import ConfigError
from cascade.planning.case import Case
from cascade.planning.splits import decide
from tests.conftest import REPOSITORY, cascade_here
from tests.planning.small_cases import case, decided

TOP = (
    *("recipe", "model", "cluster", "parameters", "fits", "refused", "gpus", "hours", "gpu_hours", "cost_usd"),
    *("layout", "derived", "stages", "problems", "change", "commands"),
)
SECONDS = ("generation", "scoring", "verification", "training", "publishing", "total", "overlapped")
SMOKE_8B = ("recipe=smoke", "model=qwen3_8b", "cluster=h100")


def plan_of(*words: str) -> dict[str, Any]:
    return json.loads(json.dumps(decided(*words).as_json(["cascade run"])))


@pytest.fixture(scope="module")
def nemotron() -> dict[str, Any]:
    done = cascade_here("plan", "recipe=nemotron-cascade-2", "cluster=h100", "cluster.nodes=32", "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_json_of_the_30b_recipe_has_every_key_and_numbers_in_them(nemotron: dict[str, Any]) -> None:
    assert set(nemotron) == set(TOP)
    assert nemotron["cluster"]["gpus"] == 256
    counts = nemotron["parameters"]
    kinds = ("routed_experts", "shared_experts", "mamba", "attention", "mlp", "embeddings", "router", "norms", "other")
    assert sum(counts[kind] for kind in kinds) == counts["total"] == 31_577_937_344
    assert counts["active_without_embeddings"] < counts["active"] < counts["total"]
    for stage in nemotron["stages"]:
        assert set(stage["seconds_per_step"]) == set(SECONDS)
        assert all(isinstance(value, (int, float)) for value in stage["flops_per_step"].values())
        assert set(stage["tokens"]) >= {"prompt", "completion", "trained"}
        expected = {"train"} if stage["kind"] == "sft" else {"train", "rollout"}
        expected |= {"teacher"} if stage["kind"] == "mopd" or "rlhf" in stage["name"] else set()
        assert set(stage["roles"]) == expected
    train, moments = (nemotron["stages"][0]["roles"]["train"][key] for key in ("memory_gib", "moments_gib"))
    assert set(train) == {
        *("parameters", "gradients", "optimizer", "activations", "logits", "temporaries", "communication"),
        *("other", "total"),
    }
    assert train == max(moments.values(), key=lambda kinds: kinds["total"])
    assert moments["loss"]["activations"] > 0
    assert set(nemotron["stages"][1]["roles"]["rollout"]["memory_gib"]) >= {"parameters", "kv_cache", "mamba_cache"}
    assert nemotron["commands"]


def test_sums_are_sums(nemotron: dict[str, Any]) -> None:
    for stage in nemotron["stages"]:
        for role in stage["roles"].values():
            held = role["memory_gib"]
            assert sum(value for kind, value in held.items() if kind != "total") == pytest.approx(held["total"])
        seconds = stage["seconds_per_step"]
        assert sum(seconds[part] for part in SECONDS[:5]) == pytest.approx(seconds["total"])
        assert stage["gpu_hours"] == pytest.approx(stage["steps"] * seconds["total"] * stage["gpus"] / 3600)
        flops = stage["flops_per_step"]
        assert sum(value for name, value in flops.items() if name != "total") == pytest.approx(flops["total"])
    assert nemotron["gpu_hours"] == pytest.approx(sum(stage["gpu_hours"] for stage in nemotron["stages"]))


def test_what_fits_and_what_is_a_problem_are_one_thing(nemotron: dict[str, Any]) -> None:
    small = plan_of("recipe=smoke", "cluster=h100")
    assert small["fits"]
    assert small["problems"] == []
    for plan in (nemotron, small):
        roles = {
            (stage["name"], name): role["fits"] for stage in plan["stages"] for name, role in stage["roles"].items()
        }
        assert {(problem["stage"], problem["role"]) for problem in plan["problems"]} == {
            place for place, fits in roles.items() if not fits
        }
        assert plan["fits"] == all(roles.values()) == all(stage["fits"] for stage in plan["stages"])
        for problem in plan["problems"]:
            assert problem["needs_gib"] > problem["has_gib"]


NEMOTRON_WHOLE_ROWS = ("recipe=nemotron-cascade-2", "cluster=h100", "cluster.nodes=32", "policy.sequence_parallel=1")


@pytest.mark.parametrize("words", [SMOKE_8B, NEMOTRON_WHOLE_ROWS])
def test_a_change_that_is_named_helps_when_it_is_typed(words: tuple[str, ...]) -> None:
    found = decided(*words)
    asked = case(*words)
    assert found.problems
    for problem in found.problems:
        assert problem.change
        with_it = decide(asked.changed(problem.change)).case.plan()
        roles = [role for stage in with_it.stages for role in stage.roles if role.name == problem.role]
        assert with_it.refused is None
        assert roles
        assert all(role.fits for role in roles)
    assert found.together
    assert decide(asked.changed(found.together)).case.plan().fits


def test_the_recipes_own_numbers_are_kept_where_it_is_written_for_the_cluster() -> None:
    words = ("launch=torchrun", "launch.processes=4", "rollout=vllm_server", "rollout.replicas=2", "teachers=local")
    found = decided("recipe=smoke", *words, "cluster=h100")
    assert found.derived == {}
    assert (found.plan.layout.training, found.plan.layout.rollout.gpus, found.plan.layout.gpus) == (4, 2, 6)


def test_a_recipe_for_a_laptop_is_spread_over_the_cluster_and_says_so() -> None:
    found = decided("recipe=smoke", "rollout=vllm_server", "cluster=h100", "cluster.nodes=2")
    assert found.derived["launch.kind"] == "slurm"
    layout = found.plan.layout
    assert layout.gpus <= 16
    assert layout.training in (1, 2, 4, 8)  # batches of 8 divide by no more
    assert layout.rollout.gpus == 8
    assert "launch.rollout_nodes=1" in found.as_json([])["derived"]


def test_engines_inside_the_training_processes_share_their_memory() -> None:
    apart = decided("recipe=smoke", "model=qwen3_1_7b", "cluster=h100", "rollout=vllm_server")
    inside = decided("recipe=smoke", "model=qwen3_1_7b", "cluster=h100")
    room = [
        next(role for role in found.plan.stages[1].roles if role.name == "train").available for found in (apart, inside)
    ]
    weights = 4 * apart.plan.shape.total
    assert room[0] - room[1] == pytest.approx(weights, rel=0.01)


def test_rollouts_ahead_of_training_overlap_with_it() -> None:
    words = ("recipe=smoke", "cluster=h100", "rollout=vllm_server", "launch=torchrun", "launch.processes=4",
             "rollout.replicas=4")  # fmt: skip
    alone, ahead = (decided(*words, *more).plan.stages[1].seconds for more in ((), ("stages.if_rl.max_staleness=1",)))
    assert ahead.total == pytest.approx(max(ahead.generation + ahead.verification, ahead.training) + ahead.publishing)
    assert ahead.total < alone.total


def test_lengths_and_prices_of_the_recipe_count() -> None:
    dear = decided("recipe=smoke", "cluster=h100", "cluster.price_per_gpu_hour=2.5").plan
    assert dear.cost_usd == pytest.approx(2.5 * dear.gpu_hours)
    assert decided("recipe=smoke", "cluster=h100", "cluster.price_per_gpu_hour=0.0").plan.cost_usd is None
    longer = decided("recipe=smoke", "cluster=h100", "planning.completion_tokens.math=6").plan
    assert longer.stages[2].work.completion_tokens == pytest.approx(6 * 16)
    assert dear.stages[2].work.completion_tokens == pytest.approx(0.35 * 6 * 16, rel=0.1)


@pytest.mark.parametrize(
    "words",
    [
        ("recipe=smoke", "cluster=cpu"),
        ("recipe=smoke", "cluster=h100", "cluster.gpus_per_node=1"),
        ("recipe=smoke", "cluster=h100", "cluster.gpus_per_node=1", "rollout=vllm_server"),
        ("recipe=smoke", "model=llama_3_2_1b", "cluster=a10g", "cluster.nodes=3", "rollout=vllm_server"),
        ("recipe=quickstart", "model=nemotron_3_nano_30b_a3b", "cluster=b200", "cluster.nodes=8"),
    ],
)
def test_odd_pairs_are_planned(words: tuple[str, ...]) -> None:
    plan = plan_of(*words)
    assert plan["stages"]
    assert plan["gpu_hours"] > 0
    assert plan["fits"] or plan["problems"]


def test_too_few_accelerators_are_a_problem_of_the_cluster() -> None:
    plan = plan_of("recipe=smoke", "cluster=h100", "cluster.gpus_per_node=1", "rollout=vllm_server")
    assert not plan["fits"]
    assert plan["problems"][0]["role"] == "cluster"
    assert plan["problems"][0]["change"] == ["cluster.nodes=2"]


def test_a_cluster_of_ones_own_is_read_from_a_file(tmp_path: Path) -> None:
    text = (REPOSITORY / "conf" / "cluster" / "h100.yaml").read_text().replace("gpus_per_node: 8", "gpus_per_node: 4")
    (tmp_path / "mine.yaml").write_text(text)
    asked = case("recipe=smoke", f"cluster={tmp_path / 'mine.yaml'}", "cluster.nodes=3")
    assert (asked.cluster.gpus_per_node, asked.cluster.nodes) == (4, 3)
    with pytest.raises(ConfigError, match="Did you mean `h100`"):
        case("recipe=smoke", "cluster=h10")


def test_a_change_of_sharding_is_planned_though_the_recipe_has_one_process() -> None:
    done = cascade_here("plan", *SMOKE_8B, "policy.sequence_parallel=4", "policy.dtype=bf16")
    assert done.returncode == 0, done.stderr
    assert "derived" in done.stdout
    assert "sequence parallel 4" in done.stdout


def test_without_a_cluster_there_is_no_json() -> None:
    done = cascade_here("plan", "recipe=smoke", "--json")
    assert done.returncode == 1
    assert "cluster=h100" in done.stderr


def test_a_case_needs_a_cluster() -> None:
    asked = case(*SMOKE_8B)
    asked.recipe.cluster = None
    with pytest.raises(ConfigError, match="none is named"):
        Case.of(asked.recipe, asked.order, asked.shape)
