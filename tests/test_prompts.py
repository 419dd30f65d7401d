"""Rows become prompts with their own teacher, and demonstrations with loss on assistant tokens only."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cascade.config import EnvironmentConfig
from cascade.data.characters import DEFAULT_ALPHABET, character_tokenizer
from cascade.data.mixture import Mixture
from cascade.data.rendering import bundled_template
from cascade.environments.catalogue import build_environments
from cascade.errors import DataError
from cascade.prompts import PromptSource, Renderer

TOKENIZER = character_tokenizer(DEFAULT_ALPHABET, bundled_template("characters"))
ROWS = {"train_rows": 50, "validation_rows": 5, "test_rows": 5}


def source(kinds: dict[str, EnvironmentConfig], longest: int = 200, **teachers: str) -> PromptSource:
    environments = build_environments(kinds, seed=0)
    rows = {name: environment.rows("train") for name, environment in environments.items()}
    renderer = Renderer(environments, dict.fromkeys(kinds), TOKENIZER)
    return PromptSource(renderer, Mixture(rows, dict.fromkeys(kinds, 1.0), 0), longest, teachers)


TWO = {
    "math": EnvironmentConfig(kind="addition", domain="math", params=ROWS),
    "long": EnvironmentConfig(kind="needle_digits", domain="long_context", params=ROWS),
}


def test_every_prompt_carries_the_teacher_of_its_domain() -> None:
    prompts = source(TWO, math="teacher-m", long_context="teacher-l").draw(20)
    assert {(p.row.domain, p.teacher) for p in prompts} == {("math", "teacher-m"), ("long_context", "teacher-l")}


def test_a_demonstration_trains_the_gold_answer_and_its_end_and_nothing_else() -> None:
    drawn = source({"math": TWO["math"]})
    row = drawn.mixture.draw(1)[0]
    sequence = drawn.renderer.demonstration(row)
    trained = [token for token, mask in zip(sequence.token_ids, sequence.loss_mask, strict=True) if mask]
    assert TOKENIZER.decode(trained) == f"{row.data['answer']}<|end|>"
    prompt = drawn.renderer.prompt(row)
    assert sequence.token_ids[: len(prompt.token_ids)] == prompt.token_ids


def test_a_demonstration_that_no_row_holds_is_an_error() -> None:
    with pytest.raises(DataError, match="row_tokens"):
        source(TWO, longest=4).demonstrations(1)


def test_conversations_that_people_bring_train_their_assistant_turns(tmp_path: Path) -> None:
    rows = [
        {
            "messages": [
                {"role": "user", "content": "a"},
                {"role": "assistant", "content": "b"},
                {"role": "user", "content": "c"},
                {"role": "assistant", "content": "d"},
            ]
        },
        {"prompt": "e", "completion": "f"},
        {"text": "ghi"},
    ]
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(json.dumps(row) for row in rows))
    config = EnvironmentConfig(kind="conversations", domain="math", params={"train": str(file)})
    drawn = source({"mine": config})
    trained = set()
    for sequence in drawn.demonstrations(3):
        kept = [token for token, mask in zip(sequence.token_ids, sequence.loss_mask, strict=True) if mask]
        trained.add(TOKENIZER.decode(kept))
    assert trained == {"b<|end|>d<|end|>", "f<|end|>", "hi<|end|>"}  # the first token of a text has no context


def test_rows_choose_their_mode_and_bring_their_tools_and_the_recipe_says_the_rest(tmp_path: Path) -> None:
    tool = {"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}}
    rows = [
        {"prompt": "on", "thinking": True},
        {"prompt": "off", "chat_template_kwargs": {"enable_thinking": False}},
        {"prompt": "as the recipe says"},
        {"prompt": "with a tool", "tools": [tool]},
    ]
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(json.dumps({**row, "answer": "4"}) for row in rows))
    config = EnvironmentConfig(kind="maths", domain="math", params={"test": str(file)})
    environments = build_environments({"mine": config}, seed=0)
    tokenizer = character_tokenizer(DEFAULT_ALPHABET, bundled_template("chatml"))
    shown = {}
    for recipe in (True, False):
        renderer = Renderer(environments, {"mine": recipe}, tokenizer)
        for row in environments["mine"].rows("test"):
            prompt = renderer.prompt(row)
            shown[row.data["messages"][0]["content"], recipe] = (prompt.thinking, tokenizer.decode(prompt.token_ids))
    asked = {key: thinking for key, (thinking, _) in shown.items()}
    assert asked[("on", True)] is asked[("on", False)] is True
    assert asked[("off", True)] is asked[("off", False)] is False
    assert asked[("as the recipe says", True)] is True
    assert asked[("as the recipe says", False)] is False
    for (_, _), (thinking, text) in shown.items():
        assert text.rstrip().endswith("<think>") == thinking
    assert "<name>add</name>" in shown[("with a tool", True)][1]
    assert "<name>add</name>" not in shown[("on", True)][1]
