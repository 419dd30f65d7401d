"""Measures the rollout engines side by side: sampling, publishing, and what sampling ahead of training gains.

    python benchmarks/rollout.py --models tiny data/models/SmolLM2-135M-Instruct

Every round asks every engine for the same prompts with the same limits, which are drawn from a log-normal distribution
as lengths of answers are. Medians over rounds; prints tables and one line of JSON. Take a machine that does nothing
else. Each engine has one thread.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
from transformers import AutoTokenizer

from cascade import parallel
from cascade.compose import load_recipe
from cascade.config import PolicyConfig, Recipe
from cascade.data.tokenizers import load_tokenizer
from cascade.models.loading import load_model
from cascade.ports import RolloutEngine
from cascade.rollout.hf import HfRolloutEngine
from cascade.rollout.vllm_inprocess import VllmInProcessEngine
from cascade.rollout.vllm_server import VllmServerEngine
from cascade.run_folder import RunFolder
from cascade.stages.base import prepare_base
from cascade.types import Prompt, Row

GROUP = 8  # samples of a prompt
MEDIAN_TOKENS, SIGMA = 40, 0.8  # of the log-normal distribution of completion limits
LONGEST = 160
MIB = 2**20


@dataclass(frozen=True)
class Model:
    """What is sampled from."""

    name: str
    folder: Path
    policy: PolicyConfig
    prompts: int

    def tokenizer(self) -> Any:
        return AutoTokenizer.from_pretrained(self.folder)


class Weights:
    """A model's own weights, to be published again and again."""

    def __init__(self, model: Model) -> None:
        self.model = load_model(model.folder, model.policy)

    def weights(self) -> Iterator[tuple[str, torch.Tensor]]:
        yield from ((name, parameter.detach()) for name, parameter in self.model.named_parameters())
        persistent = set(self.model.state_dict(keep_vars=True))
        yield from ((name, buffer) for name, buffer in self.model.named_buffers() if name in persistent)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="*", default=["tiny"], help="`tiny`, Hugging Face folders, or none")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dtype", choices=["fp32", "bf16"], default="fp32", help="of folders; `tiny` is fp32")
    options = parser.parse_args()
    parallel.start(1)
    results: dict[str, Any] = {"rounds": options.rounds, "dtype": options.dtype, "models": {}}
    with tempfile.TemporaryDirectory() as scratch:
        for name in options.models:
            model = tiny(Path(scratch)) if name == "tiny" else folder(Path(name), options.dtype)
            results["models"][model.name] = measured(model, options.rounds, Path(scratch) / model.name)
        results["overlap"] = {
            engine: overlap(engine, Path(scratch), options.rounds) for engine in ("vllm_server", "hf")
        }
    print(json.dumps(results))


def tiny(scratch: Path) -> Model:
    """The quick start's mixture of experts, untrained."""
    recipe, _ = load_recipe("quickstart", [f"run_dir={scratch / 'base'}"])
    run = RunFolder(Path(recipe.run_dir))
    base = prepare_base(recipe, run, load_tokenizer(recipe.model))
    return Model("tiny-moe", run.path / base.path, recipe.policy, 24)


def folder(path: Path, dtype: str) -> Model:
    return Model(path.name, path, PolicyConfig(dtype=dtype, row_tokens=512), 6)  # type: ignore[arg-type]


def measured(model: Model, rounds: int, scratch: Path) -> dict[str, Any]:
    """Sampling and publishing of one model by all engines."""
    rollout = base_recipe().rollout
    tokenizer = model.tokenizer()
    server = VllmServerEngine(model.policy, with_keys(rollout, transport="shm"), tokenizer, scratch / "shm")
    engines: dict[str, RolloutEngine] = {
        "hf": HfRolloutEngine(model.policy, rollout, tokenizer),
        "vllm_inprocess": VllmInProcessEngine(model.policy, rollout, tokenizer),
        "vllm_server": server,
    }
    for engine in engines.values():
        engine.load(model.folder)
    try:
        sampling = sampled(engines, model, rounds)
        publishing = published(engines, model, rounds)
    finally:
        for engine in engines.values():
            engine.close()
    for transport in ("disk", "gloo"):
        keys = with_keys(rollout, transport=transport)
        with closing(VllmServerEngine(model.policy, keys, tokenizer, scratch / transport)) as engine:
            engine.load(model.folder)
            publishing |= published({f"vllm_server, {transport}": engine}, model, rounds)
    table(f"{model.name}, {model.policy.dtype}: sampling", ["tokens a CPU-second", "tokens a second"], sampling)
    table(f"{model.name}: publishing", ["seconds", "times a plain copy"], publishing)
    return {"sampling": sampling, "publishing": publishing}


def sampled(engines: Mapping[str, RolloutEngine], model: Model, rounds: int) -> dict[str, list[float]]:
    """Engine -> median tokens a CPU-second and a second."""
    rng = random.Random(0)
    vocabulary = len(model.tokenizer())
    figures: dict[str, list[tuple[float, float]]] = {name: [] for name in engines}
    for number in range(rounds + 1):  # the first one warms up
        prompts = [
            Prompt(
                Row(f"{number}/{i}", "math", "bench", {}), tuple(rng.choices(range(vocabulary), k=rng.randint(8, 48)))
            )
            for i in range(model.prompts)
        ]
        limits = [max(4, min(LONGEST, round(rng.lognormvariate(0.0, SIGMA) * MEDIAN_TOKENS))) for _ in prompts]
        for name, engine in engines.items():
            cpu, wall = cpu_seconds(), time.monotonic()
            groups = engine.generate(prompts, GROUP, 1.0, limits, number)
            cpu, wall = cpu_seconds() - cpu, time.monotonic() - wall
            tokens = sum(len(rollout.token_ids) for group in groups for rollout in group)
            if number:
                figures[name].append((tokens / cpu, tokens / wall))
    return {name: [statistics.median(column) for column in zip(*rows, strict=True)] for name, rows in figures.items()}


def published(engines: Mapping[str, RolloutEngine], model: Model, rounds: int) -> dict[str, list[float]]:
    """Engine -> median seconds of a publish, and how many times a plain copy of the same bytes that is."""
    weights = Weights(model)
    figures: dict[str, list[tuple[float, float]]] = {name: [] for name in engines}
    for number in range(1, rounds + 2):
        for name, engine in engines.items():
            began = time.monotonic()
            copies = [tensor.clone() for _, tensor in weights.weights()]
            copying = time.monotonic() - began
            del copies
            seconds = engine.publish(weights, number)["publish/seconds"]  # type: ignore[arg-type]
            if number > 1:
                figures[name].append((seconds, seconds / copying))
    return {name: [statistics.median(column) for column in zip(*rows, strict=True)] for name, rows in figures.items()}


def overlap(engine: str, scratch: Path, rounds: int) -> dict[str, list[float]]:
    """Staleness -> median seconds a step of an RL stage whose sampling is about as long as its training."""
    import subprocess
    import sys

    steps = 4 + 2 * rounds
    figures: dict[str, list[float]] = {"0": [], "1": []}
    for attempt in range(2):
        for staleness in figures:
            run = scratch / f"overlap_{engine}_{staleness}_{attempt}"
            words = [
                "recipe=smoke", f"run_dir={run}", f"rollout={engine}",
                "~stages.mopd", "~stages.math_teacher", "stages.sft.max_steps=1",
                f"stages.if_rl.max_steps={steps}", "stages.if_rl.prompts_per_step=48", "stages.if_rl.num_generations=8",
                "stages.if_rl.dynamic_filtering=false", "stages.if_rl.kl_coef=0.01", "stages.if_rl.save_steps=1000",
                f"stages.if_rl.max_staleness={staleness}", "launch.threads=1", "rollout.canary_every=0",
            ]  # fmt: skip
            subprocess.run([sys.executable, "-m", "cascade", "run", *words], check=True, stdout=subprocess.DEVNULL)
            lines = (run / "stages" / "if_rl" / "metrics.jsonl").read_text().splitlines()
            figures[staleness] += [json.loads(line)["step_time"] for line in lines[2:-1]]
    found = {staleness: [statistics.median(times)] for staleness, times in figures.items()}
    found["gain"] = [found["0"][0] / found["1"][0]]
    table(f"max_staleness, {engine}, one thread for each side", ["seconds a step"], found)
    return found


def cpu_seconds() -> float:
    """Of this process and all below it."""
    here = psutil.Process()
    return sum(sum(process.cpu_times()[:2]) for process in (here, *here.children(recursive=True)))


def base_recipe() -> Recipe:
    return load_recipe("smoke", [])[0]


def with_keys(config: Any, **keys: Any) -> Any:
    from dataclasses import replace

    return replace(config, max_model_len=256, **keys)


def table(title: str, columns: Sequence[str], rows: Mapping[str, Sequence[float]]) -> None:
    width = max(len(name) for name in rows)
    print(f"\n{title}\n{'':<{width}}  " + "  ".join(f"{column:>20}" for column in columns))
    for name, values in rows.items():
        print(f"{name:<{width}}  " + "  ".join(f"{value:>20.3f}" for value in values), flush=True)


if __name__ == "__main__":
    main()
