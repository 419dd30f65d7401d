"""A tool that runs Python for the model, with variables that last through an episode."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cascade.environments.live_sessions import LiveSessions, keys_of
from cascade.environments.sandboxed import Sandboxed
from cascade.environments.tool_calls import CLOSE, OPEN, Call, calls_of
from cascade.errors import ConfigError, FailureKind, SandboxError, VerifierFailure
from cascade.sandbox.backends import sandbox
from cascade.sandbox.limits import Limits
from cascade.sandbox.python_session import PythonSession, shown_packages
from cascade.types import Message, Row

NAME = "python"
NAMES = (NAME, "stateful_python_code_exec")  # the latter in NeMo-Gym's rows
IDLE_S = 3600.0  # after which a session that waits for its model is given up
SILENT = "[no output]"
POSITIVE = ("max_calls", "call_time_s", "memory_mib", "shown", "parallel_calls", "live_sessions")


@dataclass(frozen=True, kw_only=True)
class UsesPython(Sandboxed):
    """What an environment has besides when its model may call Python. Without `tool_integrated` nothing is ever run.

    A reply follows from the answers so far: a rollout's session waits in a cache, and where it is not there, the calls
    of the turns before are made again in a new one.

    Args:
        sandbox: back end that calls run in.
        max_calls: of an episode; later ones are answered with a message that says so.
        call_time_s: wall clock and CPU seconds of one call.
        memory_mib: of an episode's session.
        packages: installed packages that can be imported besides the standard library.
        shown: characters of a reply.
        parallel_calls: turns of so many rollouts are answered at once.
        live_sessions: sessions that wait for their model; fewer than rollouts in progress cost time.
    """

    tool_integrated: bool = False
    max_calls: int = 100
    call_time_s: float = 10.0
    memory_mib: int = 512
    packages: tuple[str, ...] = ("sympy", "mpmath")
    shown: int = 8000
    parallel_calls: int = 8
    live_sessions: int = 256
    max_turns: int = field(init=False, repr=False, compare=False)  # these two only where the tool is offered:
    concurrency: int = field(init=False, repr=False, compare=False)  # they say that there are turns to be answered
    _live: LiveSessions[PythonSession] = field(init=False, repr=False, compare=False)

    def offer_python(self) -> None:
        """To be called when an environment is made. Raises `ConfigError`."""
        if not self.tool_integrated:
            return
        for key in POSITIVE:
            if not getattr(self, key) > 0:
                raise ConfigError(f"{key} is {getattr(self, key)}.", "Give a positive number.")
        self.check_back_end()
        shown_packages(self.packages)
        object.__setattr__(self, "max_turns", self.max_calls + 1)
        object.__setattr__(self, "concurrency", self.parallel_calls)
        object.__setattr__(self, "_live", LiveSessions(self.live_sessions, IDLE_S))

    def check_machine(self) -> None:
        """See `Sandboxed.check_machine`."""
        if self.tool_integrated:
            super().check_machine()

    def python_schema(self) -> dict[str, Any]:
        """The tool in the form of chat completions."""
        about = (
            "Runs Python code and returns what it prints, and the value of a last line that is an expression. "
            f"Variables last from call to call. A call ends after {self.call_time_s:g} seconds."
        )
        code = {"type": "string", "description": "The code to run."}
        parameters = {"type": "object", "properties": {"code": code}, "required": ["code"]}
        return {"type": "function", "function": {"name": NAME, "description": about, "parameters": parameters}}

    def python_replies(self, row: Row, answers: Sequence[str], tools: Sequence[Mapping[str, Any]]) -> list[Message]:
        """What the calls of the latest turn say, a message each; the empty list for a turn without one.

        Raises `VerifierFailure` where the sandbox has failed.
        """
        turns = [calls_of(answer, tools) for answer in answers]
        keys = keys_of(row.id, answers)
        at, session = self._live.take(keys[:-1]) or (0, self._begun())
        try:
            if not turns[-1]:  # the episode is over
                session.close()
                return []
            replies, made = list[str](), sum(map(len, turns[:at]))
            for calls in turns[at:]:
                replies = self._made(session, calls, made)
                made += len(calls)
        except SandboxError as error:
            session.close()
            raise VerifierFailure(FailureKind.INFRASTRUCTURE, str(error)) from error
        self._live.put(keys[-1], session)
        return [{"role": "tool", "content": reply} for reply in replies]

    def _begun(self) -> PythonSession:
        """A session without a room, which it opens with its first call."""
        limits = Limits(time_s=self.call_time_s, memory_mib=self.memory_mib)
        return PythonSession(sandbox(self.sandbox), limits, self.packages)

    def _made(self, session: PythonSession, calls: Sequence[Call], before: int) -> list[str]:
        return [
            self._reply(session, call) if number < self.max_calls else self._no_more()
            for number, call in enumerate(calls, before)
        ]

    def _reply(self, session: PythonSession, call: Call) -> str:
        code = call.arguments.get("code")
        if call.problem:
            return f"Error: {call.problem}"
        if call.name not in NAMES:
            return f"Error: there is no tool `{call.name[:80]}`. Call `{NAME}`."
        if not isinstance(code, str) or len(call.arguments) > 1:
            return "Error: give one argument, `code`, a string."
        return cut(session.run(code), self.shown) or SILENT

    def _no_more(self) -> str:
        return f"Error: the {self.max_calls} calls that there are have been made. Give the answer."


def cut(text: str, shown: int) -> str:
    """The beginning and the end of a text that is too long."""
    if len(text) <= shown:
        return text
    half = shown // 2
    return f"{text[:half]}\n[{len(text) - 2 * half} characters left out]\n{text[-half:]}"


def without_calls(answer: str) -> str:
    """What a turn says besides its calls: code is no final answer."""
    before, found, rest = answer.partition(OPEN)
    parts = [before]
    while found:
        _, _, rest = rest.partition(CLOSE)
        before, found, rest = rest.partition(OPEN)
        parts.append(before)
    return "".join(parts)
