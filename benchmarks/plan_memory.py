"""Holds the planner's memory against memory that training really takes, on this machine's CPU.

    python benchmarks/plan_memory.py                  # every configuration, a table
    python benchmarks/plan_memory.py --phases dense   # one of them, phase by phase

Each configuration is trained for two steps by the engine that trains recipes, in processes of its own. Measured is what
the peak of a process's resident memory (VmHWM) rose by from the moment at which everything was imported and the process
group stood; of several processes the largest. Pages of the checkpoint's file that stay mapped are not counted, they are
the system's cache. glibc and oneDNN are told to give memory back when it is freed, so that what is measured is what is
held.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

GIVEN_BACK = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": "65536",
    "MALLOC_TRIM_THRESHOLD_": "65536",
    "MALLOC_TOP_PAD_": "0",
    "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "1",  # else code stays for every number of tokens that an expert ever got
}
ROOT = Path(__file__).resolve().parent.parent
MIB = 2**20
DONE = "MEASURED "


@dataclass(frozen=True)
class Case:
    """A model, how it is trained, and on how many documents of how many tokens by how many processes."""

    architecture: str
    config: Mapping[str, Any]
    policy: Mapping[str, Any]
    processes: int = 1
    documents: int = 4
    tokens: int = 512
    freeze_router: bool = False


COMMON = {"num_attention_heads": 12, "num_key_value_heads": 4, "head_dim": 64, "vocab_size": 8192}
LLAMA = {**COMMON, "hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 8, "tie_word_embeddings": True}
QWEN_MOE = {
    **COMMON,
    "hidden_size": 512,
    "num_hidden_layers": 4,
    "num_experts": 16,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 768,
    "intermediate_size": 1024,
    "norm_topk_prob": True,
}
HYBRID = {
    **COMMON,
    "hidden_size": 512,
    "hybrid_override_pattern": "MEM*EME",
    "mamba_num_heads": 16,
    "mamba_head_dim": 64,
    "n_groups": 4,
    "ssm_state_size": 64,
    "chunk_size": 64,
    "n_routed_experts": 16,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 768,
    "moe_shared_expert_intermediate_size": 1024,
}
BF16, FP32 = {"dtype": "bf16", "row_tokens": 1024}, {"dtype": "fp32", "row_tokens": 1024}
# Mixtures of experts in fp32 only: torch's bf16 kernels for CPUs keep machine code for every number of tokens that an
# expert ever got (0.1 GiB a step here), which is no property of the model and does not exist on GPUs.
CASES = {
    "smallest": Case("llama", {**LLAMA, "num_hidden_layers": 6}, {**BF16, "zero_stage": 1}, documents=1),
    "dense": Case("llama", LLAMA, {**BF16, "zero_stage": 1}),
    "dense fp32": Case("llama", LLAMA, {**FP32, "zero_stage": 0}),
    "dense, 2 processes": Case("llama", LLAMA, {**BF16, "zero_stage": 2}, processes=2, documents=8),
    "dense, checkpointing, 2 processes": Case(
        "qwen3",
        {**LLAMA, "num_hidden_layers": 14, "vocab_size": 16384},
        {**BF16, "zero_stage": 3, "activation_checkpointing": True},
        processes=2,
        documents=8,
    ),
    "experts fp32": Case("qwen3_moe", QWEN_MOE, {**FP32, "zero_stage": 1}, freeze_router=True),
    "experts fp32, 2 processes": Case("qwen3_moe", QWEN_MOE, {**FP32, "zero_stage": 3}, processes=2, documents=8),
    "hybrid fp32": Case("nemotron_h", HYBRID, {**FP32, "zero_stage": 2, "packing": False}),
    "hybrid fp32, checkpointing": Case(
        "nemotron_h", HYBRID, {**FP32, "zero_stage": 1, "activation_checkpointing": True}
    ),
}


def predict(case: Case, *, row: int, micro_batches: int) -> dict[str, dict[str, int]]:
    """The planner's phases, each as kind -> bytes, for rows as long as they were."""
    from cascade.config import ModelConfig, PolicyConfig
    from cascade.planning.memory import training_phases
    from cascade.planning.shapes import model_shape
    from cascade.planning.training_states import CPU

    model = ModelConfig(path="not/there", architecture=case.architecture, config=dict(case.config))
    return training_phases(
        model_shape(model),
        PolicyConfig(**case.policy),
        ranks=case.processes,
        freeze_router=case.freeze_router,
        row_tokens=row,
        micro_batches=micro_batches,
        machine=CPU,
    )


def compare(name: str) -> dict[str, Any]:
    """Trains a configuration; what was predicted and measured, in bytes."""
    case = CASES[name]
    with tempfile.TemporaryDirectory() as folder:
        found = run(name, Path(folder))
    largest = max(found, key=lambda one: max(one["peaks"].values()))
    phases = predict(case, row=largest["row"], micro_batches=largest["micro_batches"])
    phase = max(phases, key=lambda phase: sum(phases[phase].values()))
    return {
        "name": name,
        "parameters": largest["parameters"],
        "measured": max(largest["peaks"].values()),
        "predicted": sum(phases[phase].values()),
        "phase": phase,
        "kinds": phases[phase],
        "phases": {name: sum(kinds.values()) for name, kinds in phases.items()},
        "peaks": largest["peaks"],
    }


def run(name: str, folder: Path) -> list[dict[str, Any]]:
    """Trains a configuration in processes of its own; what each of them measured. Raises `RuntimeError`."""
    case = CASES[name]
    environment = {name: value for name, value in os.environ.items() if "RANK" not in name and "WORLD" not in name}
    environment |= {**GIVEN_BACK, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "DS_ACCELERATOR": "cpu"}
    environment |= {"HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    words = [__file__, "--measure", name, "--folder", str(folder)]
    if case.processes > 1:
        words = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(case.processes), *words]
    done = subprocess.run([sys.executable, *words], env=environment, capture_output=True, text=True, timeout=900)
    lines = [part.splitlines()[0] for part in done.stdout.split(DONE)[1:]]  # two processes may share a line
    if len(lines) != case.processes:
        raise RuntimeError(f"{name} failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    return [json.loads(line) for line in lines]


def measure(case: Case, folder: Path) -> None:
    """In a process of its own: trains, and prints how memory grew in each phase as a line of JSON."""
    import torch

    from cascade import parallel
    from cascade.config import PolicyConfig, SftStage
    from cascade.policy.deepspeed import DeepSpeedPolicy

    parallel.start(threads=1)
    policy = PolicyConfig(**case.policy)
    stage = SftStage(mix={"math": 1.0}, max_steps=2, learning_rate=1e-4)
    parallel.on_first(lambda: write_model(case, folder))
    warm = torch.randn(64, 64, requires_grad=True)
    (warm @ warm).sum().backward()
    batches = micro_batches_of(case, policy)
    parallel.barrier()
    before, files, peaks = status("VmRSS"), status("RssFile"), {}

    def phase(name: str) -> None:
        known = before + max(0, status("RssFile") - files)
        peaks[name] = max(peaks.get(name, 0), status("VmHWM") - known)
        peaks[f"after {name}"] = status("VmRSS") - known
        forget_peak()

    forget_peak()
    engine = DeepSpeedPolicy(folder, policy, stage, freeze_router=case.freeze_router)
    phase("start")
    for step in range(2):
        for number, batch in enumerate(batches):
            log_probs, _ = engine.log_probs(batch)
            phase(f"step {step} forward {number}")
            engine.backward(-(log_probs * batch.token_weight).sum())
            phase(f"step {step} backward {number}")
            del log_probs
        engine.step(1e-4)
        phase(f"step {step} optimizer")
    parameters = sum(getattr(part, "ds_numel", part.numel()) for part in engine.model.parameters())
    found = {"parameters": parameters, "micro_batches": len(batches), "row": batches[0].input_ids.shape[1]}
    print(DONE + json.dumps({**found, "peaks": peaks}), flush=True)


def write_model(case: Case, folder: Path) -> None:
    """An untrained model in its policy's dtype; a process that wrote it has given that memory back."""
    import torch
    from transformers import AutoModelForCausalLM

    from cascade.models.loading import DTYPES, config_of_keys

    torch.manual_seed(0)
    config = config_of_keys(case.architecture, case.config)
    AutoModelForCausalLM.from_config(config, dtype=DTYPES[case.policy["dtype"]]).save_pretrained(folder)


def micro_batches_of(case: Case, policy: Any) -> list[Any]:
    """This process's micro-batches of random documents, all tokens but the first in the loss."""
    import torch

    from cascade import parallel
    from cascade.data.packing import pack
    from cascade.types import TrainingSequence

    torch.manual_seed(1)
    drawn = torch.randint(0, case.config["vocab_size"], (case.documents, case.tokens)).tolist()
    documents = [TrainingSequence(tuple(tokens), (0,) + (1,) * (case.tokens - 1)) for tokens in drawn]
    return pack(
        documents,
        [1 / (case.documents * case.tokens)] * case.documents,
        row_tokens=policy.row_tokens,
        rows_per_batch=policy.rows_per_micro_batch,
        ranks=parallel.world_size(),
        rank=parallel.rank(),
        pad_id=0,
        one_per_row=not policy.packing,
    )


def status(key: str) -> int:
    """Bytes of `VmRSS`, this process's resident memory, `RssFile`, the mapped files in it, or `VmHWM`, its peak."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key))
    return int(line.split()[1]) * 1024


def forget_peak() -> None:
    """From here on VmHWM is the peak since here (proc(5), clear_refs)."""
    Path("/proc/self/clear_refs").write_text("5")


def show(found: Mapping[str, Any], phases: bool) -> None:
    """A row of the table, and what is behind it."""
    off = found["predicted"] / found["measured"] - 1
    print(
        f"| {found['name']} | {found['parameters'] / 1e6:.0f} M | {found['measured'] / MIB:,.0f} | "
        f"{found['predicted'] / MIB:,.0f} | {off:+.1%} | {found['phase']} |",
        flush=True,
    )
    if phases:
        for name, size in [*found["peaks"].items(), *found["phases"].items(), *found["kinds"].items()]:
            print(f"    {name:28} {size / MIB:8,.0f} MiB")


def main() -> None:
    """See the top of the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", help=f"of {', '.join(CASES)}; default: all")
    parser.add_argument("--phases", action="store_true", help="show every phase measured and predicted")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    words = parser.parse_args()
    if words.measure:
        measure(CASES[words.measure], Path(words.folder))
        return
    print("| configuration | parameters | measured, MiB | predicted, MiB | off by | at the peak |")
    print("|---|---|---|---|---|---|")
    for name in words.cases or CASES:
        show(compare(name), words.phases)


if __name__ == "__main__":
    main()
