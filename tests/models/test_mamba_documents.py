"""Mamba-2 layers start anew where a document does, and stay what they were for everybody who does not pack."""

from __future__ import annotations

import copy
import sys
import types
from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import BambaConfig, Mamba2Config

from cascade.errors import EngineError
from cascade.models import mamba_documents
from cascade.models.loading import has_recurrent_layers
from cascade.models.logprobs import LogProbModel
from cascade.models.mamba_documents import (
    KERNELS,
    KEYWORD,
    MIXERS,
    Documents,
    MambaScan,
    document_keywords,
    document_starts,
    keep_documents_apart,
    kernels_installed,
    scan_documents,
)
from tests.models.tiny import VOCABULARY, build, llama, nemotron_h

CHUNK, KERNEL = 8, 4
ROWS = [[1, KERNEL - 1, KERNEL, CHUNK - 1, CHUNK, CHUNK + 1], [2 * CHUNK + 1, 1, 1, 13], [32]]
SIZES: dict[str, Any] = {"vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2}


def bamba() -> BambaConfig:
    return BambaConfig(
        **SIZES,
        intermediate_size=48,
        num_attention_heads=4,
        num_key_value_heads=2,
        attn_layer_indices=[1],
        mamba_n_heads=4,
        mamba_d_head=16,
        mamba_d_state=8,
        mamba_n_groups=2,
        mamba_chunk_size=CHUNK,
    )


def mamba2() -> Mamba2Config:
    return Mamba2Config(**SIZES, num_heads=4, head_dim=16, state_size=8, n_groups=2, expand=2, chunk_size=CHUNK)


def model_of(kind: str) -> Any:
    config = {"nemotron_h": nemotron_h, "bamba": bamba, "mamba2": mamba2}[kind]()
    return build(config, attention="eager" if kind == "mamba2" else "sdpa")  # it has no attention


def positions(rows: list[list[int]] = ROWS) -> torch.Tensor:
    return torch.stack([torch.cat([torch.arange(length) for length in row]) for row in rows])


def tokens() -> torch.Tensor:
    return torch.randint(0, VOCABULARY, (len(ROWS), sum(ROWS[0])), generator=torch.Generator().manual_seed(2))


def mixers(model: Any) -> list[Any]:
    return [module for module in model.modules() if type(module).__name__ in MIXERS.values()]


def test_documents_are_what_lies_between_positions_that_do_not_follow() -> None:
    rows = torch.tensor([[0, 1, 2, 0, 1], [0, 0, 1, 2, 3]])
    assert Documents.of(rows) == Documents((3, 2, 1, 4))
    assert Documents.of(torch.tensor([[5, 6, 7], [8, 0, 1]])) == Documents((3, 1, 2)), "rows cut out of longer ones"
    assert document_starts(rows).int().tolist() == [[1, 0, 0, 1, 0], [1, 1, 0, 0, 0]]
    assert sum(Documents.of(positions()).lengths) == positions().numel()


def test_documents_are_scanned_together_with_those_that_fill_as_many_chunks() -> None:
    groups = Documents((8, 1, 9, 16, 17)).alike(8)
    assert groups == [[0, 1], [2, 3], [4]]


@pytest.mark.parametrize("kind", MIXERS)
def test_packed_hidden_states_and_gradients_are_those_of_documents_of_their_own(kind: str) -> None:
    model = model_of(kind)
    ids = tokens()
    upstream = torch.randn(*ids.shape, model.config.hidden_size, generator=torch.Generator().manual_seed(3))

    def alone() -> torch.Tensor:
        rows = []
        for row, lengths in zip(ids, ROWS, strict=True):
            parts = [model.base_model(input_ids=part[None], use_cache=False)[0][0] for part in row.split(lengths)]
            rows.append(torch.cat(parts))
        return torch.stack(rows)

    def packed() -> torch.Tensor:
        keep_documents_apart(model)
        at = positions()
        return model.base_model(input_ids=ids, position_ids=at, use_cache=False, **document_keywords(model, at))[0]

    found = []
    for way in (alone, packed):
        hidden = way()
        parameters = list(model.base_model.parameters())
        found.append((hidden.detach(), torch.autograd.grad((hidden * upstream).sum(), parameters)))
    torch.testing.assert_close(found[1][0], found[0][0], rtol=1e-5, atol=1e-5)
    for mine, other in zip(found[1][1], found[0][1], strict=True):
        assert float((mine - other).norm()) <= 1e-5 * float(other.norm())


@pytest.mark.parametrize("kind", MIXERS)
def test_it_is_the_keyword_that_keeps_documents_apart(kind: str) -> None:
    model = model_of(kind)
    keep_documents_apart(model)
    at = positions()
    with torch.no_grad():
        apart, leaking = (
            model.base_model(input_ids=tokens(), position_ids=at, use_cache=False, **more)[0]
            for more in (document_keywords(model, at), {})
        )
    assert float((apart - leaking)[:2].abs().max()) > 0.1
    torch.testing.assert_close(apart[2], leaking[2], rtol=1e-5, atol=1e-5)  # a row of one document


def test_some_heads_of_a_mixer_scan_alone_as_they_do_among_the_others() -> None:
    mixer = mixers(model_of("nemotron_h"))[0]
    whole = MambaScan.of(mixer)
    heads, p, n = len(whole.skip), whole.head_dim, whole.state
    x_b_c = torch.randn(3, 32, heads * p + 2 * whole.groups * n, generator=torch.Generator().manual_seed(4))
    dt = torch.randn(3, 32, heads, generator=torch.Generator().manual_seed(5))
    documents = Documents.of(positions())
    expected = scan_documents(whole, x_b_c, dt, documents)
    share = heads // whole.groups  # the heads of the last group
    channels = torch.arange(x_b_c.shape[2]).split([heads * p, whole.groups * n, whole.groups * n])
    own = torch.cat([channels[0][-share * p :], channels[1][-n:], channels[2][-n:]])
    part = MambaScan(
        **{
            **vars(whole),
            "conv_weight": whole.conv_weight[own],
            "conv_bias": None if whole.conv_bias is None else whole.conv_bias[own],
            "decay": whole.decay[-share:],
            "skip": whole.skip[-share:],
            "dt_bias": whole.dt_bias[-share:],
            "groups": 1,
        }
    )
    got = scan_documents(part, x_b_c[..., own], dt[..., -share:], documents)
    torch.testing.assert_close(got, expected[..., -share * p :], rtol=1e-5, atol=1e-5)


def test_every_module_is_called_as_often_whatever_the_documents_are() -> None:
    """Ranks gather parameters when modules are called; unequal numbers of calls would make them wait for ever."""
    model = model_of("nemotron_h")
    policy = LogProbModel(model, 8)
    counts: list[list[str]] = []
    for name, module in model.named_modules():
        module.register_forward_hook(lambda *_, name=name: counts[-1].append(name))
    for rows in (ROWS, [[32]] * 3, [[1] * 32] * 3):
        counts.append([])
        policy(tokens(), positions(rows), torch.ones(3, 32))
    assert counts[0] == counts[1] == counts[2]
    assert len([name for name in counts[0] if name.endswith("in_proj")]) == len(mixers(model))


def test_a_model_that_packs_still_samples_with_its_cache_as_before() -> None:
    model = model_of("nemotron_h").eval()
    prompt = tokens()[2:, :9]

    def sample() -> torch.Tensor:
        return model.generate(prompt, max_new_tokens=6, do_sample=False, pad_token_id=0)

    before = sample()
    policy = LogProbModel(model, 8)
    policy(tokens(), positions(), torch.ones(3, 32))
    assert torch.equal(sample(), before)


def test_another_model_of_the_class_is_left_alone_and_a_copy_is_whole() -> None:
    model, other = model_of("nemotron_h"), model_of("nemotron_h")
    LogProbModel(model, 8)
    LogProbModel(model, 8)  # as a rollout engine does whenever it scores
    assert all("forward" in vars(mixer) for mixer in mixers(model))
    assert not any("forward" in vars(mixer) for mixer in mixers(other))
    twin = copy.deepcopy(model)
    assert all(mine.forward.__self__ is mine for mine in mixers(twin))
    assert set(twin.state_dict()) == set(other.state_dict())


def test_documents_with_a_cache_or_a_mask_are_refused() -> None:
    model = model_of("nemotron_h")
    keep_documents_apart(model)
    hidden, documents = torch.zeros(3, 32, 32), Documents.of(positions())
    for wrong in ({"cache_params": object()}, {"attention_mask": torch.ones(3, 32)}):
        with pytest.raises(EngineError, match="together with a cache or an attention mask"):
            mixers(model)[0](hidden, **wrong, **{KEYWORD: documents})


def test_kernels_are_given_sequence_numbers_where_they_are_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mamba_documents, "kernels_installed", lambda: True)
    at = torch.tensor([[0, 1, 2, 0, 1], [0, 0, 1, 2, 3]])
    keywords = document_keywords(model_of("nemotron_h"), at)
    assert list(keywords) == ["seq_idx"]
    assert keywords["seq_idx"].tolist() == [[0, 0, 0, 1, 1], [0, 1, 1, 1, 1]]
    assert keywords["seq_idx"].dtype == torch.int32
    assert keywords["seq_idx"].is_contiguous()
    laid_out = document_keywords(model_of("nemotron_h"), at.reshape(1, -1))["seq_idx"]
    assert laid_out.tolist() == [[0, 0, 0, 1, 1, 2, 3, 3, 3, 3]], "rows end to end: their borders are documents' too"


@pytest.mark.parametrize("present", [(), ("causal_conv1d",), tuple(KERNELS)], ids=len)
def test_half_an_installation_is_none(monkeypatch: pytest.MonkeyPatch, present: tuple[str, ...]) -> None:
    """transformers falls back layer by layer, and its own scan ignores `seq_idx` without a word."""
    for name, functions in KERNELS.items():
        for depth in range(1, name.count(".") + 2):
            parent = ".".join(name.split(".")[:depth])
            monkeypatch.setitem(sys.modules, parent, types.ModuleType(parent) if name in present else None)
        for function in functions if name in present else ():
            setattr(sys.modules[name], function, print)
    kernels_installed.cache_clear()
    assert kernels_installed() == (len(present) == len(KERNELS))
    kernels_installed.cache_clear()


def test_models_without_mamba_layers_are_given_nothing() -> None:
    model = build(llama())
    keep_documents_apart(model)
    assert document_keywords(model, positions()) == {}
    assert not any("forward" in vars(module) for module in model.modules())


@pytest.mark.parametrize(
    ("config", "recurrent"), [(llama, False), (nemotron_h, True), (bamba, True), (mamba2, True)], ids=lambda c: str(c)
)
def test_recurrent_layers_are_known_from_the_config(config: Callable[[], Any], recurrent: bool) -> None:
    assert has_recurrent_layers(config()) == recurrent
