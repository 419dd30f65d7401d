"""Before a teacher teaches: it must read and write the same tokens as the policy."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoTokenizer

from cascade.data.chat import render_prompt
from cascade.errors import EngineError
from cascade.types import Message

CHAT: list[Message] = [
    {"role": "user", "content": "What is 12+3? Answer {briefly}."},
    {"role": "assistant", "content": "15"},
    {"role": "user", "content": 'And "twice" that?'},
]


def probe_teachers(teachers: Mapping[str, Path], student: Path, tokenizer: Any) -> None:
    """Compares every teacher with the student. `teachers`: name -> Hugging Face folder.

    A teacher is scored at the policy's token ids, so both must have the same vocabulary, turn the same text into the
    same ids, end an answer with the same token, and render a chat in the same way.

    Raises `EngineError` naming both sides and what differs.
    """
    vocabulary = AutoConfig.from_pretrained(student).get_text_config().vocab_size
    for name, folder in teachers.items():
        theirs = AutoTokenizer.from_pretrained(folder)
        facts = {
            "vocabulary size": (AutoConfig.from_pretrained(folder).get_text_config().vocab_size, vocabulary),
            "tokens": (theirs.get_vocab(), tokenizer.get_vocab()),
            "end-of-answer token": (theirs.eos_token_id, tokenizer.eos_token_id),
            "chat template": (render_prompt(theirs, CHAT), render_prompt(tokenizer, CHAT)),
        }
        for what, (of_teacher, of_student) in facts.items():
            if of_teacher != of_student:
                raise EngineError(
                    f"The teacher {name} ({folder}) and the policy ({student}) differ in their {what}.",
                    "Choose a teacher that descends from the same base model, or give both the same tokenizer.",
                )
