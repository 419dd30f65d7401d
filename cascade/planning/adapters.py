"""How many parameters low-rank adapters have: rank times the two widths of every linear layer that gets one."""

from __future__ import annotations

from collections.abc import Iterator

from cascade.config import LoraConfig
from cascade.planning.shapes import LayerShape, ModelShape


def adapter_parameters(shape: ModelShape, lora: LoraConfig) -> int:
    """Parameters of the adapters, r (in + out) for each adapted matrix; Mamba's output projection never has one."""
    return sum(
        lora.rank * (read + written)
        for layer in shape.layers
        for name, read, written in _matrices(shape, layer, lora.experts)
        if not lora.targets or name in lora.targets
    )


def _matrices(shape: ModelShape, layer: LayerShape, experts: bool) -> Iterator[tuple[str, int, int]]:
    """Name, input and output width of each linear layer of a block that can have an adapter."""
    hidden = shape.hidden
    if layer.kind == "attention":
        yield "q_proj", hidden, layer.heads * layer.head_dim
        yield "k_proj", hidden, layer.kv_heads * layer.head_dim
        yield "v_proj", hidden, layer.kv_heads * layer.value_dim
        yield "o_proj", layer.heads * layer.value_dim, hidden
    elif layer.kind == "mamba":
        yield "in_proj", hidden, layer.projected
    elif layer.kind == "mlp":
        yield from _feed_forward(hidden, layer.width, layer.gated)
    else:
        if layer.shared_width:
            yield from _feed_forward(hidden, layer.shared_width, layer.gated)
        if experts:
            for _ in range(layer.experts):
                yield from _feed_forward(layer.expert_input, layer.expert_width, layer.gated)


def _feed_forward(hidden: int, width: int, gated: bool) -> Iterator[tuple[str, int, int]]:
    if gated:
        yield "gate_proj", hidden, width
    yield "up_proj", hidden, width
    yield "down_proj", width, hidden
