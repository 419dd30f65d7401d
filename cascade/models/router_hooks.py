"""The choice of experts in one model's layers, seen as it is made, and replaced where asked.

A router ends by taking the K best of E candidates a token, `topk` of [N, E]. That call is watched while the router's
forward runs, or that of the block around it where the choice is made there; so whatever is done with scores before and
after (softmax or sigmoid, groups, a selection bias, normalising, scaling) stays the model's own code. Only layers that
are asked for are watched: other models in the process, of the same class too, are not touched.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from cascade.errors import EngineError
from cascade.models.moe_blocks import MoeBlock, moe_blocks, whole_shape

TOP_K = {torch.topk, torch.Tensor.topk}
SCORES = {
    torch.softmax,
    torch.Tensor.softmax,
    nn.functional.softmax,
    torch.sigmoid,
    torch.Tensor.sigmoid,
    nn.functional.sigmoid,
}


@dataclass(frozen=True)
class RoutedLayer:
    """A mixture-of-experts block, e.g. of layer 3 with 128 experts, 8 a token."""

    name: str  # of the block, e.g. model.layers.3.mlp
    block: nn.Module
    router: nn.Module
    experts: int  # E
    chosen: int  # K

    @property
    def number(self) -> int:
        """Of the layer in the model, from 0: the first number in the block's name."""
        return int(re.findall(r"\d+", self.name)[0])

    @cached_property
    def chooser(self) -> nn.Module | None:
        """The router or, where it is made outside of it, the block: whose forward makes the choice; None: neither."""
        return next((module for module in (self.router, self.block) if _trial(module, self)), None)

    @property
    def scores_all(self) -> bool:
        """Whether all experts have a score when some of them are chosen, which a balance loss needs."""
        trial = _trial(self.chooser, self) if self.chooser else None
        return trial is not None and trial.scores is not None


@dataclass(frozen=True)
class Choice:
    """What a router is about to decide for N tokens."""

    live: torch.Tensor  # [N, K] int64: the experts it would take
    scores: torch.Tensor | None  # [N, E] softmax or sigmoid of its logits, with gradient; None where it has none of all


Decide = Callable[[Choice], torch.Tensor | None]
"""The experts to take instead, [N, K] int64; None: those the router would take."""


def routed_layers(model: Any) -> list[RoutedLayer]:
    """The mixture-of-experts blocks of a model, in the order of its layers; none for a dense model.

    Raises `EngineError` where a block does not say how many experts a token goes to.
    """
    return [
        RoutedLayer(block.name, block.module, block.router, block.num_experts, _chosen(model, block))
        for block in moe_blocks(model)
    ]


def watch(layer: RoutedLayer, decide: Decide) -> None:
    """Has `decide` asked whenever the layer's choice is made, as long as the model lives.

    Raises `EngineError` for a layer whose choice cannot be seen, as some routers make theirs otherwise.
    """
    if layer.chooser is None:
        raise EngineError(
            f"{layer.name} ({type(layer.block).__name__}) does not choose {layer.chosen} of {layer.experts} experts by "
            "`topk`, so its choice cannot be seen.",
            "Set `routing_replay`, `router_aux_loss_coef` and `expert_bias_update_rate` off.",
        )
    layer.chooser.forward = _watched(layer.chooser, layer, decide)


def _watched(module: nn.Module, layer: RoutedLayer, decide: Decide) -> Callable[..., Any]:
    """The module's forward with a watch over it."""
    own = module.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        with _Choosing(layer, decide):
            return own(*args, **kwargs)

    return forward


def _trial(module: nn.Module, layer: RoutedLayer) -> Choice | None:
    """The choice that the module's forward makes for two tokens, without memory or weights; None: it makes none."""

    def decide(choice: Choice) -> None:
        raise _Seen(choice)

    owned = (*module.named_parameters(), *module.named_buffers())
    shapes = {name: getattr(tensor, "ds_shape", tensor.shape) for name, tensor in owned}  # of ZeRO-3 shards: the whole
    empty = {name: torch.empty(shapes[name], dtype=tensor.dtype, device="meta") for name, tensor in owned}
    matrix = next(parameter for parameter in layer.router.parameters() if len(whole_shape(parameter)) == 2)
    tokens = torch.empty(1, 2, whole_shape(matrix)[1], dtype=matrix.dtype, device="meta")
    try:
        with _Choosing(layer, decide):
            torch.func.functional_call(module, empty, (tokens,))
    except _Seen as seen:
        return seen.choice
    except (RuntimeError, TypeError, ValueError, NotImplementedError):  # it wants more than tokens, or real ones
        return None
    return None


class _Seen(Exception):
    """The choice has been made."""

    def __init__(self, choice: Choice) -> None:
        super().__init__()
        self.choice = choice


class _Choosing(TorchFunctionMode):
    """Looks at every torch function of one block's forward pass until the choice is made."""

    def __init__(self, layer: RoutedLayer, decide: Decide) -> None:
        super().__init__()
        self.layer, self.decide = layer, decide
        self.made = False
        self._scores: torch.Tensor | None = None

    def __torch_function__(self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if self.made:
            return result
        if func in SCORES and result.shape[1:] == (self.layer.experts,):
            self._scores = result
        elif func in TOP_K and self._is_choice(*args, **kwargs):
            self.made = True
            taken = self.decide(Choice(result.indices, self._scores))
            if taken is not None:
                return torch.return_types.topk((args[0].gather(1, taken), taken))
        return result

    def _is_choice(self, candidates: torch.Tensor, k: int, *_: Any, **__: Any) -> bool:
        return candidates.dim() == 2 and candidates.shape[1] == self.layer.experts and k == self.layer.chosen


def _chosen(model: Any, block: MoeBlock) -> int:
    """K: what the router or the block says, else the config."""
    for owner in (block.router, block.module, model.config.get_text_config()):
        for name in ("top_k", "num_experts_per_tok", "num_experts_per_token"):
            if isinstance(found := getattr(owner, name, None), int):
                return found
    raise EngineError(
        f"{block.name} does not say how many experts a token goes to.",
        "Teach `cascade.models.router_hooks` the name under which its config keeps it.",
    )
