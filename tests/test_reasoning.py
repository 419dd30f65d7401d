"""The answer is what stands after the reasoning, and reasoning that never ended leaves none."""

from __future__ import annotations

import pytest

from cascade.reasoning import split_reasoning


@pytest.mark.parametrize(
    ("text", "opened", "reasoning", "answer"),
    [
        ("4", False, "", "4"),
        (" 4\n", False, "", " 4\n"),  # an answer without reasoning is left as it is
        ("<think>2+2</think>\n\n4", False, "2+2", "4"),
        ("2+2</think>4", True, "2+2", "4"),
        ("2+2</think>4", False, "2+2", "4"),  # the prompt's `<think>` is not in the completion
        ("<think>a</think>5<think>b</think>4", False, "a</think>5<think>b", "4"),
        ("<think>2+2=4", False, "2+2=4", ""),
        ("2+2=4", True, "2+2=4", ""),
        ("  <think>2", False, "2", ""),
        ("say <think> aloud", False, "", "say <think> aloud"),
        ("<think>2</think>", False, "2", ""),
        ("", True, "", ""),
    ],
)
def test_reasoning_and_answer(text: str, opened: bool, reasoning: str, answer: str) -> None:
    assert split_reasoning(text, opened) == (reasoning, answer)
