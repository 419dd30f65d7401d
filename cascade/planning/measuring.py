"""A model's shape, read off the model itself: built at full size on the meta device, where weights take no memory."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM

from cascade.errors import ConfigError
from cascade.planning.layer_widths import attention_widths, mamba_widths, mixture_widths, mlp_widths
from cascade.planning.parameter_kinds import count_kinds, kinds_of
from cascade.planning.shapes import LayerShape, ModelShape

LAYER = re.compile(r"(?:^|\.)(?:layers|h|blocks|block)\.(\d+)\.")
BLOCKS = {"attention": "attention", "mamba": "mamba", "mlp": "mlp"}
MIXTURE = {"routed_experts", "shared_experts", "router"}


def shape_of(name: str, config: Any) -> ModelShape:
    """The shape of the causal language model that transformers builds from `config`. Raises `ConfigError`."""
    key = f"{name} {config.to_json_string(use_diff=False)}"
    if key not in _known:
        _known[key] = measure(name, blank(config))
    return _known[key]


_known: dict[str, ModelShape] = {}  # a search asks for the same model a thousand times


def blank(config: Any) -> Any:
    """The model without memory for its weights. Raises `ConfigError` where transformers has no causal LM of it."""
    try:
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    except ValueError as error:
        raise ConfigError(
            f"transformers builds no causal language model from {config.model_type}: {str(error).splitlines()[0]}",
            "Choose an architecture of `AutoModelForCausalLM`.",
        ) from None


def measure(name: str, model: Any) -> ModelShape:
    """The shape of a built model, wherever its weights are."""
    config = model.config.get_text_config()
    kinds = count_kinds(model)
    total = sum(kinds.values())
    layers = tuple(_layers(model, config))
    idle = sum(layer.parameters - layer.active for layer in layers)
    table = model.get_input_embeddings().weight
    head = model.get_output_embeddings()
    own_head = head.weight if head is not None and head.weight is not table else None
    looked_up = kinds["embeddings"] - (table if own_head is None else own_head).numel()
    return ModelShape(
        name=name,
        architecture=config.model_type,
        hidden=config.hidden_size,
        vocabulary=len(table),
        tied=own_head is None,
        kinds=kinds,
        total=total,
        active=total - idle,
        active_without_embeddings=total - idle - looked_up,
        selection_biases=sum(
            buffer.numel() for path, buffer in model.named_buffers() if re.search(r"correction_bias|expert_bias", path)
        ),
        layers=layers,
        norm_bytes=_norm_bytes(model),
        largest=max(parameter.numel() for parameter in model.parameters()),
        context=int(getattr(config, "max_position_embeddings", 0) or 0),
    )


def _layers(model: Any, config: Any) -> list[LayerShape]:
    """The blocks of every decoder layer, mixers before feed-forward blocks."""
    parameters = dict(model.named_parameters())
    grouped: dict[tuple[int, str], dict[str, nn.Parameter]] = {}
    kinds = kinds_of(model)
    norms = {path: parameters[path].numel() for path, kind in kinds.items() if kind == "norms"}
    for path, kind in kinds.items():
        place = LAYER.search(path)
        block = "moe" if kind in MIXTURE else BLOCKS.get(kind)
        if place and block:
            grouped.setdefault((int(place[1]), block), {})[path] = parameters[path]
    order = {"attention": 0, "mamba": 1, "mlp": 2, "moe": 3}
    blocks = Counter(number for number, _ in grouped)
    outer = Counter(
        int(place[1])
        for path, size in norms.items()
        if (place := LAYER.search(path)) and size == config.hidden_size and not _inside(path, grouped, int(place[1]))
    )
    return [
        _layer(config, number, block, grouped[number, block], kinds, norms, outer[number] / blocks[number])
        for number, block in sorted(grouped, key=lambda key: (key[0], order[key[1]]))
    ]


def _layer(
    config: Any,
    number: int,
    block: str,
    parameters: Mapping[str, nn.Parameter],
    kinds: Mapping[str, str],
    norms: Mapping[str, int],
    outer_norms: float,
) -> LayerShape:
    if getattr(config, "_heterogeneity_spec", None) is not None:  # layers of this architecture differ in their widths
        config = config.per_layer_config[number]
    if block == "moe":
        widths = mixture_widths(config, number, parameters, kinds)
    else:
        widths = {"attention": attention_widths, "mamba": mamba_widths, "mlp": mlp_widths}[block](
            config, number, parameters
        )
    total = sum(parameter.numel() for parameter in parameters.values())
    routed = widths.get("routed", 0)
    idle = routed - routed * widths["chosen"] // widths["experts"] if routed else 0
    if block == "attention":
        place = _place(parameters)
        inside = {path: size for path, size in norms.items() if path.startswith(place)}
        widths["normed"] = _normed(inside, widths)
    return LayerShape(kind=block, layer=number, parameters=total, active=total - idle, norms=outer_norms, **widths)


def _place(parameters: Mapping[str, nn.Parameter]) -> str:
    """The path of the module that holds a block's parameters, with its dot."""
    paths = [path.split(".")[:-1] for path in parameters]
    shared = [names[0] for names in zip(*paths, strict=False) if len(set(names)) == 1]
    return ".".join(shared) + "."


def _inside(path: str, grouped: Mapping[tuple[int, str], Mapping[str, nn.Parameter]], layer: int) -> bool:
    """Whether a norm is inside one of its layer's blocks rather than on the residual stream."""
    return any(path.startswith(_place(block)) for (number, _), block in grouped.items() if number == layer)


def _normed(norms: Mapping[str, int], widths: Mapping[str, int]) -> int:
    """Numbers a token that these norms of an attention block read; one of a head's width is applied to every head."""
    total = 0
    for path, size in norms.items():
        heads = widths["kv_heads"] if re.search(r"\.k_(layer)?norm|\.key_\w*norm|\.v_norm", path) else widths["heads"]
        total += size * heads if size == widths["head_dim"] else size
    return total


def _norm_bytes(model: Any) -> dict[str, float]:
    """What a norm saves for each number it reads, found by trying the model's own on the meta device, in each dtype."""
    width = model.config.get_text_config().hidden_size
    norm = next(
        (
            module
            for module in model.modules()
            if "Norm" in type(module).__name__ and [part.numel() for part in module.parameters()][:1] == [width]
        ),
        None,
    )
    found = {"fp32": 8.0, "bf16": 6.0}  # RMSNorm's usual
    if norm is None or next(norm.parameters()).device.type != "meta":
        return found
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        own = {id(part) for part in norm.parameters()}
        saved: dict[int, torch.Tensor] = {}

        def keep(tensor: torch.Tensor, own: set[int] = own, saved: dict[int, torch.Tensor] = saved) -> torch.Tensor:
            if id(tensor) not in own and tensor.numel() >= 64 * width:
                saved[tensor.untyped_storage()._cdata] = tensor
            return tensor

        with torch.device("meta"), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            norm.to(dtype)(torch.empty(1, 64, width, dtype=dtype, requires_grad=True))
        found[name] = sum(tensor.untyped_storage().nbytes() for tensor in saved.values()) / (64 * width)
    return found
