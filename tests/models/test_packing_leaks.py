"""Documents of a row do not see each other: planted markers change nothing elsewhere, in every mode not refused.

The models are trained here as recipes train them, through a real DeepSpeed engine (ZeRO-0) in fp32.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, FalconH1Config, GraniteMoeHybridConfig

from cascade.data.packing import pack
from cascade.errors import EngineError
from cascade.models.document_leaks import require_documents_apart
from cascade.models.loading import load_model
from cascade.models.logprobs import LogProbModel
from cascade.policy.deepspeed import DeepSpeedPolicy
from cascade.teachers.scorer import LocalTeacherScorer
from tests.models.tiny import build
from tests.tiny_models import TOKENIZER, policy_config, sequences, sft_stage, write_model

KINDS = ("llama", "qwen3_moe", "nemotron_h")
ROWS = [[1, 3, 8, 9], [2, 19], [12, 1, 8], [21]]
"""Tokens of the documents of every row: one token, the convolution's kernel less one (3), a chunk of the scan (8), a
chunk and one, more than two chunks; the third row begins with padding, and a row is one document."""
PADDING = (2, 0)  # row and document
MARKER = 7
WIDTH = sum(ROWS[0])


@dataclass(frozen=True)
class Mode:
    """A way to compute the same thing."""

    kind: str
    attention: str
    checkpointing: bool

    def __str__(self) -> str:
        return f"{self.kind}-{self.attention}{'-checkpointing' if self.checkpointing else ''}"


MODES = [Mode(kind, attention, again) for kind in KINDS for attention in ("sdpa", "eager") for again in (False, True)]


@dataclass(frozen=True)
class Subject:
    """A policy with packing on, its weights, and where they came from."""

    policy: DeepSpeedPolicy
    folder: Path

    def log_probs(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return self.policy.engine(ids, positions(), mask)[0]

    def gradients(self, loss: torch.Tensor) -> dict[str, torch.Tensor]:
        names, parameters = zip(*self.policy.model.named_parameters(), strict=True)
        return dict(zip(names, torch.autograd.grad(loss, parameters, materialize_grads=True), strict=True))


@pytest.fixture(scope="module", params=MODES, ids=str)
def subject(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Subject]:
    mode: Mode = request.param
    folder = write_model(tmp_path_factory.mktemp("model") / mode.kind, mode.kind)
    config = policy_config(
        mode.kind, packing=True, attention=mode.attention, activation_checkpointing=mode.checkpointing, log_prob_chunk=5
    )
    policy = DeepSpeedPolicy(folder, config, sft_stage(), freeze_router=False)
    yield Subject(policy, folder)
    policy.close()


def positions() -> torch.Tensor:
    return torch.stack([torch.cat([torch.arange(length) for length in row]) for row in ROWS])


def tokens() -> torch.Tensor:
    generator = torch.Generator().manual_seed(11)
    ids = torch.randint(8, len(TOKENIZER), (len(ROWS), WIDTH), generator=generator)
    ids[where(*PADDING)] = 0
    return ids


def where(row: int, document: int) -> tuple[int, slice]:
    start = sum(ROWS[row][:document])
    return row, slice(start, start + ROWS[row][document])


def all_documents() -> list[tuple[int, int]]:
    return [(row, document) for row, lengths in enumerate(ROWS) for document in range(len(lengths))]


def loss_mask(*without: tuple[int, int]) -> torch.Tensor:
    """1 where a token follows another of its document, except in padding and the documents named."""
    mask = (positions() > 0).float()
    for place in (PADDING, *without):
        mask[where(*place)] = 0
    return mask


@pytest.mark.parametrize("marked", [(0, 0), (0, 2), (1, 0), PADDING], ids=str)
def test_a_marker_in_one_document_changes_no_log_prob_and_no_gradient_of_the_others(
    subject: Subject, marked: tuple[int, int]
) -> None:
    before, after = tokens(), tokens()
    after[where(*marked)] = MARKER
    others = loss_mask(marked)
    weights = torch.randn(others.shape, generator=torch.Generator().manual_seed(3))
    values, gradients = [], []
    for ids in (before, after):
        log_probs = subject.log_probs(ids, others)
        values.append(log_probs.detach())
        gradients.append(subject.gradients((log_probs * weights).sum()))
    assert float((values[0] - values[1]).abs().max()) < 2e-6
    for name, one in gradients[0].items():
        assert float((one - gradients[1][name]).norm()) <= 1e-5 * float(one.norm()), name
    if ROWS[marked[0]][marked[1]] > 1:
        with torch.no_grad():
            own = [subject.log_probs(ids, (positions() > 0).float())[where(*marked)] for ids in (before, after)]
        assert float((own[0] - own[1]).abs().max()) > 0.1, "the marker is seen where it stands"


def test_a_loss_on_some_documents_has_no_gradient_at_the_embedded_tokens_of_the_others(subject: Subject) -> None:
    seen: list[torch.Tensor] = []

    def keep(_module: Any, _arguments: Any, output: torch.Tensor) -> None:
        output.retain_grad()
        seen.append(output)

    hook = subject.policy.model.get_input_embeddings().register_forward_hook(keep)
    chosen = [(0, 3), (1, 1), (2, 2)]
    mask = torch.zeros(tokens().shape)
    for place in chosen:
        mask[where(*place)] = loss_mask()[where(*place)]
    try:
        subject.log_probs(tokens(), mask).sum().backward()
    finally:
        hook.remove()
        subject.policy.model.zero_grad(set_to_none=True)
    reached = seen[0].grad
    assert reached is not None
    for place in all_documents():
        assert bool(reached[where(*place)].any()) == (place in chosen), place


def test_packed_values_and_gradients_are_those_of_transformers_on_documents_of_their_own(subject: Subject) -> None:
    alone = AutoModelForCausalLM.from_pretrained(subject.folder, dtype=torch.float32, attn_implementation="sdpa")
    ids, mask = tokens(), loss_mask()
    weights = torch.randn(mask.shape, generator=torch.Generator().manual_seed(3))
    log_probs = subject.log_probs(ids, mask)
    total = torch.zeros(())
    for place in all_documents():
        document = ids[where(*place)]
        if place == PADDING or len(document) == 1:
            continue
        every = alone(input_ids=document[None], use_cache=False).logits[0, :-1].log_softmax(-1)
        expected = every.gather(1, document[1:, None]).squeeze(1)
        torch.testing.assert_close(log_probs[where(*place)][1:], expected, rtol=1e-5, atol=2e-6)
        total = total + (expected * weights[where(*place)][1:]).sum()
    total.backward()
    gradients = subject.gradients((log_probs * weights).sum())
    for name, parameter in alone.named_parameters():
        wanted = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        assert float((gradients[name] - wanted).norm()) <= 1e-5 * float(wanted.norm()) + 1e-9, name


def test_packed_batches_give_the_loss_and_gradients_of_one_document_a_row(subject: Subject) -> None:
    documents = sequences(9)
    losses: list[float] = []
    gradients: list[dict[str, Any]] = []
    for one_per_row in (False, True):
        total, summed = 0.0, {name: 0.0 for name, _ in subject.policy.model.named_parameters()}
        for batch in pack(
            documents, [0.1] * 9, row_tokens=48, rows_per_batch=3, ranks=1, rank=0, pad_id=0, one_per_row=one_per_row
        ):
            loss = (subject.policy.log_probs(batch)[0] * batch.token_weight).sum()
            total += float(loss.detach())
            summed = {name: summed[name] + part for name, part in subject.gradients(loss).items()}
        losses.append(total)
        gradients.append(summed)
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    for name, one in gradients[0].items():
        assert float((one - gradients[1][name]).norm()) <= 1e-5 * float(one.norm()), name


def test_an_attention_mask_cannot_be_given() -> None:
    model = LogProbModel(build_kind("llama"), 8)
    with pytest.raises(TypeError, match="attention_mask"):
        model(tokens(), positions(), loss_mask(), attention_mask=torch.ones(4, WIDTH))


@pytest.mark.parametrize("attention", ["flash_attention_2", "flash_attention_3"])
def test_flash_attention_that_is_not_installed_is_refused(tmp_path: Path, attention: str) -> None:
    folder = write_model(tmp_path / "llama", "llama")
    with pytest.raises(EngineError, match=f"`policy.attention` is {attention}, which is not installed"):
        load_model(folder, policy_config("llama", attention=attention))


def build_kind(kind: str) -> Any:
    from tests.models import tiny

    return build(getattr(tiny, kind)())


def without_positions(model: Any) -> Callable[..., Any]:
    """What happens where a model is not told where documents start."""
    policy = LogProbModel(model, 8)
    return lambda ids, positions, mask: policy(ids, torch.arange(ids.shape[1]).expand_as(ids), mask)


def with_a_mask(model: Any) -> Callable[..., Any]:
    """transformers ignores documents where it is given a mask, even one of ones: the plainest silent mistake."""
    policy = LogProbModel(model, 8)
    plain = model.base_model.forward

    def masked(**keywords: Any) -> Any:
        return plain(attention_mask=torch.ones_like(keywords["input_ids"]), **keywords)

    model.base_model.forward = masked
    return policy


def without_mamba_documents(model: Any) -> Callable[..., Any]:
    policy = LogProbModel(model, 8)
    for module in model.modules():
        vars(module).pop("forward", None)
    return policy


@pytest.mark.parametrize(
    ("kind", "mistake"),
    [
        ("llama", without_positions),
        ("llama", with_a_mask),
        ("qwen3_moe", with_a_mask),
        ("nemotron_h", without_positions),
        ("nemotron_h", without_mamba_documents),
    ],
)
def test_a_leak_is_found_before_training(kind: str, mistake: Callable[[Any], Any]) -> None:
    model = build_kind(kind)
    require_documents_apart(LogProbModel(model, 8), model)
    with pytest.raises(EngineError, match="a packed document sees the one before it"):
        require_documents_apart(mistake(model), model)


@pytest.mark.parametrize("kind", KINDS)
def test_rounding_is_not_taken_for_a_leak_nor_the_reverse_in_bfloat16(kind: str) -> None:
    model = build_kind(kind).bfloat16()
    require_documents_apart(LogProbModel(model, 8), model)
    with pytest.raises(EngineError, match=r"policy\.packing=false"):
        require_documents_apart(without_positions(model), model)


def granite_hybrid() -> GraniteMoeHybridConfig:
    """Attention only. Its masks are made without positions, so transformers does not keep its documents apart."""
    return GraniteMoeHybridConfig(
        vocab_size=len(TOKENIZER),
        hidden_size=32,
        intermediate_size=48,
        shared_intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_local_experts=0,
        layer_types=["full_attention"],
        mamba_n_heads=4,
        initializer_range=0.2,
    )


def test_an_architecture_that_takes_no_documents_from_positions_is_found_out() -> None:
    model = AutoModelForCausalLM.from_config(granite_hybrid(), dtype=torch.float32)
    with pytest.raises(EngineError, match="GraniteMoeHybridForCausalLM a packed document sees the one before it"):
        require_documents_apart(LogProbModel(model, 8), model)


def test_recurrent_layers_that_cannot_be_kept_apart_are_refused_with_packing_before_a_weight_is_read(
    tmp_path: Path,
) -> None:
    FalconH1Config().save_pretrained(tmp_path)  # no weights are there
    config = policy_config("llama")
    for load in (
        lambda: DeepSpeedPolicy(tmp_path, config, sft_stage(), freeze_router=False),
        lambda: LocalTeacherScorer({"t": tmp_path}, config, 0).score("t", [], 1.0),
    ):
        with pytest.raises(EngineError, match="Layers of falcon_h1 carry a state") as caught:
            load()
        assert "policy.packing=false" in str(caught.value)


def test_a_packed_teacher_scores_as_an_unpacked_one(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "nemotron_h", "nemotron_h")
    documents = sequences(9)
    packed, alone = (
        LocalTeacherScorer({"t": folder}, policy_config("nemotron_h", packing=packing), 0) for packing in (True, False)
    )
    for one, other in zip(packed.score("t", documents, 0.7), alone.score("t", documents, 0.7), strict=True):
        assert one == pytest.approx(other, abs=5e-6)
    for one, other in zip(packed.top_k("t", documents, 0.7, 4), alone.top_k("t", documents, 0.7, 4), strict=True):
        torch.testing.assert_close(one[1], other[1], rtol=0, atol=5e-6)
