"""Training rows from people's prompts: worded, never contradictory, the same every time, with gold answers."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path

import pytest

from cascade.environments.constraint_rows import constrained, gold_answer
from cascade.environments.constraint_templates import (
    DEFAULT_IDS,
    ENDINGS,
    IFBENCH_IDS,
    LANGUAGES,
    TEMPLATES,
    WORDS,
    conflicting,
    draw_constraints,
)
from cascade.environments.filler_answer import FILLER
from cascade.environments.instruction_following import InstructionFollowing
from cascade.errors import DataError
from cascade.types import Row, Split

SUBJECTS = (
    "trees",
    "rivers",
    "cheese",
    "chess",
    "cities",
    "clouds",
    "trains",
    "poems",
    "maps",
    "stars",
    "bees",
    "bread",
)
PROMPTS = [
    f"{ask} {subject}{end}"
    for ask in ("Tell me about", "Explain to a child", "What is there to know on")
    for subject in SUBJECTS
    for end in ".?"
]


@pytest.fixture
def source(tmp_path: Path) -> str:
    path = tmp_path / "prompts.jsonl"
    path.write_text("\n".join(json.dumps({"prompt": prompt}) for prompt in PROMPTS))
    return str(path)


def environment(source: str, **params: object) -> InstructionFollowing:
    return InstructionFollowing(prompts=source, validation_rows=8, test_rows=8, **params)  # type: ignore[arg-type]


def all_rows(made: InstructionFollowing) -> list[Row]:
    splits: tuple[Split, ...] = ("train", "validation", "test")
    return [row for split in splits for row in made.rows(split)]


@pytest.mark.parametrize("counts", [(1, 1), (1, 3), (5, 5)])
def test_every_generated_row_has_a_gold_answer_that_scores_one(source: str, counts: tuple[int, int]) -> None:
    made = environment(source, min_constraints=counts[0], max_constraints=counts[1], constraint_ids=tuple(TEMPLATES))
    rows = all_rows(made)
    assert len(rows) == len(PROMPTS)
    for row in rows:
        assert made.score(row, made.gold(row)).reward == 1.0
        assert counts[0] <= len(row.data["instruction_id_list"]) <= counts[1]


def test_every_kind_has_a_gold_answer_with_any_arguments() -> None:
    for key, template in TEMPLATES.items():
        for number in range(10):
            rng = random.Random(number)
            given = template.draw(rng, rng.sample(WORDS, len(WORDS)), PROMPTS[0])
            assert gold_answer([key], [given]) is not None, (key, given)


def test_all_kinds_are_drawn_and_no_two_that_exclude_each_other() -> None:
    drawn: Counter[str] = Counter()
    for number in range(400):
        keys = [key for key, _ in draw_constraints(random.Random(number), TEMPLATES, 4, PROMPTS[0])]
        drawn.update(keys)
        assert not any(conflicting(a, b) for at, a in enumerate(keys) for b in keys[at + 1 :])
    assert set(drawn) == set(TEMPLATES)
    assert len(TEMPLATES) >= 35
    assert len(DEFAULT_IDS) >= 25


@pytest.mark.parametrize(
    "first, second",
    [
        ("change_case:english_capital", "change_case:english_lowercase"),
        ("detectable_format:json_format", "detectable_format:title"),
        ("combination:repeat_prompt", "startend:quotation"),
        ("first_word:first_word_answer", "startend:quotation"),
        ("startend:end_checker", "last_word:last_word_answer"),
        ("length_constraints:number_paragraphs", "length_constraints:nth_paragraph_first_word"),
        ("language:response_language", "keywords:existence"),
        ("punctuation:punctuation_dot", "detectable_content:postscript"),
    ],
)
def test_what_cannot_be_met_together_is_never_asked_together(first: str, second: str) -> None:
    assert conflicting(first, second)
    assert conflicting(second, first)
    assert not conflicting("punctuation:no_comma", "keywords:existence")


def test_prompts_say_what_is_checked(source: str) -> None:
    for row in all_rows(environment(source, min_constraints=3)):
        text = row.data["messages"][-1]["content"]
        assert any(text.startswith(prompt) for prompt in PROMPTS)
        assert "{" not in text
        for given in row.data["kwargs"]:
            for key, value in given.items():
                if key not in ("prompt_to_repeat", "relation", "let_relation", "capital_relation"):
                    for word in value if isinstance(value, list) else [LANGUAGES.get(value, value)]:
                        assert str(word) in text, (key, value, text)


def test_rows_are_the_same_for_every_seed_of_a_run_and_others_for_another_constraints_seed(source: str) -> None:
    ids = {row.id for row in all_rows(environment(source, seed=1))}
    assert ids == {row.id for row in all_rows(environment(source, seed=2))}
    other = {row.id for row in all_rows(environment(source, constraints_seed=1))}
    assert len(ids & other) < len(ids) / 4


def test_ifbench_kinds_are_left_out_unless_asked_for(source: str) -> None:
    kinds = {key for row in all_rows(environment(source, max_constraints=5)) for key in row.data["instruction_id_list"]}
    assert not kinds & set(IFBENCH_IDS)
    only = environment(source, constraint_ids=IFBENCH_IDS, max_constraints=1)
    assert {key for row in all_rows(only) for key in row.data["instruction_id_list"]} <= set(IFBENCH_IDS)


def test_prompts_are_read_as_people_have_them() -> None:
    def made(record: dict[str, object]) -> list[dict[str, str]]:
        return constrained(record, ids=DEFAULT_IDS, counts=(1, 1), seed=0)["messages"]

    talk = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hello?"}]
    answered = [*talk, {"role": "assistant", "content": "Hello."}]
    for record in ({"messages": talk}, {"prompt": answered}, {"responses_create_params": {"input": talk}}):
        found = made(record)
        assert [message["role"] for message in found] == ["system", "user"]
        assert found[-1]["content"].startswith("Hello?\n\n")
    assert made({"question": "Why?"})[-1]["content"].startswith("Why?\n\n")
    for record in ({}, {"prompt": ""}, {"messages": [{"role": "assistant", "content": "Hello."}]}, {"question": 3}):
        with pytest.raises(DataError, match=r"no prompt|The prompt"):
            made(record)


def test_what_fits_nothing_is_an_error_that_says_so() -> None:
    ids = ("change_case:english_capital", "change_case:english_lowercase")
    with pytest.raises(DataError, match="No 2 constraints fit"):
        constrained({"prompt": "Hello?"}, ids=ids, counts=(2, 2), seed=0)


def test_words_are_distinct_and_in_no_filler() -> None:
    filler = " ".join((*FILLER["en"], *ENDINGS)).lower()
    for word in WORDS:
        assert word not in filler
        assert not any(word in other for other in WORDS if other != word)
        assert not set("jqxz") & set(word), word
    assert not set(",!?;0123456789jqxz") & set(" ".join(FILLER["en"]).lower())


def test_rows_with_instructions_of_their_own_keep_them(tmp_path: Path, source: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"prompt": "Hi", "instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]}))
    made = environment(source, train=str(path))
    assert len(all_rows(made)) == len(PROMPTS) + 1
