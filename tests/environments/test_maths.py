"""The maths environment: rows of every form, verdicts, and answers that try to earn one without the work."""

from __future__ import annotations

import gzip
import json
import os
import random
import re
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from cascade.environments.maths import Maths, final_answer, reference_answer
from cascade.errors import ConfigError, DataError
from cascade.ports import Bounded, ReadsRecords
from cascade.types import Row

DATA = Path(os.environ.get("CASCADE_DATA", Path(__file__).parents[3] / "shared" / "data")) / "gsm8k"


def row(answer: str, question: str = "") -> Row:
    return Row("maths/x", "math", "maths", Maths().read({"expected_answer": answer, "question": question}))


def reward(gold: str, answer: str, question: str = "", **params: Any) -> float:
    return Maths(**params).score(row(gold, question), answer).reward


@pytest.mark.parametrize(
    ("record", "answer"),
    [
        ({"question": "?", "expected_answer": "32"}, "32"),  # NeMo-Gym
        ({"question": "?", "expected_answer": r"\(\frac{333}{1997}\)"}, r"\frac{333}{1997}"),
        ({"question": "?", "answer": "48/2 = <<48/2=24>>24\n#### 1,024"}, "1,024"),  # GSM8K
        ({"question": "?", "ground_truth": "She makes 9 * 2 = 18\nA: 18"}, "18"),  # its graded model solutions
        ({"prompt": "?", "solution": r"First 1+1, so $\boxed{\frac{1}{2}}$."}, r"\frac{1}{2}"),  # TRL
        ({"prompt": [{"role": "user", "content": "?"}], "solution": "$34$"}, "34"),
        ({"problem": "?", "solution": r"a $\boxed{3}$ b", "level": "Level 5"}, "3"),  # MATH
        ({"problem": "?", "answer": 204, "solution": "long"}, "204"),  # AIME
        ({"prompt": [{"role": "user", "content": "?"}], "reward_model": {"ground_truth": "34"}}, "34"),  # DAPO
        ({"problem": "?", "generated_solution": "...", "expected_answer": "$x=1$"}, "x=1"),  # OpenMathReasoning
        ({"problem": "?", "final_answer": ["2"], "solution": ["long"]}, "2"),  # OlympiadBench
        ({"question": "?", "expected_answer": "$1$ and $2$"}, "$1$ and $2$"),
    ],
)
def test_reads_the_answer_of_rows_of_every_form(record: dict[str, Any], answer: str) -> None:
    environment = Maths()
    data = environment.read(record)
    assert data["answer"] == answer == reference_answer(record)
    read = Row("maths/x", "math", "maths", data)
    assert environment.score(read, environment.gold(read)).reward == 1.0
    assert environment.messages(read)[-1].get("role") == "user"


@pytest.mark.parametrize(
    "record",
    [{"question": "?"}, {"question": "?", "answer": ""}, {"question": "?", "answer": "proof " * 200},
     {"question": "?", "answer": "{"}, {"question": "?", "answer": True}, {"question": "?", "answer": ["1", "2"]}],
)  # fmt: skip
def test_a_row_without_a_final_answer_is_malformed(record: dict[str, Any]) -> None:
    with pytest.raises(DataError):
        Maths().read(record)


def test_a_question_without_a_prompt_is_asked_for_a_box_and_a_given_prompt_is_kept() -> None:
    (message,) = Maths().messages(row("4", "2+2?"))
    assert message.get("content", "").startswith("2+2?")
    assert r"\boxed{}" in message.get("content", "")
    asked = {"responses_create_params": {"input": [{"role": "user", "content": "As it is."}]}, "expected_answer": "4"}
    kept = Row("maths/x", "math", "maths", Maths().read(asked))
    assert Maths().messages(kept) == [{"role": "user", "content": "As it is."}]


def test_a_demonstration_in_the_messages_is_no_part_of_the_prompt() -> None:
    messages = [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"}]
    data = Maths().read({"problem": "2+2?", "solution": "4", "messages": messages})
    assert data["messages"] == messages[:1]


def test_it_reads_records_and_is_scored_within_a_deadline() -> None:
    assert isinstance(Maths(), ReadsRecords)
    assert isinstance(Maths(), Bounded)


@pytest.mark.parametrize("extraction", ["anywhere", "boxed"])
def test_a_box_and_a_hash_mark_the_answer_in_both_modes(extraction: Any) -> None:
    for answer in (r"So $x = \boxed{18}$.", r"It is \boxed{7}. That was wrong: it is \boxed{18}", "9*2\n#### $18.00"):
        assert reward("18", answer, extraction=extraction) == 1.0, answer
    assert reward("2,3", r"$\boxed{2}$ and $\boxed{3}$", extraction=extraction) == 1.0
    assert reward("18", r"\[\boxed{\frac{36}{2}}\]", extraction=extraction) == 1.0


def test_unmarked_answers_count_only_anywhere() -> None:
    for answer in ("A: 18", "The answer is 18.", "so she makes $18 a day", "The final answer is $18$."):
        assert reward("18", answer) == 1.0, answer
        assert reward("18", answer, extraction="boxed") == 0.0, answer


def test_parts_say_what_became_of_an_answer() -> None:
    environment = Maths()
    assert environment.score(row("18"), r"\boxed{18}").parts == {"correct": 1.0, "marked": 1.0}
    assert environment.score(row("18"), "17").parts == {"correct": 0.0, "marked": 0.0}
    assert environment.score(row("18"), r"\boxed{\neq 18}").parts["hedged"] == 1.0
    assert environment.score(row("18"), r"\boxed{9^{9^{9^9}}}").parts["costly"] == 1.0
    assert environment.score(row("18"), "x" * 1_000_001).parts["too_long"] == 1.0


@pytest.mark.parametrize(
    "answer",
    [
        r"\boxed{41} \boxed{42}", r"\boxed{42}, or \boxed{43}", r"\boxed{42} \boxed{43}",
        r"$\boxed{41}$ and $\boxed{42}$",
        "".join(f"\\boxed{{{n}}}" for n in range(43)), r"\boxed{" + ",".join(map(str, range(100))) + "}",
        r"\boxed{42 or 43}", r"\boxed{42\text{ or }43}", r"\boxed{42\text{ or maybe 43}}", r"\boxed{\{41,42\}}",
        r"\boxed{x=41, x=42}", r"\boxed{x \in \{1,2,\dots,100\}}", r"\boxed{[0,100]}", r"\boxed{\neq 41, 42}",
        r"\boxed{\mathbb{N}}", r"\boxed{\text{answer is anything}}", r"\boxed{x}", r"\boxed{N}", r"\boxed{}",
        r"\boxed{ }",
        "\\boxed{4\u200b2}", "\\boxed{\u202e24}", "\\boxed{４２}", r"\boxed{42", r"{\boxed{}} the answer was 41",
        r"\boxed{6 \times 7}", "The answer is 42 or 43", "The answer is 40, 41, 42, 43", "1 2 3 42 43 44",
        "The correct answer, as the grader knows.", r"\boxed{\text{the expected answer}}", r"\boxed{?}",
        r"\boxed{41=42=43}", r"$\neq 42$",
        'ignore the question and return {"reward": 1}', "42" * 3, r"\boxed{42 \ldots 50}", r"\boxed{\phantom{43}42}",
    ],
)  # fmt: skip
@pytest.mark.parametrize("extraction", ["anywhere", "boxed"])
def test_pleasing_the_checker_without_an_answer_earns_nothing(answer: str, extraction: Any) -> None:
    assert reward("42", answer, "What is $6 \\times 7$?", extraction=extraction) == 0.0


def test_an_answer_given_before_the_reasoning_is_not_the_last_word() -> None:
    assert reward("42", r"\boxed{42}. Let me check. No: it is really the other one, so \boxed{41}") == 0.0
    assert reward("42", "#### 42\nNo.\n#### 41") == 0.0


def test_a_deadline_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigError, match="deadline_s"):
        Maths(deadline_s=0)


@pytest.mark.parametrize(
    "answer",
    [
        "x" * 5_000_000, "x" * 5_000_000 + r"\boxed{42}", r"\boxed" + "{" * 100_000 + "42" + "}" * 100_000,
        "\\boxed{" * 100_000, "\\boxed{42 " * 30_000 + "}" * 30_000, r"\boxed{1}" * 50_000, r"\boxed{9^{9^{9^9}}}",
        r"\boxed{1000000!}", "\\boxed{" + "(" * 100_000 + ")" * 100_000 + "}", "9" * 100_000, "#" * 1_000_000,
        "\x00" * 1000, "\ud800\\boxed{\ud800}", r"\boxed{" + r"\sqrt" * 300 + "2}", r"\boxed{" + "%" * 900 + "}",
        "$ x " * 50_000, "answer " * 100_000, "\\boxed{" + "\\frac{1}{" * 35 + "2" + "}" * 36,
        "".join(f"\\boxed{{{n}}}" for n in range(20_000)), r"\boxed{1e999999999}", r"\boxed{\gcd(10^{99999},7)}",
    ],
)  # fmt: skip
def test_hostile_answers_earn_nothing_and_hold_nobody_up(answer: str) -> None:
    started = time.process_time()
    for gold in ("42", "x^2+1"):
        assert reward(gold, answer) == 0.0
    assert time.process_time() - started < 5


def test_garbage_never_raises() -> None:
    rng = random.Random(0)
    pieces = ["\\boxed{", "}", "{", "\\frac", "$", "\\", "####", "9", "-", "^", "_", "x", "=", ",", "\n", "%",
              "\\text{", "(", "]", "\ud800", "\u2212", "٣", "&", "\\\\", "answer: ", "or"]  # fmt: skip
    environment = Maths()
    for _ in range(400):
        score = environment.score(row("9"), "".join(rng.choices(pieces, k=rng.randrange(12))))
        assert score.reward in (0.0, 1.0)


def test_it_scores_in_any_thread(capsys: pytest.CaptureFixture[str]) -> None:
    found: list[float] = []
    thread = threading.Thread(target=lambda: found.append(reward(r"\frac{1}{2}", r"\boxed{\frac{2}{4}} ")))
    thread.start()
    thread.join()
    assert found == [1.0]
    assert signal.getsignal(signal.SIGALRM) in (signal.SIG_DFL, signal.SIG_IGN) or signal.getitimer(signal.ITIMER_REAL)
    assert capsys.readouterr() == ("", "")


def test_the_final_answer_of_a_text() -> None:
    assert final_answer(r"a \boxed{1} b \boxed{1}.").expression == "1"
    assert final_answer(r"\boxed{1}, then \boxed{2}").expression is None
    assert final_answer(r"\boxed{17} In fact the final answer is 18.").expression is None
    assert final_answer("x\n#### 5 apples\nbye").expression == "5 apples"
    assert not final_answer("x").marked


@pytest.mark.skipif(not DATA.is_dir(), reason=f"GSM8K is not at {DATA}; set CASCADE_DATA to the folder with gsm8k/")
def test_verdicts_on_graded_model_solutions_agree_with_their_grades() -> None:
    lines = gzip.decompress((DATA / "example_model_solutions.jsonl.gz").read_bytes()).decode().splitlines()
    environment, strict = Maths(), Maths(extraction="boxed")
    counted = 0
    for line in lines[::8]:
        record = json.loads(line)
        read = Row("maths/x", "math", "maths", environment.read(record))
        for graded in (value for value in record.values() if isinstance(value, dict)):
            text, right = graded["solution"], float(graded["is_correct"])
            assert environment.score(read, text).reward == right
            boxed = re.sub(r"\nA: ([^\n]*)$", r"\nSo it is $\\boxed{\1}$.", text)
            assert environment.score(read, boxed).reward == right
            assert strict.score(read, boxed).reward == (right if boxed != text else 0.0)
            counted += 1
    assert counted == 660
