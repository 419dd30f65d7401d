"""Low-rank adapters through peft, and the merged weights that everybody else sees (Hu et al. 2021, section 4.1)."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig as PeftConfig
from peft import inject_adapter_in_model
from peft.tuners.lora import LoraLayer, ParamWrapper
from safetensors.torch import save_file
from torch import nn

from cascade.config import PolicyConfig
from cascade.errors import EngineError
from cascade.models.moe_blocks import moe_blocks
from cascade.policy.lora_targets import adapted_experts, adapted_modules

ADAPTER = "default"
FOLDER = "adapter"
"""Of an export: the adapters alone, as peft loads them."""
SEED = 0  # of the adapters' own initialisation: the same on every process and in every run
Gathered = Callable[[list[nn.Parameter]], AbstractContextManager[Any]]


@dataclass(frozen=True)
class Adapters:
    """The adapters of a model whose other parameters are frozen."""

    model: nn.Module
    layers: Mapping[int, LoraLayer]  # id of an adapted parameter -> what adapts it

    @property
    def names(self) -> list[str]:
        """Of everything that is trained."""
        return [name for name, _ in self.model.named_parameters() if _is_adapter(name)]

    @torch.no_grad()
    def weights(self, gathered: Gathered) -> Iterator[tuple[str, torch.Tensor]]:
        """Full weights with the adapters merged in, and persistent buffers, under transformers' names. Collective.

        W + (alpha / rank) B A, computed in float32 on a copy: what is trained stays as it is. One at a time.

        `gathered`: the context in which parameters are whole.
        """
        persistent = set(self.model.state_dict(keep_vars=True))
        for name, parameter in self.model.named_parameters():
            layer = self.layers.get(id(parameter))
            if _is_adapter(name):
                continue
            with gathered([parameter, *_factors(layer)] if layer else [parameter]):
                yield _plain(name), _merged(parameter, layer) if layer else parameter.detach()
        for name, buffer in self.model.named_buffers():
            if name in persistent:
                yield _plain(name), buffer.detach()

    @torch.no_grad()
    def tensors(self, gathered: Gathered) -> Iterator[tuple[str, torch.Tensor]]:
        """The adapters' own weights under the names of peft's files. Collective."""
        for name, parameter in self.model.named_parameters():
            if _is_adapter(name):
                with gathered([parameter]):
                    yield f"base_model.model.{name.replace(f'.{ADAPTER}.', '.')}", parameter.detach()

    def save(self, folder: Path, tensors: Mapping[str, torch.Tensor]) -> None:
        """Writes what `PeftModel.from_pretrained` loads onto the model that training started from, below `folder`."""
        folder = folder / FOLDER
        folder.mkdir()
        self.model.peft_config[ADAPTER].save_pretrained(str(folder))  # type: ignore[index,union-attr]
        save_file(dict(tensors), folder / "adapter_model.safetensors", metadata={"format": "pt"})


def add_adapters(model: Any, policy: PolicyConfig) -> Adapters | None:
    """Freezes a transformers model and adds what `policy.lora` asks for; None where it asks for nothing.

    Raises `EngineError` for a target that the model lacks, and for those that an adapter would not reach.
    """
    if policy.lora is None:
        return None
    blocks = moe_blocks(model)
    modules, tensors = adapted_modules(model, policy.lora, blocks), adapted_experts(policy.lora, blocks)
    if not modules and not tensors:
        raise EngineError(
            f"`policy.lora` finds nothing to adapt in {type(model).__name__}.", "Name `policy.lora.targets`."
        )
    config = PeftConfig(
        r=policy.lora.rank,
        lora_alpha=policy.lora.alpha,  # type: ignore[arg-type]
        target_modules=modules,
        target_parameters=tensors or None,
        base_model_name_or_path=model.name_or_path,
        task_type="CAUSAL_LM",
    )
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft's, on target_parameters beside target_modules
        torch.manual_seed(SEED)
        inject_adapter_in_model(config, model, adapter_name=ADAPTER)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(_is_adapter(name))
    model.enable_input_require_grads()  # nothing before the first adapter would: recomputation and leaf blocks need it
    layers = {id(_adapted(module)): module for module in model.modules() if isinstance(module, LoraLayer)}
    if len(layers) != len(modules) + len(tensors):
        raise EngineError(
            f"peft adapted {len(layers)} tensors of {type(model).__name__} instead of {len(modules) + len(tensors)}.",
            "Check the version of peft that pyproject.toml names.",
        )
    return Adapters(model, layers)


def _adapted(layer: LoraLayer) -> Any:
    return layer.get_param() if isinstance(layer, ParamWrapper) else layer.get_base_layer().weight


def _factors(layer: LoraLayer) -> list[nn.Parameter]:
    return [layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight]  # type: ignore[list-item]


def _merged(parameter: nn.Parameter, layer: LoraLayer) -> torch.Tensor:
    """W + scale B A; for experts one product each, of the rows and columns that peft lays side by side."""
    down, up = (
        factor.detach().float() for factor in _factors(layer)
    )  # A [r, in] or [E r, in], B [out, r] or [out, r E]
    if parameter.dim() == 3:
        experts = parameter.shape[0]
        down = down.reshape(experts, -1, down.shape[-1])  # [E, r, in]
        up = up.reshape(up.shape[0], -1, experts).permute(2, 0, 1)  # [E, out, r]
    delta = (up @ down).mul_(layer.scaling[ADAPTER])
    return delta.add_(parameter.detach()).to(parameter.dtype)


def _is_adapter(name: str) -> bool:
    return f".lora_A.{ADAPTER}." in name or f".lora_B.{ADAPTER}." in name


def _plain(name: str) -> str:
    return name.replace(".base_layer", "")
