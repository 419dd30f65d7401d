"""Rows whose tokens are spread over a group of processes: which slice is whose, and where documents begin."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
import torch.distributed as dist


@dataclass
class ShardedRow:
    """The rows of one micro-batch. Process n of the group holds tokens [n T/N, (n+1) T/N) of each.

    Goes through the model's layers as a keyword argument, so that a recomputation in the backward pass has the row of
    its own forward pass.
    """

    position_ids: torch.Tensor  # [B, T] of the whole rows, T a multiple of N; 0 where a document begins
    group: dist.ProcessGroup
    kernel: str  # `policy.attention`
    _masks: dict[int | None, torch.Tensor] = field(default_factory=dict)  # by window

    @classmethod
    def of(cls, position_ids: torch.Tensor, group: dist.ProcessGroup, kernel: str) -> ShardedRow:
        """Pads rows of any length at their end, with a document of its own."""
        rows, tokens = position_ids.shape
        padding = torch.arange(-tokens % group.size(), device=position_ids.device).expand(rows, -1)
        return cls(torch.cat([position_ids, padding], 1), group, kernel)

    @property
    def size(self) -> int:
        """N, processes of the group."""
        return self.group.size()

    def own(self, whole: torch.Tensor) -> torch.Tensor:
        """This process's slice of [B, T or less, ...]; what is missing at the end is 0."""
        tokens = self.position_ids.shape[1]
        share, missing = tokens // self.size, tokens - whole.shape[1]
        padded = torch.cat([whole, whole.new_zeros(whole.shape[0], missing, *whole.shape[2:])], 1)
        return padded.narrow(1, self.group.rank() * share, share)

    def attention_mask(self, window: int | None) -> torch.Tensor | None:
        """`block_mask`, or None where plain causal attention is the same: documents as long as their rows."""
        narrow = window is not None and window < self.position_ids.shape[1]
        return self.block_mask(window) if narrow or self.packed else None

    def block_mask(self, window: int | None) -> torch.Tensor:
        """[B, 1, T, T] bool: a token sees itself and what is before it in its document, `window` tokens at most."""
        if window not in self._masks:
            documents = self.position_ids.eq(0).cumsum(1)  # [B, T]
            at = torch.arange(documents.shape[1], device=documents.device)
            distance = at[:, None] - at  # [T, T]
            near = (distance >= 0) if window is None else (distance >= 0) & (distance < window)
            self._masks[window] = (near & (documents[:, :, None] == documents[:, None, :])).unsqueeze(1)
        return self._masks[window]

    @cached_property
    def packed(self) -> bool:
        """Whether a document, or padding, begins within a row."""
        return bool(self.position_ids[:, 1:].eq(0).any())

    @cached_property
    def document_lengths(self) -> dict[str, Any]:
        """What variable-length flash attention is told of all rows laid end to end."""
        flat = self.position_ids.flatten()
        starts = flat.eq(0).nonzero().flatten()
        bounds = torch.cat([starts, starts.new_tensor([len(flat)])]).to(torch.int32)  # [documents + 1]
        longest = int(bounds.diff().max())
        return {"cu_seq_lens_q": bounds, "cu_seq_lens_k": bounds, "max_length_q": longest, "max_length_k": longest}
