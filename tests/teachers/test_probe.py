"""A teacher with another tokenizer, template or vocabulary is refused before anything is trained."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import LlamaConfig

from cascade.data.characters import DEFAULT_ALPHABET, character_tokenizer
from cascade.data.rendering import bundled_template
from cascade.errors import EngineError
from cascade.teachers.probe import probe_teachers


def folder(path: Path, alphabet: str = DEFAULT_ALPHABET, template: str = "characters", vocabulary: int = 102) -> Path:
    """The config and tokenizer of a model; the probe reads no weights."""
    LlamaConfig(vocab_size=vocabulary, hidden_size=8, num_attention_heads=1, num_hidden_layers=1).save_pretrained(path)
    character_tokenizer(alphabet, bundled_template(template)).save_pretrained(path)
    return path


@pytest.fixture
def student(tmp_path: Path) -> Path:
    return folder(tmp_path / "student")


def test_a_teacher_of_the_same_family_passes(student: Path, tmp_path: Path) -> None:
    tokenizer = character_tokenizer(DEFAULT_ALPHABET, bundled_template("characters"))
    probe_teachers({"sft": folder(tmp_path / "teacher")}, student, tokenizer)


@pytest.mark.parametrize(
    ("different", "what"),
    [
        ({"alphabet": DEFAULT_ALPHABET[::-1]}, "tokens"),
        ({"template": "chatml"}, "chat template"),
        ({"vocabulary": 128}, "vocabulary size"),
    ],
)
def test_a_difference_names_both_sides(student: Path, tmp_path: Path, different: dict, what: str) -> None:
    tokenizer = character_tokenizer(DEFAULT_ALPHABET, bundled_template("characters"))
    teacher = folder(tmp_path / "teacher", **different)
    with pytest.raises(EngineError) as caught:
        probe_teachers({"math_rl": teacher}, student, tokenizer)
    for words in ("math_rl", str(teacher), str(student), what):
        assert words in str(caught.value)
