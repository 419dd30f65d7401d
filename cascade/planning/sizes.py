"""Units of the planner: bytes of a number in each dtype, and bytes of a GiB."""

from __future__ import annotations

GIB = 2**30
"""Bytes of a GiB. Memory is counted in bytes everywhere and turned into GiB where it is printed."""

DTYPE_BYTES = {"fp32": 4, "float32": 4, "bf16": 2, "bfloat16": 2, "fp16": 2, "fp8": 1}
"""Bytes of one number."""


def gib(size: float) -> float:
    """Bytes as GiB."""
    return size / GIB
