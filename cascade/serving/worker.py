"""What runs inside vLLM's processes: taking over weights completely or not at all, and dying with the parent.

vLLM loads `register` as a plugin in every one of its processes. The weights arrive over vLLM's own four phases (init,
start, update, finish) in the backend named `cascade`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors import safe_open
from vllm.distributed.utils import stateless_init_torch_distributed_process_group
from vllm.distributed.weight_transfer.base import (
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)
from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory
from vllm.model_executor.layers.attention import is_deferred_attention_layer
from vllm.model_executor.layers.vocab_parallel_embedding import VocabParallelEmbedding
from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload
from vllm.model_executor.model_loader.reload.layerwise import get_layerwise_info
from vllm.model_executor.model_loader.reload.meta import SKIP_LOAD_TENSORS
from vllm.model_executor.model_loader.reload.utils import get_tensor_load_numel

from cascade.errors import EngineError
from cascade.processes import die_with_parent

BACKEND = "cascade"
REPLICA = "CASCADE_REPLICA"
"""Set to 1 in the environment of a server that must not outlive the process that started it."""
DEADLINE = timedelta(minutes=10)  # of joining the trainer's group and of one tensor's broadcast
RESTART = "Restart this replica from the last good weights; it holds a mixture now."

Stream = Iterable[tuple[str, torch.Tensor]]


def register() -> None:
    """The entry point of vLLM's plugin group `vllm.general_plugins`. Idempotent."""
    if os.environ.get(REPLICA) == "1":
        die_with_parent()
    if BACKEND not in WeightTransferEngineFactory._registry:
        WeightTransferEngineFactory.register_engine(BACKEND, CascadeTransfer)


class LogitScale:
    """Worker extension: `collective_rpc("set_logit_scale", args=(factor,))`."""

    def set_logit_scale(self, factor: float) -> None:
        """Multiplies all logits by `factor` (1 over the temperature): prompt log-probs know no temperature."""
        self.model_runner.get_model().logits_processor.scale = float(factor)  # type: ignore[attr-defined]


@dataclass
class InitInfo(WeightTransferInitInfo):
    """How weights will come. `gloo`: the trainer is rank 0 of a group this worker joins."""

    kind: str
    host: str = ""
    port: int = 0
    rank_offset: int = 0
    world_size: int = 0


@dataclass
class UpdateInfo(WeightTransferUpdateInfo):
    """One bucket: safetensors `paths`, `names` to be broadcast in that order, or the tensors themselves."""

    kind: str
    paths: list[str] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    dtypes: list[str] = field(default_factory=list)
    shapes: list[list[int]] = field(default_factory=list)
    weights: list[tuple[str, torch.Tensor]] = field(default_factory=list)


class CascadeTransfer(WeightTransferEngine[InitInfo, UpdateInfo]):
    """The worker's side of a publish; raises `EngineError` unless every weight came exactly once."""

    init_info_cls = InitInfo
    update_info_cls = UpdateInfo

    def __init__(self, config: Any, vllm_config: Any, device: torch.device, model: torch.nn.Module) -> None:
        super().__init__(config, vllm_config, device, model)
        self.group: Any = None
        self.known = _folder_names(self.model_config.model)
        self.tied = bool(getattr(self.model_config.hf_text_config, "tie_word_embeddings", False))
        self.received: set[str] = set()

    def init_transfer_engine(self, init_info: InitInfo) -> None:
        """Joins the trainer's group where there is one."""
        if init_info.kind == "gloo":
            self.group = stateless_init_torch_distributed_process_group(
                init_info.host,
                init_info.port,
                init_info.rank_offset + self.parallel_config.rank,
                init_info.world_size,
                backend="gloo",
                timeout=DEADLINE,
            )

    def start_weight_update(self) -> None:
        """Takes the layers apart, so that they are loaded as for the first time."""
        self.received = set()
        initialize_layerwise_reload(self.model)
        if self.device.type == "cpu":
            unpack_experts(self.model)

    def update_weights(self, update_info: dict[str, Any]) -> None:
        """Takes over one bucket."""
        self.receive_weights(self.parse_update_info(update_info))
        if self.device.type != "cpu":
            torch.accelerator.synchronize()

    def receive_weights(self, update_info: UpdateInfo) -> None:
        """See `update_weights`. Raises `EngineError` for a name that came twice or that the model lacks."""
        if update_info.kind == "files":
            stream = _read(update_info.paths)
        elif update_info.kind == "gloo":
            stream = _broadcast(self.group, update_info, self.device)
        else:
            stream = update_info.weights
        self.model.load_weights(self._checked(stream))  # type: ignore[operator]

    def finish_weight_update(self) -> None:
        """Puts the layers together. Raises `EngineError` when something is missing: then nothing can be sampled."""
        incomplete = _incomplete(self.model, self.tied)
        silent = [name for name in self.known - self.received if name.rsplit(".", 1)[-1] in SKIP_LOAD_TENSORS]
        if incomplete or silent:
            names = sorted(self.known - self.received)[:3]
            named = f", e.g. {', '.join(names)}" if names else ""
            raise EngineError(f"Weights did not arrive for {', '.join((incomplete + silent)[:3])}{named}.", RESTART)
        finalize_layerwise_reload(self.model, self.model_config)
        if self.device.type == "cpu" and self.tied:
            repack_head(self.model)

    def shutdown(self) -> None:
        """Leaves the trainer's group."""
        self.group = None

    def _checked(self, stream: Stream) -> Iterator[tuple[str, torch.Tensor]]:
        for name, tensor in stream:
            if name in self.received:
                raise EngineError(f"{name} was published twice.", RESTART)
            if self.known and name not in self.known and not (self.tied and name == "lm_head.weight"):
                raise EngineError(f"{name} was published, which vLLM's {type(self.model).__name__} lacks.", RESTART)
            self.received.add(name)
            yield name, tensor


def unpack_experts(model: torch.nn.Module) -> None:
    """Makes vLLM build the experts' kernels anew when their weights are complete.

    On a CPU they are packed for the kernel at the first load only; a later one would leave them as they came.
    """
    for module in model.modules():
        method = getattr(module, "quant_method", None)
        if getattr(method, "moe_kernel", None) is not None:
            method.moe_kernel = None  # type: ignore[union-attr]


def repack_head(model: Any) -> None:
    """On a CPU the head multiplies with a packed copy of the embedding, which loading the embedding leaves stale."""
    model.lm_head.quant_method.process_weights_after_loading(model.lm_head)


def _incomplete(model: torch.nn.Module, tied: bool) -> list[str]:
    """The layers that did not get all of their parameters, and how many values they lack."""
    found = []
    for name, layer in model.named_modules():
        info = get_layerwise_info(layer)
        expected = sum(
            get_tensor_load_numel(parameter)
            for own, parameter in layer.named_parameters(recurse=False)
            if own not in SKIP_LOAD_TENSORS
        )
        if not expected or not info.can_load() or is_deferred_attention_layer(layer) or (tied and name == "lm_head"):
            continue  # nothing to load, complete already, or repaired at the end
        if isinstance(layer, VocabParallelEmbedding):
            expected = 1  # rows that pad the vocabulary are never loaded, and the rest is one tensor
        if info.load_numel < expected:
            found.append(f"{name} ({info.load_numel} of {expected} values)")
    return found


def _folder_names(model: str) -> set[str]:
    """The names in a folder of safetensors, from their headers; empty when the model is not a folder."""
    names: set[str] = set()
    for file in sorted(Path(model).glob("*.safetensors")) if Path(model).is_dir() else ():
        with safe_open(file, "pt") as tensors:
            names.update(tensors.keys())
    return names


def _read(paths: list[str]) -> Iterator[tuple[str, torch.Tensor]]:
    for path in paths:
        with safe_open(path, "pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 (not a mapping)
                yield name, tensors.get_tensor(name)


def _broadcast(group: Any, info: UpdateInfo, device: torch.device) -> Iterator[tuple[str, torch.Tensor]]:
    for name, dtype, shape in zip(info.names, info.dtypes, info.shapes, strict=True):
        tensor = torch.empty(shape, dtype=getattr(torch, dtype))
        options = dist.BroadcastOptions()
        options.rootRank, options.rootTensor = 0, 0
        group.broadcast([tensor], options).wait(DEADLINE)
        yield name, tensor.to(device)
