"""Holds the planner's training time against the time that training really takes, on this machine's CPU.

    python benchmarks/plan_time.py            # every configuration, a table
    python benchmarks/plan_time.py moe        # one of them

Every process first measures what its core can do (products of matrices, reading and writing memory, starting small
kernels), then trains with the engine that trains recipes. Seconds are those of the process on its core, so that other
programs on the machine count little; of several processes the slowest counts. Both sides are medians: of the steps, and
of the measurements before and after them.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from plan_memory import DONE, HYBRID, LLAMA, QWEN_MOE, ROOT, Case, micro_batches_of, write_model

STEPS = 5
FP32 = {"dtype": "fp32", "row_tokens": 512, "zero_stage": 1}
SMALL = {**LLAMA, "hidden_size": 384, "intermediate_size": 1024, "num_hidden_layers": 4, "num_attention_heads": 6,
         "num_key_value_heads": 2}  # fmt: skip
CASES = {
    "dense": Case("llama", {**LLAMA, "num_hidden_layers": 4}, FP32, documents=2, tokens=512),
    "short rows": Case("llama", SMALL, {**FP32, "row_tokens": 128, "rows_per_micro_batch": 2}, documents=8, tokens=128),
    "checkpointed": Case(
        "llama", SMALL, {**FP32, "row_tokens": 1024, "activation_checkpointing": True}, documents=2, tokens=1024
    ),
    "moe": Case("qwen3_moe", QWEN_MOE, FP32, documents=2, tokens=512),
    "hybrid": Case("nemotron_h", HYBRID, {**FP32, "packing": False}, documents=2, tokens=512),
    "two processes": Case("llama", SMALL, {**FP32, "zero_stage": 2}, documents=4, tokens=512, processes=2),
}


def rate(work: Callable[[], Any], amount: float, rounds: int = 7) -> float:
    """What a second of this process's core does of `amount` a call: the median of some rounds."""
    work()
    found = []
    for _ in range(rounds):
        started, calls = time.process_time(), 0
        while time.process_time() - started < 0.05:
            work()
            calls += 1
        found.append(calls * amount / (time.process_time() - started))
    return statistics.median(found)


def probe() -> dict[str, float]:
    """What a core reaches: operations a second, bytes a second, seconds a small kernel."""
    import torch

    left, right = torch.randn(512, 512), torch.randn(512, 1536)
    one, other, out = (torch.randn(1 << 20) for _ in range(3))
    small = torch.randn(8, 8, requires_grad=True)

    def kernels() -> None:
        value = small
        for _ in range(50):
            value = value * 1.01
        value.sum()

    with torch.no_grad():
        flops = rate(lambda: left @ right, 2.0 * 512 * 512 * 1536)
        moved = rate(lambda: torch.add(one, other, out=out), 3.0 * 4 * (1 << 20))
    return {"flops": flops, "bytes_s": moved, "kernel_s": 1 / rate(kernels, 51.0)}


def measure(case: Case, folder: Path) -> None:
    """In a process of its own: what its core can do, and seconds of every step, as a line of JSON."""
    from cascade import parallel
    from cascade.config import PolicyConfig, SftStage
    from cascade.policy.deepspeed import DeepSpeedPolicy

    parallel.start(threads=1)
    policy, stage = PolicyConfig(**case.policy), SftStage(mix={"math": 1.0}, max_steps=2, learning_rate=1e-4)
    parallel.on_first(lambda: write_model(case, folder))
    engine = DeepSpeedPolicy(folder, policy, stage, freeze_router=False)
    batches, probes, seconds = micro_batches_of(case, policy), [probe()], []
    for _ in range(STEPS + 1):
        parallel.barrier()
        started = time.process_time()
        for batch in batches:
            log_probs, _ = engine.log_probs(batch)
            engine.backward(-(log_probs * batch.token_weight).sum())
        engine.step(1e-4)
        seconds.append(time.process_time() - started)
    probes.append(probe())
    reached = {name: statistics.median(one[name] for one in probes) for name in probes[0]}
    print(DONE + json.dumps({"seconds": statistics.median(seconds[1:]), "probe": reached}), flush=True)


def predict(case: Case, reached: Mapping[str, float]) -> float:
    """The planner's seconds for a step on cores like this one."""
    from cascade.config import ClusterConfig, ModelConfig, PolicyConfig
    from cascade.planning.flops import Documents
    from cascade.planning.shapes import model_shape
    from cascade.planning.throughput import training_time
    from cascade.planning.workload import StageWork

    shape = model_shape(ModelConfig(path="here", architecture=case.architecture, config=dict(case.config)))
    cluster = ClusterConfig(
        gpu="cpu",
        gpus_per_node=case.processes,
        gpu_memory_gib=8.0,
        bf16_tflops=reached["flops"] / 1e12,
        memory_gb_s=reached["bytes_s"] / 1e9,
        intra_node_gb_s=reached["bytes_s"] / 8e9,  # gloo between processes of a machine: copies through memory
        inter_node_gb_s=1.0,
        kernel_us=reached["kernel_s"] * 1e6,
    )
    tokens = case.documents * case.tokens
    work = StageWork(Documents(((float(case.tokens), float(case.documents)),)), case.documents,
                     float(tokens - case.documents), 0.0, float(tokens))  # fmt: skip
    return training_time(shape, PolicyConfig(**case.policy), cluster, work, ranks=case.processes).total


def run(name: str, folder: Path) -> list[dict[str, Any]]:
    """What each process of a configuration measured. Raises `RuntimeError` where one failed."""
    case = CASES[name]
    environment = {key: value for key, value in os.environ.items() if "RANK" not in key and "WORLD" not in key}
    environment |= {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "DS_ACCELERATOR": "cpu"}
    environment |= {"HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    words = [__file__, "--measure", name, "--folder", str(folder)]
    if case.processes > 1:
        words = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(case.processes), *words]
    done = subprocess.run([sys.executable, *words], env=environment, capture_output=True, text=True, timeout=900)
    lines = [line.partition(DONE)[2] for line in done.stdout.splitlines() if DONE in line]
    if len(lines) != case.processes:
        raise RuntimeError(f"{name} failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    return [json.loads(line) for line in lines]


def compare(name: str) -> dict[str, Any]:
    """Measured and predicted seconds of one configuration."""
    with tempfile.TemporaryDirectory() as folder:
        slowest = max(run(name, Path(folder)), key=lambda one: one["seconds"])
    return {
        "name": name,
        "measured": slowest["seconds"],
        "predicted": predict(CASES[name], slowest["probe"]),
        **slowest["probe"],
    }


def main() -> None:
    """See the top of the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", help=f"of {', '.join(CASES)}; default: all")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    words = parser.parse_args()
    if words.measure:
        measure(CASES[words.measure], Path(words.folder))
        return
    print("| configuration | measured, s | predicted, s | off by | core: GFLOP/s, GB/s, us a kernel |")
    print("|---|---|---|---|---|")
    for name in words.cases or CASES:
        found = compare(name)
        off = found["predicted"] / found["measured"] - 1
        core = f"{found['flops'] / 1e9:.0f}, {found['bytes_s'] / 1e9:.1f}, {found['kernel_s'] * 1e6:.1f}"
        print(f"| {name} | {found['measured']:.2f} | {found['predicted']:.2f} | {off:+.0%} | {core} |", flush=True)


if __name__ == "__main__":
    main()
