"""Packed documents in Mamba-2 layers: a convolution and a scan that start anew where a document starts.

Two ways, of which the machine decides: with the CUDA packages `mamba_ssm` and `causal_conv1d` their kernels restart at
every change of `seq_idx`; without them the layers' own convolution and scan run over documents instead of rows, which
is exact by construction, forward and backward. Attention and expert layers see the packed rows in both.

Letters: B rows, T tokens of a row, H heads of P values, G groups with a state of N, C = H P + 2 G N channels.
"""

from __future__ import annotations

import functools
import importlib
import sys
import types
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence

from cascade.errors import EngineError

MIXERS = {"nemotron_h": "NemotronHMamba2Mixer", "bamba": "BambaMixer", "mamba2": "Mamba2Mixer"}
"""Model types whose recurrent layers are all Mamba-2 mixers of one form -> the class of these."""

KEYWORD = "packed_documents"
"""Travels from the model through its blocks to the mixers, so that activation checkpointing keeps it for its second
forward pass, which runs when the first has long returned."""

KERNELS = {
    "causal_conv1d": ("causal_conv1d_fn",),
    "mamba_ssm.ops.triton.ssd_combined": ("mamba_chunk_scan_combined", "mamba_split_conv1d_scan_combined"),
}


@dataclass(frozen=True)
class Documents:
    """Tokens of every document, in the order of the rows laid end to end; they add up to B * T.

    Rows [[0, 1, 2, 0, 1], [0, 0, 1, 2, 3]] of positions are `Documents((3, 2, 1, 4))`.
    """

    lengths: tuple[int, ...]

    @classmethod
    def of(cls, position_ids: torch.Tensor) -> Documents:
        """The documents of position_ids [B, T]. Padding counts as a document."""
        starts = document_starts(position_ids).flatten().nonzero().flatten()  # a row's first token starts one
        ends = torch.cat([starts[1:], starts.new_tensor([position_ids.numel()])])
        return cls(tuple((ends - starts).tolist()))

    def alike(self, chunk: int) -> list[list[int]]:
        """Indices of the documents in groups that fill equally many chunks: one scan each, without wasted chunks."""
        groups: dict[int, list[int]] = {}
        for index, length in enumerate(self.lengths):
            groups.setdefault(-(-length // chunk), []).append(index)
        return list(groups.values())


def document_starts(position_ids: torch.Tensor) -> torch.Tensor:
    """True where a document starts, [B, T]: where a position does not follow the one before, as in attention masks."""
    starts = torch.ones_like(position_ids, dtype=torch.bool)
    starts[:, 1:] = position_ids[:, 1:] != position_ids[:, :-1] + 1
    return starts


@dataclass(frozen=True)
class MambaScan:
    """What stands between a Mamba-2 mixer's two projections: Dao and Gu 2024, arXiv:2405.21060.

    The tensors may be those of some heads and groups only, e.g. of one rank's share of them.
    """

    convolve: Callable[..., torch.Tensor]
    scan: Callable[..., torch.Tensor]
    conv_weight: torch.Tensor  # [C, kernel]
    conv_bias: torch.Tensor | None  # [C]
    decay: torch.Tensor  # A, [H] float32, negative
    skip: torch.Tensor  # D, [H]
    dt_bias: torch.Tensor  # [H]
    head_dim: int  # P
    groups: int  # G
    state: int  # N
    chunk: int  # tokens
    activation: str
    dt_limit: tuple[float, float]

    @classmethod
    def of(cls, mixer: Any) -> MambaScan:
        """The functions and parameters of a transformers mixer. Call it in the forward pass: ZeRO-3 has them there."""
        module = sys.modules[type(mixer).__module__]
        return cls(
            convolve=module.causal_conv1d_fn,
            scan=module.mamba2_chunk_scan,
            conv_weight=mixer.conv1d.weight.squeeze(1),
            conv_bias=mixer.conv1d.bias,
            decay=-torch.exp(mixer.A_log.float()),
            skip=mixer.D,
            dt_bias=mixer.dt_bias,
            head_dim=mixer.head_dim,
            groups=mixer.n_groups,
            state=mixer.ssm_state_size,
            chunk=mixer.chunk_size,
            activation=mixer.activation,
            dt_limit=mixer.time_step_limit,
        )

    def __call__(self, x_b_c: torch.Tensor, dt: torch.Tensor) -> torch.Tensor:
        """One document a row: x_b_c [n, L, C], dt [n, L, H] -> [n, L, H P]. What stands behind has no influence."""
        rows, tokens, _ = x_b_c.shape
        mixed = self.convolve(x_b_c.transpose(1, 2), self.conv_weight, self.conv_bias, activation=self.activation)
        of_groups = self.groups * self.state
        x, b, c = mixed.transpose(1, 2).split([dt.shape[-1] * self.head_dim, of_groups, of_groups], dim=-1)
        scanned = self.scan(
            x.reshape(rows, tokens, -1, self.head_dim),
            dt,
            self.decay,
            b.reshape(rows, tokens, self.groups, self.state),
            c.reshape(rows, tokens, self.groups, self.state),
            chunk_size=self.chunk,
            D=self.skip,
            z=None,
            dt_bias=self.dt_bias,
            dt_softplus=True,
            dt_limit=self.dt_limit,
        )
        return scanned.reshape(rows, tokens, -1)


def scan_documents(scan: MambaScan, x_b_c: torch.Tensor, dt: torch.Tensor, documents: Documents) -> torch.Tensor:
    """Convolution and scan of packed rows, document by document: x_b_c [B, T, C], dt [B, T, H] -> [B, T, H P].

    Documents are padded on the right, where a causal layer does not look, to the next of their group. The number of
    calls depends on the data, so no module is called here: ranks under ZeRO-3 would wait for each other's gathers.
    """
    channels, steps = x_b_c.flatten(0, 1).split(documents.lengths), dt.flatten(0, 1).split(documents.lengths)
    outputs: list[torch.Tensor] = [x_b_c] * len(documents.lengths)  # each is replaced
    for alike in documents.alike(scan.chunk):
        rows = [pad_sequence([pieces[index] for index in alike], batch_first=True) for pieces in (channels, steps)]
        for index, row in zip(alike, scan(*rows), strict=True):
            outputs[index] = row[: documents.lengths[index]]
    return torch.cat(outputs).view(*x_b_c.shape[:2], -1)


def keep_documents_apart(model: Any) -> None:
    """Teaches the mixers of this model, and of no other, what `document_keywords` says. A second time does nothing.

    Without the keyword a mixer does what it always did, with its caches.
    """
    for module in model.modules():
        if type(module).__name__ == MIXERS.get(model.config.model_type) and "forward" not in vars(module):
            module.forward = types.MethodType(_mix, module)


def document_keywords(model: Any, position_ids: torch.Tensor) -> dict[str, Any]:
    """What to give the model beside position_ids [B, T] so that its Mamba-2 layers keep documents apart."""
    if model.config.model_type not in MIXERS:
        return {}
    if not kernels_installed():
        return {KEYWORD: Documents.of(position_ids)}
    return {"seq_idx": (document_starts(position_ids).cumsum(1, dtype=torch.int32) - 1).contiguous()}


@functools.cache
def kernels_installed() -> bool:
    """Whether transformers takes the CUDA kernels; where it cannot import one of them it ignores `seq_idx` in silence.

    Warns once where there is a GPU and they are missing.
    """
    try:
        found = all(hasattr(importlib.import_module(name), each) for name, many in KERNELS.items() for each in many)
    except (ImportError, OSError):  # OSError: a kernel's library was built for another torch or CUDA
        found = False
    if not found and torch.cuda.is_available():
        warnings.warn(
            "mamba_ssm and causal_conv1d are not both installed: Mamba layers run document by document, slowly.",
            stacklevel=2,
        )
    return found


def _mix(
    mixer: Any,
    hidden_states: torch.Tensor,
    cache_params: Any = None,
    attention_mask: torch.Tensor | None = None,
    **keywords: Any,
) -> torch.Tensor:
    """The forward pass of a Mamba-2 mixer, [B, T, D] -> [B, T, D], document by document where they are given."""
    documents: Documents | None = keywords.pop(KEYWORD, None)
    if documents is None:
        return type(mixer).forward(mixer, hidden_states, cache_params, attention_mask, **keywords)
    if cache_params is not None or attention_mask is not None:
        raise EngineError(
            "A Mamba layer got packed documents together with a cache or an attention mask.",
            "Give `position_ids` only, and `use_cache=False`.",
        )
    projected = mixer.in_proj(hidden_states)
    gate, x_b_c, dt = projected.split([mixer.intermediate_size, mixer.conv_dim, mixer.num_heads], dim=-1)
    mixed = mixer.norm(scan_documents(MambaScan.of(mixer), x_b_c, dt, documents), gate)
    return mixer.out_proj(mixed.to(hidden_states.dtype))
