"""code: programs that a model wrote, run in a sandbox on the tests of their row, and judged outside of it."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from cascade.environments.code_answer import as_answer, code_in, continued, files_in
from cascade.environments.code_checkers import matches, read_checker, values_match
from cascade.environments.code_judge_program import judged_right
from cascade.environments.code_prompts import asked
from cascade.environments.code_rooms import prepared
from cascade.environments.code_rows import read_code
from cascade.environments.code_tests import Tally, call_input, tally
from cascade.environments.code_unit_tests import tally_files
from cascade.environments.code_values import UnreadableValueError, canonical, read_value
from cascade.environments.row_source import RowEnvironment
from cascade.environments.sandboxed import Sandboxed
from cascade.errors import ConfigError, DataError, FailureKind, SandboxError, VerifierFailure
from cascade.sandbox.backends import sandbox
from cascade.sandbox.limits import Limits
from cascade.sandbox.ports import Sandbox
from cascade.sandbox.programs import Program
from cascade.types import Message, Row, Score

REMEMBERED = 1000  # scores of programs that were run last


@dataclass(frozen=True, kw_only=True)
class Code(Sandboxed, RowEnvironment):
    """Rows of NeMo-Gym's `code_gen`, LiveCodeBench, APPS, TACO, CodeContests, HumanEval, MBPP, exercism and QuixBugs.

    The reward is 1 for a program that passes all tests, else 0; with `partial` the share of tests that it passes. What
    is right is never in the sandbox with a program that is judged by its output or by the values of its function. Of
    equal programs at a row one is run. A row's own `time_limit_s` and `memory_mib` come before those here.
    """

    name: str = "code"
    domain: str = "code"
    language: Literal["python", "cpp"] = "python"  # of answers that do not say, where the row does not either
    partial: bool = False  # and no stop at the first test that fails
    max_tests: int | None = None  # of a row: its first; the paper's recipe has 50
    time_limit_s: float = 10.0  # of a test
    memory_mib: int = 1024
    output_kib: int = 4096
    processes: int = 64
    deadline_s: float = 900.0  # of all tests of a program together

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_back_end()
        if self.max_tests is not None and self.max_tests < 1:
            raise ConfigError(f"max_tests is {self.max_tests}.", "Give a number of tests, or leave it out.")
        if not self.time_limit_s <= self.deadline_s < float("inf"):
            raise ConfigError(f"deadline_s is {self.deadline_s}.", "Give seconds, more than time_limit_s.")
        self._limits({})

    def read(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """A record as `Row.data`. The `prompt` of HumanEval and MBPP is asked for in words, unless it is messages."""
        data = super().read(record)
        own = record.get("responses_create_params") or isinstance(record.get("prompt"), list)
        if ("entry_point" in data or "question" in data) and "unit_tests" in data and not own:
            data.pop("messages", None)
        return data

    def fields(self, record: Mapping[str, Any]) -> dict[str, Any]:
        return read_code(record)

    def ask(self, row: Row) -> list[Message]:
        question = asked(row.data, self.language)
        return [{"role": "user", "content": question}] if question else super().ask(row)

    def gold(self, row: Row) -> str:
        gold = row.data.get("gold")
        if not gold:
            raise DataError(f"{row.id} has no solution.", "Give it `solution`, or leave the check of gold answers out.")
        return as_answer(gold, row.data.get("language", self._guess(gold)))

    def score(self, row: Row, answer: str) -> Score:
        """The reward of an answer. Raises `VerifierFailure` where the sandbox, or the row's own checker, has failed.

        Parts count tests: `passed` of `total`, and why others failed. `no_code`: there was nothing to run;
        `unchanged`: it is the stub of the row as it was given, which some exercises only want to be put better.
        """
        program = self._program(row.data, answer)
        if program is None:
            return Score(0.0, {"no_code": 1.0, "passed": 0.0})
        if _same_files(program, row.data.get("stub")):
            return Score(0.0, {"unchanged": 1.0, "passed": 0.0})
        key = (row.id, _digest(program))
        if key not in self._known:
            while len(self._known) >= REMEMBERED:
                self._known.pop(next(iter(self._known)))
            self._known[key] = self._score(self._run(row.data, program))
        return self._known[key]

    @functools.cached_property
    def _known(self) -> dict[tuple[str, str], Score]:
        """Scores by row and program: answers in other words hold the same program, which may take its whole time."""
        return {}

    def _score(self, found: Tally) -> Score:
        share = found.passed / max(found.total, 1)
        return Score(share if self.partial else float(share == 1.0), {"no_code": 0.0, **found.parts()})

    def _program(self, data: Mapping[str, Any], answer: str) -> Mapping[str, str] | Program | None:
        """The program of an answer, or its files by name where tests are files; None where it has no code."""
        if "unit_tests" in data:
            files = files_in(answer, data["unit_tests"]["files"])
            if files and "entry_point" in data:
                return {name: continued(text, data["prompt"], data["entry_point"]) for name, text in files.items()}
            return files
        found = code_in(answer, "python" if "function" in data else data.get("language"), self.language)
        return None if found is None else Program("cpp" if found[1] == "cpp" else "python", found[0])

    def _run(self, data: Mapping[str, Any], program: Mapping[str, str] | Program) -> Tally:
        try:
            box, limits = sandbox(self.sandbox), self._limits(data)
            if not isinstance(program, Program):
                return tally_files(box, data["unit_tests"], program, limits)
            return (
                self._calls(box, limits, data, program)
                if "function" in data
                else self._tests(box, limits, data, program)
            )
        except SandboxError as error:
            raise VerifierFailure(FailureKind.INFRASTRUCTURE, str(error)) from error

    def _tests(self, box: Sandbox, limits: Limits, data: Mapping[str, Any], program: Program) -> Tally:
        """On inputs and outputs of the whole program."""
        tests, checker = data["tests"][: self.max_tests], read_checker(data["checker"])
        inputs = [_bytes(test["input"]) for test in tests]

        def right(number: int, output: bytes) -> bool:
            accepted = tests[number]["output"]
            for expected in map(_bytes, accepted if isinstance(accepted, list) else [accepted]):
                if checker.kind == "program":
                    if judged_right(box, checker, inputs[number], output, expected):
                        return True
                elif matches(checker, output, expected):
                    return True
            return False

        with prepared(box, program, limits, "main" if data.get("prelude") else "plain") as room:
            return tally(room, inputs, right, stop=not self.partial, budget_s=self.deadline_s)

    def _calls(self, box: Sandbox, limits: Limits, data: Mapping[str, Any], program: Program) -> Tally:
        """On arguments and values of its function."""
        calls, checker = data["calls"][: self.max_tests], read_checker(data["checker"])
        inputs = [call_input(data["function"], call) for call in calls]

        def right(number: int, output: bytes) -> bool:
            try:
                value = read_value(output)
            except UnreadableValueError:
                return False
            for expected in calls[number]["any_of"]:
                if checker.kind == "program":
                    if judged_right(box, checker, inputs[number], output, _bytes(canonical(expected))):
                        return True
                elif values_match(checker, value, expected):
                    return True
            return False

        with prepared(box, program, limits, "call") as room:
            return tally(room, inputs, right, stop=not self.partial, budget_s=self.deadline_s)

    def _limits(self, data: Mapping[str, Any]) -> Limits:
        return Limits(
            time_s=data.get("time_limit_s", self.time_limit_s),
            memory_mib=data.get("memory_mib", self.memory_mib),
            output_kib=self.output_kib,
            processes=self.processes,
        )

    def _guess(self, text: str) -> str:
        return "cpp" if "#include" in text else self.language


def _digest(program: Mapping[str, str] | Program) -> str:
    said = (program.language, program.source) if isinstance(program, Program) else sorted(program.items())
    return hashlib.sha256(repr(said).encode()).hexdigest()


def _same_files(program: Mapping[str, str] | Program, stub: Mapping[str, str] | None) -> bool:
    """Whether the files of a program are those of a stub, but for space at the ends."""
    if stub is None or isinstance(program, Program):
        return False
    return {name: text.strip() for name, text in program.items()} == {n: text.strip() for n, text in stub.items()}


def _bytes(text: str) -> bytes:
    return text.encode(errors="surrogatepass")
