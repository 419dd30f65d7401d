"""Memory and time of log-probs and their gradients: Cascade's chunks beside two plain ways to compute the same.

python benchmarks/logprobs.py [--tokens 1024] [--hidden 256] [--chunk 256] [--rounds 3] [--json FILE]

Each figure is a forward and a backward pass over the LM head alone, with one loss weight a token. Memory is the growth
of the peak resident set over that of the inputs, in a fresh process for each. Seconds, by the clock and of the
processors, are medians of rounds in which the ways take turns, so that what else the machine does meets all of them.
Prints a table and one JSON line.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch.utils.checkpoint import checkpoint

from cascade.models.logprobs import ChunkedLogProbs

VOCABULARIES = (49_152, 131_072)  # SmolLM2; Nemotron 3 Nano
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
Way = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, int], torch.Tensor]


@dataclass(frozen=True)
class Case:
    """Inputs of one comparison."""

    vocabulary: int
    dtype: str
    tokens: int
    hidden: int
    chunk: int

    def inputs(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """hidden [N, D], weight [V, D], ids [N, 1], loss weights [N, 1]; the same for every way."""
        generator = torch.Generator().manual_seed(0)
        kind = DTYPES[self.dtype]
        hidden = torch.randn(self.tokens, self.hidden, generator=generator).to(kind).requires_grad_()
        weight = torch.randn(self.vocabulary, self.hidden, generator=generator).mul_(self.hidden**-0.5).to(kind)
        ids = torch.randint(0, self.vocabulary, (self.tokens, 1), generator=generator)
        return hidden, weight.requires_grad_(), ids, torch.randn(self.tokens, 1, generator=generator)


def naive(hidden: torch.Tensor, weight: torch.Tensor, ids: torch.Tensor, _chunk: int) -> torch.Tensor:
    """log_softmax and gather over all tokens at once."""
    return torch.log_softmax((hidden @ weight.t()).float(), -1).gather(1, ids)


def checkpointed(hidden: torch.Tensor, weight: torch.Tensor, ids: torch.Tensor, chunk: int) -> torch.Tensor:
    """The naive way chunk by chunk, each recomputed in the backward pass by torch."""
    parts = zip(hidden.split(chunk), ids.split(chunk), strict=True)
    return torch.cat([checkpoint(naive, part, weight, at, chunk, use_reentrant=False) for part, at in parts])  # type: ignore[misc]


def cascade(hidden: torch.Tensor, weight: torch.Tensor, ids: torch.Tensor, chunk: int) -> torch.Tensor:
    """Cascade's: entropies come with it."""
    return ChunkedLogProbs.apply(hidden, weight, ids, 1.0, chunk)[0]


WAYS: dict[str, Way] = {"naive": naive, "checkpoint": checkpointed, "cascade": cascade}


def peak_mib(way: str, case: Case) -> float:
    """Run in a process of its own: the peak of the resident set over what it was before the first pass."""
    hidden, weight, ids, upstream = case.inputs()
    Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten (Linux, proc(5))
    before = _resident_mib("VmRSS")
    (WAYS[way](hidden, weight, ids, case.chunk) * upstream).sum().backward()
    return _resident_mib("VmHWM") - before


def _resident_mib(field: str) -> float:
    """Of /proc/self/status; `getrusage` would tell the peak of the parent process, where that is larger."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) / 1024


def seconds(case: Case, rounds: int) -> dict[str, tuple[float, float]]:
    """Medians by the clock and of the processors for every way; they take turns, and a first round is not counted."""
    hidden, weight, ids, upstream = case.inputs()
    found: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS}
    for _ in range(rounds + 1):
        for name, way in WAYS.items():
            hidden.grad = weight.grad = None
            started, used = time.perf_counter(), time.process_time()
            (way(hidden, weight, ids, case.chunk) * upstream).sum().backward()
            found[name].append((time.perf_counter() - started, time.process_time() - used))
    medians = {
        name: [statistics.median(each) for each in zip(*times[1:], strict=True)] for name, times in found.items()
    }
    return {name: (clock, processors) for name, (clock, processors) in medians.items()}


def measured_apart(way: str, case: Case) -> float:
    """`peak_mib` in a fresh process."""
    command = [sys.executable, __file__, "--peak", way, "--case", json.dumps(asdict(case))]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    """All vocabularies and types."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("tokens", 1024), ("hidden", 256), ("chunk", 256), ("rounds", 3)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--json", type=Path, help="write the JSON line here too")
    parser.add_argument("--peak", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--case", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.peak:
        print(peak_mib(asked.peak, Case(**json.loads(asked.case))))
        return
    rows = []
    print(f"{'vocabulary':>10} {'dtype':>5} {'way':>10} {'peak MiB':>9} {'seconds':>8} {'CPU s':>7}", flush=True)
    for vocabulary in VOCABULARIES:
        for dtype in DTYPES:
            case = Case(vocabulary, dtype, asked.tokens, asked.hidden, asked.chunk)
            peaks = {way: measured_apart(way, case) for way in WAYS}
            for way, (clock, used) in seconds(case, asked.rounds).items():
                times = {"seconds": round(clock, 2), "cpu_seconds": round(used, 2)}
                rows.append({**asdict(case), "way": way, "peak_mib": round(peaks[way]), **times})
                print(
                    f"{vocabulary:>10} {dtype:>5} {way:>10} {peaks[way]:>9.0f} {clock:>8.2f} {used:>7.2f}", flush=True
                )
    line = json.dumps({"threads": torch.get_num_threads(), "torch": torch.__version__, "rows": rows})
    print(line)
    if asked.json:
        asked.json.write_text(line + "\n")


if __name__ == "__main__":
    main()
