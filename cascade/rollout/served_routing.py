"""The experts that vLLM says it chose, of its layers, as a record of the model's mixture-of-experts layers."""

from __future__ import annotations

import base64
import binascii
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from cascade.errors import EngineError
from cascade.models.replay import smallest_dtype
from cascade.models.router_hooks import RoutedLayer, routed_layers


class ServedRouting:
    """What is recorded of rollouts that vLLM samples with the weights of one model."""

    def __init__(self, model: Any) -> None:
        """`model`: of the same architecture; only names and sizes are read. Raises `EngineError` without experts."""
        self.layers: Sequence[RoutedLayer] = routed_layers(model)
        if not self.layers:
            raise EngineError(f"{type(model).__name__} has no experts to record.", "Set `routing_replay=false`.")

    def record(self, found: Any, tokens: int) -> torch.Tensor:
        """[N, L, K] from vLLM's array [N, layers of the model, K], or from the base64 of its .npy file.

        `tokens`: of prompt and completion; vLLM has computed all but the last. Raises `EngineError` for anything else.
        """
        array = _decoded(found) if isinstance(found, str) else found
        numbers = [layer.number for layer in self.layers]
        first = self.layers[0]
        if array is None or array.shape[0] != tokens - 1 or array.ndim != 3 or array.shape[1] <= max(numbers):
            shape = None if array is None else array.shape
            raise EngineError(
                f"vLLM sent experts of shape {shape} for {tokens} tokens of a model with experts in layer "
                f"{max(numbers)}.",
                "Start servers with --enable-return-routed-experts and VLLM_USE_V2_MODEL_RUNNER=1.",
            )
        if array.shape[2] != first.chosen or array.max(initial=0) >= first.experts:
            raise EngineError(
                f"vLLM sent {array.shape[2]} experts a token, up to number {array.max(initial=0)}; the model chooses "
                f"{first.chosen} of {first.experts}.",
                "Serve the model that is trained.",
            )
        return torch.from_numpy(array[:, numbers].astype(np.int16)).to(smallest_dtype(first.experts))


def _decoded(text: str) -> np.ndarray:
    try:
        return np.load(io.BytesIO(base64.b64decode(text)), allow_pickle=False)
    except (binascii.Error, ValueError, EOFError) as error:
        raise EngineError(
            f"vLLM sent experts that are no array: {error}.", "Use the version of vLLM that `cascade doctor` names."
        ) from error
