"""What waits outside the GPU: the sections of the DeepSpeed JSON for optimiser state and parameters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cascade.config import PolicyConfig
from cascade.errors import EngineError


def offload_sections(policy: PolicyConfig) -> tuple[dict[str, Any], dict[str, Any]]:
    """Keys for the JSON, and keys for its `zero_optimization`; none where nothing is offloaded.

    DeepSpeed asks for an Adam of its own beside offload, since torch's used to be slow on CPUs. torch's fused one is
    not, needs nothing compiled, and is the update rule of a run without offload; so it stays, and the engine is told.
    """
    places = {"offload_optimizer": policy.offload_optimizer, "offload_param": policy.offload_parameters}
    sections = {name: _section(place, policy.offload_folder) for name, place in places.items() if place != "none"}
    whole: dict[str, Any] = {}
    if policy.offload_optimizer != "none":
        whole["zero_force_ds_cpu_optimizer"] = False
    if "nvme" in places.values():
        whole["aio"] = {"block_size": 1 << 20, "queue_depth": 16, "overlap_events": True, "single_submit": False}
    return whole, sections


def _section(place: str, folder: str | None) -> dict[str, Any]:
    return {"device": place, "pin_memory": True, **({"nvme_path": folder} if place == "nvme" else {})}


def require_offload(policy: PolicyConfig) -> None:
    """Raises `EngineError` where this machine cannot offload as asked: before weights are loaded."""
    if "nvme" not in (policy.offload_optimizer, policy.offload_parameters):
        return
    from deepspeed.ops.op_builder.async_io import AsyncIOBuilder

    if not AsyncIOBuilder().is_compatible(verbose=False):
        raise EngineError(
            "Offload to NVMe needs DeepSpeed's asynchronous reads and writes, which this machine cannot build.",
            "Install libaio with its headers (Debian: libaio-dev), or set offload to `cpu`.",
        )
    if policy.offload_folder is None or not Path(policy.offload_folder).is_dir():
        raise EngineError(
            f"`policy.offload_folder` is {policy.offload_folder}, which is no folder on this machine.",
            "Name a folder on a fast local disk.",
        )
