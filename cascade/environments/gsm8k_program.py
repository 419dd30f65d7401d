"""code: grade-school word problems (Cobbe et al. 2021) answered by a Python program, which is run for its answer."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from cascade.environments.code import Code
from cascade.environments.code_rows import read_code
from cascade.environments.gsm8k import HUB, HUB_CONFIGURATION, final_number
from cascade.environments.row_source import RowEnvironment
from cascade.errors import DataError
from cascade.types import Message, Row, Split

INSTRUCTION = "Write a Python program that works it out and prints the number. Begin with ```python."
VARIABLES = "abcdefghijklmnopqrstuvw"
LONGEST = 100  # characters of a step that is read as an expression

_STEP = re.compile(r"<<([0-9.+\-*/() ]+)=\s*(-?[0-9.]+)\s*>>")
_NUMBER = re.compile(r"(?<![0-9.])(?:[0-9]+\.?[0-9]*|\.[0-9]+)")
_OPERATIONS = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/"}

Steps = Sequence[str]
"""Expressions of numbers and of the results before them, e.g. `("48/2", "48+a")`."""


@dataclass(frozen=True, kw_only=True)
class Gsm8kProgram(Code):
    """Rows of GSM8K. The reward is 1 for a program that prints the number; how it finds it is not looked at.

    The gold answer is the calculation that the reference solution notes down in `<<48/2=24>>`, as a program.
    """

    name: str = "gsm8k_program"
    domain: str = "code"
    train: str | None = HUB
    test: str | None = HUB
    test_rows: int = 1319  # all that GSM8K has
    time_limit_s: float = 2.0
    memory_mib: int = 128

    def read(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """A record as `Row.data`. Raises `DataError` for one without a question or a final number."""
        return RowEnvironment.read(self, record)

    def fields(self, record: Mapping[str, Any]) -> dict[str, Any]:
        question, answer = record.get("question"), record.get("answer")
        number = final_number(answer) if isinstance(answer, str) else None
        if not isinstance(question, str) or not isinstance(answer, str) or number is None:
            raise DataError("No `question`, or no `answer` that ends in `#### N`.", f"Give both, like {HUB}.")
        test = {"tests": [{"input": "", "output": shown(number)}], "checker": {"kind": "float", "abs": 1e-6}}
        return {**read_code({"question": question, **test}), "steps": list(steps_of(answer, number))}

    def ask(self, row: Row) -> list[Message]:
        """The question, and what to write."""
        return [{"role": "user", "content": f"{row.data['question']}\n\n{INSTRUCTION}"}]

    def gold(self, row: Row) -> str:
        """The calculation of the reference solution, a line a step."""
        return f"```python\n{program_of(row.data['steps'])}\n```"

    def _source(self, source: str, split: Split) -> dict[str, Row]:
        return super()._source(f"{HUB}:{HUB_CONFIGURATION}" if source == HUB else source, split)


def steps_of(answer: str, number: Fraction) -> Steps:
    """The steps that a reference solution notes down, each with the results before it by their variables.

    Where they do not come to the number, or there are none, the number itself.
    """
    steps: list[str] = []
    results: dict[str, str] = {}  # a number as it is written -> its variable
    for expression, result in _STEP.findall(answer)[: len(VARIABLES)]:
        steps.append(_NUMBER.sub(lambda found: results.get(found[0], found[0]), expression.replace(" ", "")))
        results[result] = VARIABLES[len(steps) - 1]
    return steps if steps and value_of(steps) == number else [shown(number)]


def program_of(steps: Steps) -> str:
    """`["48/2", "48+a"]` -> three lines: `a = 48/2`, `b = 48+a`, `print(b)`."""
    lines = [f"{VARIABLES[number]} = {step}" for number, step in enumerate(steps)]
    return "\n".join([*lines, f"print({VARIABLES[len(steps) - 1]})"])


def value_of(steps: Steps) -> Fraction | None:
    """What the last step comes to, exactly; None for steps that are no such expressions."""
    known: dict[str, Fraction] = {}
    for number, step in enumerate(steps):
        if len(step) > LONGEST:
            return None
        try:
            known[VARIABLES[number]] = _value(ast.parse(step, mode="eval").body, known)
        except (SyntaxError, ValueError, KeyError, ZeroDivisionError):
            return None
    return known[VARIABLES[len(steps) - 1]] if steps else None


def shown(number: Fraction) -> str:
    """`7/2` -> `3.5`, and a whole number as such."""
    return str(number.numerator) if number.denominator == 1 else repr(float(number))


def _value(node: ast.expr, known: Mapping[str, Fraction]) -> Fraction:
    match node:
        case ast.Constant(value=int() | float() as value):
            return Fraction(str(value))
        case ast.Name(id=name):
            return known[name]
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_value(operand, known)
        case ast.BinOp(left=left, op=operation, right=right):
            one, other = _value(left, known), _value(right, known)
            match _OPERATIONS.get(type(operation)):
                case "+":
                    return one + other
                case "-":
                    return one - other
                case "*":
                    return one * other
                case "/":
                    return one / other
    raise ValueError("no sum, difference, product or quotient")
