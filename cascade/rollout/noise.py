"""Counter-based sampling noise: what a rollout draws depends on its own name and position, on nothing else.

The Gumbel-max trick: argmax(logits / temperature + Gumbel noise) samples from softmax(logits / temperature). The
noise of vocabulary entry v at position t of a rollout is a hash of (rollout key, t, v), so a rollout is the same in
any batch, on any number of processes, and after any restart.
"""

from __future__ import annotations

import hashlib

import torch

_GOLDEN = -7046029254386353131  # 0x9E3779B97F4A7C15 as a signed 64-bit integer
_MIX_1 = -4658895280553007687  # 0xBF58476D1CE4E5B9
_MIX_2 = -7723592293110705685  # 0x94D049BB133111EB


def rollout_key(seed: int, row_id: str, sample: int) -> int:
    """A signed 64-bit key for one rollout, by its seed, row and sample number."""
    digest = hashlib.blake2b(f"{seed}\x00{row_id}\x00{sample}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


def gumbel_noise(keys: torch.Tensor, positions: torch.Tensor | int, vocabulary: int) -> torch.Tensor:
    """Standard Gumbel noise.

    Args:
        keys: [B] int64, one a rollout.
        positions: index of the token in its completion, from 0; [B] int64, or one for all.
        vocabulary: V.

    Returns:
        [B, V] float32.
    """
    at = _splitmix(keys + (torch.zeros_like(keys) + positions) * _GOLDEN)  # [B]
    entries = torch.arange(1, vocabulary + 1, dtype=torch.int64, device=keys.device) * _GOLDEN  # [V]
    bits = _splitmix(at.unsqueeze(1) + entries)  # [B, V]
    uniform = (_shift(bits, 40).double() + 0.5) / 2**24  # 24 bits, strictly inside (0, 1)
    return -(-uniform.log()).log().float()


def _splitmix(x: torch.Tensor) -> torch.Tensor:
    """The finaliser of SplitMix64 (Steele, Lea and Flood 2014) in wrapping signed arithmetic."""
    x = (x ^ _shift(x, 30)) * _MIX_1
    x = (x ^ _shift(x, 27)) * _MIX_2
    return x ^ _shift(x, 31)


def _shift(x: torch.Tensor, bits: int) -> torch.Tensor:
    """Logical right shift of a signed 64-bit integer."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)
