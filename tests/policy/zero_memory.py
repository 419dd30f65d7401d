"""Run by torchrun: host memory that each process takes while a checkpoint is loaded, whole or straight into shards.

torchrun --nproc_per_node N tests/policy/zero_memory.py MODEL OUT whole|shards
"""

from __future__ import annotations

import json
import sys
import threading
from pathlib import Path

from cascade import parallel
from cascade.config import PolicyConfig
from cascade.ending import Ending
from cascade.models.loading import load_model
from cascade.policy.deepspeed import loaded


def memory_mib(kind: str) -> float:
    """`RssAnon`: of this process alone; `RssFile`: pages of files, which processes share and the kernel takes back."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(kind)) / 1024


class Peak(threading.Thread):
    """The largest value of anonymous memory, looked at every 2 ms."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.value, self._done = 0.0, threading.Event()

    def run(self) -> None:
        while not self._done.wait(0.002):
            self.value = max(self.value, memory_mib("RssAnon"))

    def stop(self) -> float:
        self._done.set()
        self.join()
        return max(self.value, memory_mib("RssAnon"))


def main() -> None:
    """Writes peak and remaining growth of every process, in MiB."""
    folder, out, way = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
    loaded(object, PolicyConfig(zero_stage=0))  # imports and the process group are there before anything is measured
    before, peak = memory_mib("RssAnon"), Peak()
    peak.start()
    config = PolicyConfig(zero_stage=3 if way == "shards" else 0, dtype="fp32")
    model = loaded(lambda: load_model(folder, config), config)
    grown = {"peak": peak.stop() - before, "left": memory_mib("RssAnon") - before, "files": memory_mib("RssFile")}
    grown = {name: round(value) for name, value in grown.items()}
    found = parallel.gather(grown)
    if parallel.rank() == 0:
        elements = sum(getattr(own, "ds_numel", own.numel()) for own in model.parameters())
        largest = max(getattr(own, "ds_numel", own.numel()) for own in model.parameters())
        mib = {"model": elements * 4 >> 20, "largest": largest * 4 >> 20}
        out.write_text(json.dumps({"processes": found, **mib}))


if __name__ == "__main__":
    with Ending():
        main()
