"""ZeRO-3: a checkpoint that goes straight into shards, and mixtures of experts that are gathered block by block."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch._dynamo  # imported lazily by others, under conditions in which it cannot be
import transformers
from torch import nn
from transformers import core_model_loading

from cascade.errors import EngineError
from cascade.models.moe_blocks import MoeBlock, moe_blocks


@contextmanager
def arriving_in_shards(config: Mapping[str, Any], dtype: torch.dtype) -> Iterator[None]:
    """What transformers loads meanwhile is cut into ZeRO-3 shards, every tensor as soon as it is whole.

    A process reads all tensors of the checkpoint but holds one of the model at a time, and of the others its share.
    transformers has a way of its own for ZeRO-3 (`HfDeepSpeedConfig`); it holds the whole checkpoint in every process
    and never says which tensors it did not use. Nothing here is collective: an error of one process leaves no other
    waiting.

    `config`: the engine's; `dtype`: of parameters. Raises `EngineError` for tied tensors that the checkpoint holds
    twice and differently, and when nothing came in a way that could be cut.
    """
    import deepspeed

    shards = deepspeed.zero.Init(config_dict_or_path=dict(config), dtype=dtype)
    place = core_model_loading.set_param_for_module
    arrived: dict[str, nn.Parameter] = {}

    def place_and_cut(model: Any, name: str, value: Any, info: Any, quantizer: Any) -> None:
        place(model, name, value, info, quantizer)
        owner, _, own = name.rpartition(".")
        parameter = model.get_submodule(owner)._parameters.get(own)
        if parameter is None or parameter.is_meta:  # a buffer, or a tensor of the wrong shape
            return
        parameter.data = parameter.data.to(shards.local_device, dtype)
        shards._convert_to_deepspeed_param(parameter)
        parameter.partition()  # type: ignore[attr-defined]
        arrived[name] = parameter
        _require_equal_where_tied(model, name, arrived)

    before = os.environ.get("HF_DEACTIVATE_ASYNC_LOAD")
    os.environ["HF_DEACTIVATE_ASYNC_LOAD"] = "1"  # its threads read ahead without bound
    core_model_loading.set_param_for_module = place_and_cut
    try:
        yield
        if not arrived:
            raise EngineError(
                f"transformers {transformers.__version__} placed no tensor where ZeRO-3 could cut it.",
                "Install the versions of transformers and DeepSpeed that pyproject.toml names.",
            )
    finally:
        core_model_loading.set_param_for_module = place
        if before is None:
            del os.environ["HF_DEACTIVATE_ASYNC_LOAD"]
        else:
            os.environ["HF_DEACTIVATE_ASYNC_LOAD"] = before


def _require_equal_where_tied(model: Any, name: str, arrived: Mapping[str, nn.Parameter]) -> None:
    """transformers ties two tensors of a checkpoint if they are equal; of shards it would see nothing and tie any."""
    for alias, source in model.all_tied_weights_keys.items():
        if name in (alias, source) and alias in arrived and source in arrived:
            one, other = (arrived[which].ds_tensor for which in (alias, source))  # type: ignore[attr-defined]
            if not torch.equal(one, other):
                raise EngineError(
                    f"The checkpoint ties {alias} to {source} but holds different values for them.",
                    "Set `tie_word_embeddings` to false in its config.json.",
                )


def mark_leaves(model: Any) -> list[MoeBlock]:
    """Every mixture-of-experts block becomes a leaf: ZeRO-3 gathers and reduces it as one, whatever its experts do.

    Below a leaf there are no hooks, so processes whose tokens choose other experts stay in step.
    """
    from deepspeed.utils import set_z3_leaf_modules

    blocks = moe_blocks(model)
    if blocks:
        set_z3_leaf_modules(model, list({type(block.module) for block in blocks}))
    for block in blocks:
        block.module.register_forward_pre_hook(_require_input_gradient)
    return blocks


def _require_input_gradient(module: nn.Module, inputs: tuple[Any, ...]) -> None:
    """DeepSpeed reduces a leaf when the gradient of a positional input is there. Without one it would do so before
    the gradients of the leaf's own parameters are, and train none of them, in silence."""
    reached = any(item.requires_grad for item in inputs if isinstance(item, torch.Tensor))
    if torch.is_grad_enabled() and not reached and any(own.requires_grad for own in module.parameters()):
        raise EngineError(
            f"No positional input of {type(module).__name__} needs a gradient, so ZeRO-3 would not train it.",
            "Train what comes before it too, or use ZeRO 0 to 2.",
        )
