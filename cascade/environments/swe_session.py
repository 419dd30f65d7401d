"""The live room of a rollout: calls of tools are carried out in it, until the agent or a budget ends the work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from cascade.environments.swe_tools import SUBMIT, carry_out
from cascade.environments.swe_tree import TreeChanges, changes_since
from cascade.environments.tool_calls import calls_of
from cascade.sandbox.limits import Outcome
from cascade.sandbox.ports import Room

Ending = Literal["submitted", "text", "turns", "tokens", "wall_clock", "memory"]
"""What ended an episode; text: a turn without a call."""

_REST = b"import os, signal\ntry: os.kill(-1, signal.SIGSTOP)\nexcept ProcessLookupError: raise SystemExit(1)\n"
_GO_ON = b"import os, signal\nos.kill(-1, signal.SIGCONT)\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """What an agent may use."""

    command_time_s: float
    episode_time_s: float  # of all commands together
    shown: int  # characters of one reply


class Session:
    """One agent at work. Used by one thread at a time. What runs in the background rests between turns.

    Args:
        room: with the repository in it; closed with the session.
        root: where the repository is.
        known: the repository's files as they were, from `swe_tree.manifest`.
        tools: schemas, by which arguments of calls are read.
    """

    def __init__(
        self, room: Room, root: str, known: Mapping[str, str], tools: Sequence[Mapping[str, Any]], budget: Budget
    ) -> None:
        self.root = root
        self.ended: Ending | None = None  # by the agent, or by a budget that commands use up
        self.turns = self.calls = self.refused = 0
        self.spent_s = 0.0  # by commands
        self.late = False  # the last command was ended at its time limit
        self._room: Room | None = room
        self._rests = False  # something does
        self._known = known
        self._tools = tools
        self._budget = budget
        self._changes: TreeChanges | None = None

    def turn(self, answer: str) -> list[str]:
        """Carries out the calls of a turn in order and returns what each says; of an ended session nothing."""
        if self.ended is not None:
            return []
        self.turns += 1
        calls = calls_of(answer, self._tools)
        if not calls:
            self.ended = "text"
        replies: list[str] = []
        self._wake()
        for call in calls:
            self.calls += 1
            if call.name == SUBMIT and not call.problem:
                self.ended = "submitted"
            else:
                self.late = False
                said = carry_out(self, call, self._budget.command_time_s, self._budget.shown)
                self.refused += said.startswith("Error: ")
                replies.append(said)
            if self.ended is not None:
                break
        if self.ended is not None:
            self.finish()
        else:
            self._rest()
        return replies

    def run(self, command: Sequence[str], stdin: bytes, time_s: float) -> Outcome:
        """Runs a command in the repository, and counts what it uses. See `swe_tools.Workplace`."""
        assert self._room is not None, "the session is closed"
        left_s = self._budget.episode_time_s - self.spent_s
        outcome = self._room.run(command, stdin, time_s=min(time_s, left_s), folder=self.root, keep=True)
        self.spent_s += outcome.wall_s
        self.late = outcome.status == "timeout"
        if outcome.status == "memory":
            self.ended = "memory"
        elif _gone(outcome) or self.spent_s >= self._budget.episode_time_s:
            self.ended = "wall_clock"
        return outcome

    def finish(self) -> TreeChanges:
        """What the agent has changed. Everything that still runs is ended, and the room closed."""
        if self._changes is None:
            assert self._room is not None, "the session is closed"
            ended = self._room.run(("true",))  # and what earlier calls left running, so that nothing changes any more
            if _gone(ended):
                self.ended = "memory" if ended.status == "memory" else "wall_clock"
            self._changes = changes_since(self._room, self.root, self._known)
            self.close()
        return self._changes

    def _rest(self) -> None:
        """Stops what runs in the background: it costs cores, and no clock would say so."""
        assert self._room is not None, "the session is closed"
        outcome = self._room.run(("python", "-"), _REST, keep=True)
        self._rests = outcome.exit_code == 0
        if _gone(outcome):
            self.finish()

    def _wake(self) -> None:
        if self._rests and self._room is not None:
            self._room.run(("python", "-"), _GO_ON, keep=True)
            self._rests = False

    def close(self) -> None:
        """Ends everything in the room. Idempotent."""
        if self._room is not None:
            self._room.close()
            self._room = None


def _gone(outcome: Outcome) -> bool:
    """Whether an earlier command took the whole room down, at a limit that the machine was too busy to hold otherwise.

    Then every other command ends before it begins.
    """
    return outcome.wall_s == 0.0 and outcome.exit_code is None
