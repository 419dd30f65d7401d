"""What an architecture does to its logits beside multiplying hidden states by the LM head: nothing, scale or cap."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from cascade.errors import EngineError

_PROBES = torch.tensor([1.0, -60.0, -7.0, -0.5, 0.0, 0.25, 9.0, 45.0])  # hidden states that stand for logits


@dataclass(frozen=True)
class LogitTransform:
    """logits = cap * tanh(scale * z / cap), or scale * z without a cap, for z = hidden states times LM head."""

    scale: float = 1.0
    cap: float | None = None

    def apply_(self, z: torch.Tensor) -> torch.Tensor:
        """In place, any shape."""
        if self.scale != 1.0:
            z.mul_(self.scale)
        return z if self.cap is None else z.div_(self.cap).tanh_().mul_(self.cap)

    def slope(self, logits: torch.Tensor) -> torch.Tensor | float:
        """d logits / d z, where `logits` is what `apply_` gave."""
        return self.scale if self.cap is None else (logits / self.cap).square_().neg_().add_(1.0).mul_(self.scale)


def logit_transform(model: Any) -> LogitTransform:
    """Asks the model's own forward pass, with the identity for its LM head and nothing below: no weight is read.

    Raises `EngineError` for an LM head with a bias, and for an architecture that does anything else, e.g. passes its
    hidden states through further layers: its log-probs would silently be those of another model.
    """
    head = model.get_output_embeddings()
    if head is None or getattr(head, "bias", None) is not None:
        raise EngineError(
            f"{type(model).__name__} has {'no LM head' if head is None else 'an LM head with a bias'}.",
            "Use a model with a plain LM head.",
        )
    answer = _answer(model, head)  # of another length where the backbone is not what the forward pass calls
    if answer.shape != _PROBES.shape:
        raise _unsupported(model)
    cap = getattr(model.config.get_text_config(), "final_logit_softcapping", None)
    scale = float(answer[0] if cap is None else cap * torch.atanh(answer[0] / cap))
    transform = LogitTransform(1.0 if abs(scale - 1.0) < 1e-5 else scale, cap)
    if not torch.allclose(transform.apply_(_PROBES.clone()), answer, rtol=1e-4, atol=1e-5):
        raise _unsupported(model)
    return transform


def _unsupported(model: Any) -> EngineError:
    return EngineError(
        f"{type(model).__name__} makes its logits in a way that is not supported.",
        "Choose a model whose logits are the LM head's output, scaled or soft-capped at most.",
    )


class _Hidden:
    """Stands for what a backbone returns, whatever that is called; everything but the hidden states is None."""

    def __init__(self, states: torch.Tensor) -> None:
        self.last_hidden_state = states

    def __getitem__(self, _index: Any) -> torch.Tensor:
        return self.last_hidden_state

    def __getattr__(self, _name: str) -> None:
        return None


@torch.no_grad()
def _answer(model: Any, head: nn.Module) -> torch.Tensor:
    """The logits that the model makes of `_PROBES`, [8]."""
    stand_ins = {
        model.base_model: lambda *_args, **_keywords: _Hidden(_PROBES.view(1, 1, -1)),
        head: lambda hidden: hidden,
    }
    before = {module: vars(module).get("forward") for module in stand_ins}
    try:
        for module, forward in stand_ins.items():
            module.forward = forward
        return model(input_ids=torch.zeros(1, 1, dtype=torch.int64), use_cache=False).logits.flatten().float()
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise _unsupported(model) from error
    finally:
        for module, forward in before.items():
            vars(module).pop("forward", None) if forward is None else setattr(module, "forward", forward)
