"""How a programming task is asked for where its row has no prompt of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cascade.environments.code_answer import fenced

NAMES = {"python": "Python", "cpp": "C++17"}


def asked(data: Mapping[str, Any], language: str) -> str:
    """The question, what is to be written, and where; empty where a row has no question."""
    language = data.get("language", language)
    block = f"Put the whole program into one block that begins with ```{language}."
    if "entry_point" in data:
        return f"Complete this function.\n\n{fenced(data['prompt'])}\n\n{block}"
    if "buggy" in data:
        task = f"There is a bug in this program. Repair it.\n\n{fenced(data['buggy'])}"
        return f"{task}\n\n{block}"
    question = data.get("question", "")
    if not question:
        return ""
    if "stub" in data:
        stub = "\n\n".join(fenced(text, name=name) for name, text in data["stub"].items())
        block = block if len(data["stub"]) == 1 else "Put each file into a block that begins with ```python NAME."
        return f"{question}\n\nBegin with this, and keep the names:\n\n{stub}\n\n{block}"
    if "unit_tests" in data:
        asserts = [line for text in data["unit_tests"]["tests"].values() if isinstance(text, list) for line in text]
        shown = f"\n\nYour code should pass these tests:\n\n{fenced(chr(10).join(asserts))}" if asserts else ""
        return f"{question}{shown}\n\n{block}"
    if "starter_code" in data:
        return (
            f"{question}\n\nBegin with this, and keep the names:\n\n{fenced(data['starter_code'], language)}\n\n{block}"
        )
    if "function" in data:
        return f"{question}\n\nWrite a function `{data['function']}` in {NAMES[language]}. {block}"
    task = f"Write a program in {NAMES[language]} that reads from standard input and writes to standard output."
    return f"{question}\n\n{task} {block}"
