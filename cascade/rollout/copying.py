"""Weights copied from the policy into a model of the same architecture, one tensor at a time."""

from __future__ import annotations

from typing import Any

import torch

from cascade.errors import EngineError
from cascade.ports import Policy


@torch.no_grad()
def take_over(model: Any, policy: Policy) -> int:
    """Copies every tensor of the policy over the model's own; returns how many bytes that was.

    Raises `EngineError` for a tensor that the model lacks or has in another shape, and unless all of its tensors were
    published; tied ones count as one.
    """
    own = model.state_dict(keep_vars=True)
    waiting = {tensor.data_ptr() for tensor in own.values()}  # by storage: tied tensors are published once
    copied = 0
    for name, tensor in policy.weights():
        if name not in own:
            raise EngineError(f"The policy publishes {name}, which the rollout engine lacks.", "Check both models.")
        if own[name].shape != tensor.shape:  # `copy_` would broadcast
            shapes = f"{tuple(tensor.shape)}, the rollout engine's is {tuple(own[name].shape)}"
            raise EngineError(f"The policy's {name} is {shapes}.", "Check both models.")
        own[name].copy_(tensor)
        waiting.discard(own[name].data_ptr())
        copied += own[name].nbytes
    if waiting:
        left = [name for name, tensor in own.items() if tensor.data_ptr() in waiting]
        raise EngineError(f"The policy did not publish {', '.join(left[:3])}.", "Check both models.")
    return copied
