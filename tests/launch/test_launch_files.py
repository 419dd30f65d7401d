"""What is written for SLURM and Kubernetes, what `srun` tells a process, and what is refused before anything starts."""

from __future__ import annotations

import functools
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from cascade.commands import checked_recipe
from cascade.config import Recipe
from cascade.errors import ConfigError
from cascade.launching.commands import commands
from cascade.launching.environment import adopt_slurm, host_names, tasks_per_node
from cascade.launching.failures import Failure, first_failure, record
from cascade.launching.kubernetes import manifests
from cascade.launching.slurm import job_script
from cascade.launching.torchrun import torchrun_command

SERVED = ("rollout=vllm_server", "rollout.transport=disk", "rollout.replicas=4", "launch.rollout_nodes=2")
WORDS = ["recipe=smoke", "launch=slurm", "launch.nodes=2", "launch.processes=2"]
KUBERNETES = (
    *("recipe=smoke", "launch=kubernetes", "launch.nodes=2", "launch.processes=2", "run_dir=/shared/smoke"),
    *("launch.kubernetes.image=registry/cascade:1", "launch.kubernetes.volume_claim=data"),
)


@functools.cache
def recipe_of(*words: str) -> Recipe:
    return checked_recipe(words)[0]


def script_of(*more: str) -> str:
    words = [*WORDS, *more]
    return job_script(recipe_of(*words), words, Path("/home/me/a folder"))


def options_of(script: str) -> list[str]:
    return [line.removeprefix("#SBATCH ") for line in script.splitlines() if line.startswith("#SBATCH")]


def test_the_job_asks_for_what_the_recipe_says_and_runs_the_very_words_that_were_typed() -> None:
    script = script_of(
        *("launch.slurm.partition=gpus", "launch.slurm.gres=gpu:h100", "launch.slurm.time_limit='1-00:00:00'"),
        *("launch.slurm.lines=[--exclusive]", "launch.slurm.setup=['module load cuda']", "run_dir=/data/r"),
    )
    assert options_of(script) == [
        *("--job-name=smoke", "--output=/data/r/launch/logs/job-%j.log", "--open-mode=append", "--requeue"),
        *("--signal=B:USR1@120", "--nodes=2 --ntasks-per-node=2", "--gres=gpu:h100:2", "--partition=gpus"),
        *("--time=1-00:00:00", "--exclusive"),
    ]
    assert "cd '/home/me/a folder' || exit 1\nmodule load cuda\n" in script
    step = script.partition("srun ")[2].partition(" &\n")[0].replace("\\\n", "")
    assert shlex.split(step)[-len(WORDS) - 6 : -6] == WORDS
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)


def test_servers_and_verifiers_are_parts_of_one_heterogeneous_job() -> None:
    more = (*SERVED, "teachers=vllm_server", "launch.teacher_nodes=1", "verifiers=ray", "launch.verifier_nodes=3")
    script = script_of(*more, "rollout.tensor_parallel=2", "launch.slurm.gres=gpu")
    options = options_of(script)
    assert options.count("hetjob") == 3
    assert [option for option in options if option.startswith(("--nodes", "--gres"))] == [
        *("--nodes=2 --ntasks-per-node=2", "--gres=gpu:2"),
        *("--nodes=2 --ntasks-per-node=2", "--gres=gpu:4"),  # two servers a node, of two GPUs each
        *("--nodes=1 --ntasks-per-node=1", "--gres=gpu:2"),
        "--nodes=3 --ntasks-per-node=1",
    ]
    assert [f"--het-group={number}" in script for number in range(5)] == [True] * 4 + [False]
    assert "server_node rollout recipe=smoke" in script
    assert "server_node teachers recipe=smoke" in script
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)


def test_srun_says_which_process_this_is() -> None:
    told = {
        "SLURM_JOB_ID": "7", "SLURM_STEP_ID": "1", "SLURM_STEP_NUM_TASKS": "4", "SLURM_STEP_TASKS_PER_NODE": "3,1",
        "SLURM_STEP_NODELIST": "localhost,n[1-2]", "SLURM_PROCID": "3", "SLURM_LOCALID": "0", "SLURM_NODEID": "1",
    }  # fmt: skip
    derived = dict(told)
    adopt_slurm(derived)
    assert {name: derived[name] for name in derived.keys() - told.keys()} == {
        "RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1", "MASTER_ADDR": "localhost",
        "MASTER_PORT": str(20_000 + 31 * 7 + 1),
    }  # fmt: skip
    nowhere = {**told, "SLURM_STEP_NODELIST": "no-such-node-here[01-02]", "SLURM_LAUNCH_NODE_IPADDR": "10.1.2.3"}
    adopt_slurm(nowhere)
    assert nowhere["MASTER_ADDR"] == "10.1.2.3"
    for other in ({**told, "RANK": "0"}, {**told, "SLURM_STEP_NUM_TASKS": "1"}, {"SLURM_PROCID": "0"}):
        before = dict(other)  # started by torchrun; a shell; a batch script
        adopt_slurm(other)
        assert other == before


def test_slurms_short_forms() -> None:
    assert tasks_per_node("4(x2),3") == [4, 4, 3]
    assert host_names("gpu[01-02,7]-ib,login") == ["gpu01-ib", "gpu02-ib", "gpu7-ib", "login"]


def test_the_objects_of_kubernetes_fit_together() -> None:
    words = [*KUBERNETES, *SERVED, "launch.max_restarts=2"]
    service, train, rollout = yaml.safe_load_all(yaml.safe_dump_all(manifests(recipe_of(*words), words, "a-start")))
    name = service["metadata"]["name"]
    assert service["spec"]["clusterIP"] == "None"
    for job, pods, gpus in ((train, 2, 2), (rollout, 4, 1)):
        spec = job["spec"]
        assert (job["apiVersion"], job["kind"], spec["completionMode"]) == ("batch/v1", "Job", "Indexed")
        assert spec["completions"] == spec["parallelism"] == pods
        template: dict[str, Any] = spec["template"]
        assert service["spec"]["selector"].items() <= template["metadata"]["labels"].items()
        assert template["spec"]["subdomain"] == name
        (container,) = template["spec"]["containers"]
        assert container["resources"] == {"limits": {"nvidia.com/gpu": gpus}}
        assert {mount["name"] for mount in container["volumeMounts"]} == {
            volume["name"] for volume in template["spec"]["volumes"]
        }
        assert container["env"][0] == {"name": "CASCADE_LAUNCH", "value": "a-start"}
        assert container["command"][-len(words) :] == words
    command = train["spec"]["template"]["spec"]["containers"][0]["command"]
    assert command[command.index("--rdzv-endpoint") + 1] == f"{train['metadata']['name']}-0.{name}:29400"
    assert train["spec"]["backoffLimit"] == 4


def test_torchrun_on_several_nodes_meets_at_one_of_them() -> None:
    several = ("recipe=smoke", "launch=torchrun", "launch.nodes=2", "launch.rendezvous=node1:29400")
    launch = recipe_of(*several, "launch.max_restarts=3", "launch.start_timeout_s=60").launch
    assert torchrun_command(launch, ["run", "recipe=smoke"], "python") == shlex.split(
        "python -m torch.distributed.run --nnodes 2 --rdzv-backend c10d --rdzv-endpoint node1:29400 --rdzv-id cascade "
        "--rdzv-conf join_timeout=60 --nproc_per_node 1 --max-restarts 3 -m cascade run recipe=smoke"
    )


def test_a_plan_can_print_the_commands() -> None:
    assert commands(recipe_of("recipe=smoke")) == ["cascade run recipe=smoke"]
    several = ["recipe=smoke", "launch=torchrun", "launch.nodes=2", "launch.rendezvous=node1:29400"]
    said = commands(recipe_of(*several), several)
    assert said[0] == "# on each of 2 nodes, within 600 s of each other"
    assert "doctor --cluster" in said[1]
    assert said[2] == shlex.join(["cascade", "run", *several])
    assert any("sbatch runs/smoke/launch/job.sbatch" in line for line in commands(recipe_of(*WORDS), WORDS))
    applied = commands(recipe_of(*KUBERNETES), KUBERNETES)
    assert applied[-1].endswith("kubectl apply -f smoke.kubernetes.yaml")


def test_the_first_error_is_the_earliest_that_is_no_consequence(tmp_path: Path) -> None:
    assert first_failure(tmp_path) is None
    cause = Failure(3, "node2", 20.0, "OSError: no space left", consequence=False)
    for failure in (
        Failure(0, "node1", 10.0, "rank 3 is lost", consequence=True),
        cause,
        Failure(1, "node1", 30.0, "another", consequence=False),
    ):
        record(tmp_path, failure)
    assert first_failure(tmp_path) == cause
    assert str(cause) == "rank 3 on node2 at 1970-01-01 00:00:20 UTC: OSError: no space left"


REFUSED = {
    "launch.nodes=2": ("`launch.nodes` is 2", "needs launch=torchrun"),
    "launch=torchrun launch.nodes=2": ("`launch.rendezvous` is not set", "HOST:PORT"),
    "launch=torchrun launch.rendezvous=node1:1": ("`launch.rendezvous`", "does nothing"),
    "launch=slurm launch.max_restarts=2": ("`launch.max_restarts`", "does nothing with launch=slurm"),
    "launch.rollout_nodes=1": ("`launch.rollout_nodes` is 1", "launch=inline starts no servers"),
    "launch=slurm launch.rollout_nodes=1": ("`launch.rollout_nodes` is 1", "`rollout` is hf"),
    "launch=slurm rollout=vllm_server launch.rollout_nodes=1": ("`rollout.transport` is shm", "does not leave"),
    "launch=slurm rollout=vllm_server rollout.transport=disk rollout.replicas=3 launch.rollout_nodes=2": (
        "do not divide the 3 servers",
    ),
    "launch=slurm launch.verifier_nodes=1": ("`launch.verifier_nodes` is 1", "needs launch=slurm and verifiers=ray"),
    "launch=slurm launch.slurm.time_limit=tomorrow": ("`launch.slurm.time_limit` is `tomorrow`",),
    "launch=slurm 'launch.slurm.partition=\"a b\"'": ("`launch.slurm.partition` is `a b`", "no word"),
    "launch=kubernetes": ("`launch.kubernetes.image` is not set",),
    "launch=kubernetes launch.kubernetes.image=i launch.kubernetes.volume_claim=v": ("`run_dir` is runs/smoke",),
    "launch=slurm launch.nodes=3": ("3 processes", "do not divide"),
}


@pytest.mark.parametrize("words", REFUSED)
def test_what_cannot_be_started_is_refused_on_any_laptop(words: str) -> None:
    with pytest.raises(ConfigError) as error:
        recipe_of("recipe=smoke", *shlex.split(words))
    for part in REFUSED[words]:
        assert part in str(error.value)
