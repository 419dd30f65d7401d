"""Teachers score what transformers says, and no more of them are resident than there is room for."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from cascade.errors import EngineError
from cascade.teachers.scorer import LocalTeacherScorer
from cascade.types import TrainingSequence
from tests.tiny_models import policy_config, sequences, write_model

KINDS = ("qwen3_moe", "nemotron_h", "llama")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, int], Path]:
    """(kind, seed) -> a folder with an untrained model."""
    root = tmp_path_factory.mktemp("teachers")

    def get(kind: str, seed: int = 0) -> Path:
        path = root / f"{kind}{seed}"
        return path if path.exists() else write_model(path, kind, seed)

    return get


def distributions(folder: Path, sequence: TrainingSequence, temperature: float) -> torch.Tensor:
    """transformers' own log-softmax at every loss token, [V(y), V]."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        logits = model(torch.tensor([sequence.token_ids]), use_cache=False).logits[0, :-1]
    return (logits / temperature).log_softmax(-1)[torch.tensor(sequence.loss_mask[1:]).bool()]


@pytest.mark.parametrize("temperature", (1.0, 0.7))
@pytest.mark.parametrize("kind", KINDS)
def test_scores_are_the_log_softmax_of_transformers(
    folder: Callable[[str, int], Path], kind: str, temperature: float
) -> None:
    scorer = LocalTeacherScorer({"a": folder(kind, 0)}, policy_config(kind), pad_id=0)
    documents = sequences(7)
    for document, scores in zip(documents, scorer.score("a", documents, temperature), strict=True):
        mask = torch.tensor(document.loss_mask).bool()
        tokens = torch.tensor(document.token_ids)[mask]
        expected = distributions(folder(kind, 0), document, temperature).gather(1, tokens[:, None]).squeeze(1)
        found = torch.tensor(scores)
        assert len(scores) == len(document.token_ids)
        torch.testing.assert_close(found[mask], expected, atol=1e-5, rtol=0)
        assert not found[~mask].any()


@pytest.mark.parametrize("temperature", (1.0, 0.7))
@pytest.mark.parametrize("kind", KINDS)
def test_top_k_are_the_likeliest_tokens_of_transformers(
    folder: Callable[[str, int], Path], kind: str, temperature: float
) -> None:
    scorer = LocalTeacherScorer({"a": folder(kind, 0)}, policy_config(kind, log_prob_chunk=4), pad_id=0)
    documents = sequences(7)
    for document, (ids, values) in zip(documents, scorer.top_k("a", documents, temperature, 5), strict=True):
        expected = distributions(folder(kind, 0), document, temperature).topk(5, dim=-1)
        assert ids.shape == values.shape == (document.loss_tokens, 5)
        torch.testing.assert_close(values, expected.values, atol=1e-5, rtol=0)
        torch.testing.assert_close(
            distributions(folder(kind, 0), document, temperature).gather(1, ids), expected.values, atol=1e-5, rtol=0
        )


def test_one_teacher_is_resident_at_a_time_and_is_kept_while_it_is_asked(
    folder: Callable[[str, int], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    import cascade.teachers.scorer as module

    alive: list[weakref.ref[object]] = []
    before_each_load: list[int] = []
    load = module.load_model

    def counted(*arguments: object) -> object:
        before_each_load.append(sum(reference() is not None for reference in alive))
        model = load(*arguments)  # type: ignore[arg-type]
        alive.append(weakref.ref(model))
        return model

    monkeypatch.setattr(module, "load_model", counted)
    folders = {"a": folder("qwen3_moe", 0), "b": folder("qwen3_moe", 1)}
    scorer = LocalTeacherScorer(folders, policy_config("qwen3_moe"), pad_id=0)
    assert not alive
    documents = sequences(3)
    a, b = scorer.score("a", documents, 1.0), scorer.score("b", documents, 1.0)
    assert len(alive) == 2
    assert scorer.score("b", documents, 1.0) == b
    scorer.top_k("b", documents, 1.0, 2)
    assert len(alive) == 2  # the resident one is not loaded again
    assert scorer.score("a", documents, 1.0) == a != b
    assert before_each_load == [0, 0, 0]  # whoever was resident had left before the next was read
    gc.collect()
    assert sum(reference() is not None for reference in alive) == 1


def test_with_room_for_two_the_one_asked_longest_ago_leaves_for_a_third(
    folder: Callable[[str, int], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    import cascade.teachers.scorer as module

    loaded: list[str] = []
    load = module.load_model

    def counted(path: Path, *arguments: object) -> object:
        loaded.append(path.name[-1])
        return load(path, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "load_model", counted)
    folders = {str(seed): folder("qwen3_moe", seed) for seed in range(3)}
    scorer = LocalTeacherScorer(folders, policy_config("qwen3_moe"), pad_id=0, resident=2)
    documents = sequences(3)
    first = [scorer.score(teacher, documents, 1.0) for teacher in ("0", "1", "0", "1", "0")]
    assert loaded == ["0", "1"]
    assert first[0] == first[2] == first[4] != first[1]
    assert scorer.order(["0", "1", "2"]) == ["0", "1", "2"]
    scorer.score("2", documents, 1.0)
    assert scorer.order(["0", "1", "2"]) == ["0", "2", "1"]  # 1 has left
    assert scorer.score("1", documents, 1.0) == first[1]
    assert loaded == ["0", "1", "2", "1"]


def test_nothing_to_score_is_no_work(folder: Callable[[str, int], Path]) -> None:
    scorer = LocalTeacherScorer({"a": folder("llama", 0)}, policy_config("llama"), pad_id=0)
    assert scorer.score("a", [], 1.0) == []
    assert scorer.top_k("a", [], 1.0, 3) == []


def test_a_sequence_without_loss_tokens_has_zeros(folder: Callable[[str, int], Path]) -> None:
    scorer = LocalTeacherScorer({"a": folder("llama", 0)}, policy_config("llama"), pad_id=0)
    silent = TrainingSequence((7, 8, 9), (0, 0, 0))
    assert scorer.score("a", [silent], 1.0) == [[0.0, 0.0, 0.0]]
    ids, values = scorer.top_k("a", [silent], 1.0, 3)[0]
    assert ids.shape == values.shape == (0, 3)


def test_an_unknown_teacher_is_an_error() -> None:
    scorer = LocalTeacherScorer({}, policy_config("llama"), pad_id=0)
    with pytest.raises(EngineError, match="No teacher a was resolved"):
        scorer.score("a", sequences(1), 1.0)
