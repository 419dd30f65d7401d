"""Compiles the DeepSpeed operator that `deepspeed.init_distributed()` loads on a CPU, so that no run waits for it.

Usage: `DS_ACCELERATOR=cpu TORCH_EXTENSIONS_DIR=.venv/torch_extensions .venv/bin/python launch/cpu/build_ops.py`
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path


def main() -> int:
    """Build what is missing; 0 when the operator can be loaded, or is of no use on this platform."""
    from deepspeed.accelerator import get_accelerator

    builder = get_accelerator().create_op_builder("ShareMemCommBuilder")
    if builder is None or not builder.is_compatible():
        print("This platform has no shared-memory operator; DeepSpeed falls back to gloo.")
        return 0
    # A build that was killed leaves its lock behind, and the next one waits for that lock for ever.
    lock = Path(os.environ["TORCH_EXTENSIONS_DIR"]) / builder.name / "lock"
    lock.unlink(missing_ok=True)
    start = time.monotonic()
    builder.load(verbose=False)
    print(f"DeepSpeed operator {builder.name}: ready in {time.monotonic() - start:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
