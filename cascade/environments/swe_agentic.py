"""swe: an issue in a repository, worked on by an agent with a shell and an editor, and judged by the tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cascade.environments.attempts import attempt_at
from cascade.environments.live_sessions import LiveSessions, keys_of
from cascade.environments.records import thinking_of
from cascade.environments.swe_gold import gold_calls
from cascade.environments.swe_grading import Grade, check_here, grade
from cascade.environments.swe_images import in_image
from cascade.environments.swe_repository import prepare
from cascade.environments.swe_room import REPOSITORY, open_room
from cascade.environments.swe_row_source import IMAGES, SweRows, infrastructure
from cascade.environments.swe_rows import SweTask, task_of
from cascade.environments.swe_session import Budget, Ending, Session
from cascade.environments.swe_tools import schemas
from cascade.environments.swe_tree import OUTPUT_KIB, TreeChanges, manifest
from cascade.environments.tool_calls import call_text
from cascade.errors import ConfigError, DataError, FailureKind, SandboxError, VerifierFailure
from cascade.sandbox.backends import sandbox
from cascade.sandbox.limits import Limits
from cascade.sandbox.ports import Sandbox
from cascade.types import Attempt, Message, Row, Score

ENDINGS: tuple[Ending, ...] = ("submitted", "text", "turns", "tokens", "wall_clock", "memory")
IDLE_S = 3600.0  # after which a room that waits for its model is given up
ASKED = """\
Resolve this issue in the repository at {root}:

<issue>
{issue}
</issue>

Find the cause, change the source code, and check that the issue is gone. Tests that you cannot see will be run on \
what you leave behind; changes to tests and to their configuration do not count. Call submit when you are done."""


@dataclass(frozen=True, kw_only=True)
class SweAgentic(SweRows):
    """Rows of ours, SWE-bench, SWE-Gym, SWE-smith, R2E-Gym and NeMo-Gym.

    A rollout has a room with a copy-on-write layer over the repository. It waits for the next turn in a cache; where it
    is not there, the calls of the turns before are carried out again in a fresh one, so that a reply follows from row
    and answers. The reward is 1 when, in yet another fresh layer with the agent's changes to the source alone, every
    test of FAIL_TO_PASS and of PASS_TO_PASS passes.

    A rollout is masked from the gradient, as NeMo-Gym's `swe_agents` does it, when it is resolved though its turns or
    tokens ran out; when its time ran out, or its last command was ended at its limit and nothing came after; when it
    ran out of memory; and when the tests did not end in time.

    Args:
        sandbox: `bwrap`, or `apptainer` for rows whose code is in an image.
        images: path of an image, with `{instance_id}`; default: what the row names, fetched by Apptainer.
        max_turns: of the model, after which an episode ends.
        command_time_s: wall clock of one command, and CPU seconds of all its processes.
        episode_time_s: of all commands of an episode. Time that the model takes does not count.
        test_time_s: of all tests, in grading.
        memory_mib: of a room, with the files that were changed in it. `disk_mib`, `processes` and `cpus` likewise.
        shown: characters of a reply.
        concurrency: rollouts that commands or tests run for at once.
        live_sessions: rooms that wait for their model; fewer than rollouts in progress cost time.
    """

    name: str = "swe_agentic"
    images: str = ""
    max_turns: int = 200
    command_time_s: float = 120.0
    episode_time_s: float = 1800.0
    test_time_s: float = 1200.0
    memory_mib: int = 4096
    disk_mib: int = 1024
    processes: int = 256
    cpus: float = 2.0
    shown: int = 16_000
    concurrency: int = 8
    live_sessions: int = 256
    _live: LiveSessions[Session] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        for key in ("max_turns", "command_time_s", "episode_time_s", "shown", "concurrency", "live_sessions"):
            if not getattr(self, key) > 0:
                raise ConfigError(f"{key} is {getattr(self, key)}.", "Give a positive number.")
        self._limits(self.test_time_s)
        object.__setattr__(self, "_live", LiveSessions(self.live_sessions, IDLE_S))

    def read(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """A record as `Row.data`. A prompt of its own is left out: it would speak of other tools."""
        thinking = thinking_of(record)
        return {**self.fields(record), **({} if thinking is None else {"thinking": thinking})}

    def ask(self, row: Row) -> list[Message]:
        issue = task_of(row.data).problem_statement.strip()
        return [{"role": "user", "content": ASKED.format(root=REPOSITORY, issue=issue)}]

    def tools(self, row: Row) -> list[dict[str, Any]]:
        return schemas(REPOSITORY, self.command_time_s)

    def gold(self, row: Row) -> str:
        """The repair of the row as edits, and `submit`, in one turn. Raises `DataError` for a row without one."""
        return call_text(gold_calls(task_of(row.data)))

    def demonstration(self, row: Row) -> Mapping[str, Any]:
        """The whole episode: the edits of the repair one by one, with what the tools say, and `submit`."""
        messages, answers = self.messages(row), []
        for call in gold_calls(task_of(row.data)):
            answers.append(call_text([call]))
            messages += [{"role": "assistant", "content": answers[-1]}, *(self.respond(row, answers) or ())]
        return {"messages": messages, "tools": self.tools(row)}

    def respond(self, row: Row, answers: Sequence[str]) -> list[Message] | None:
        """What the tools say to the calls of the latest turn, a message each; None when the work is over."""
        keys = keys_of(row.id, answers)
        session, replies = self._session(row, answers, keys, len(answers) - 1)
        self._live.put(keys[-1], session)
        if session.ended is not None:
            return None
        return [{"role": "tool", "content": reply} for reply in replies]

    def score(self, row: Row, answer: str) -> Score:
        return self.score_attempt(row, attempt_at([answer]))

    def score_episode(self, row: Row, answers: Sequence[str]) -> Score:
        return self.score_attempt(row, attempt_at(answers))

    def score_attempt(self, row: Row, attempt: Attempt) -> Score:
        """1 when the repository that the agent leaves behind is resolved.

        Parts: `f2p` and `p2p`, the shares of FAIL_TO_PASS and PASS_TO_PASS that pass; `ended_submitted`, `ended_text`
        (a turn called nothing), `ended_turns`, `ended_tokens`, `ended_wall_clock` and `ended_memory`, one of them 1;
        `turns`, `calls`, `refused` (calls that were errors) and `commands_s`; `changed` files, `left_out` (too large),
        `unreadable` (more than can be looked at), `dropped` (tests, and how they run); `tampered` (tests pass that
        cannot); `test_s`.
        """
        said = [answer for answer in attempt.answers[:-1] if answer.strip()]  # of files where a user tells the results
        answers = [*said, attempt.answers[-1]][: self.max_turns]
        session, _ = self._session(row, answers, keys_of(row.id, answers), len(answers))
        try:
            changes, ending = session.finish(), self._ending(session, attempt)
            found = self._graded(row, changes) if ending not in ("wall_clock", "memory") else None
        except SandboxError as error:
            raise infrastructure(error) from error
        except DataError as error:
            raise VerifierFailure(FailureKind.DATA, str(error)) from error
        finally:
            session.close()
        resolved = found is not None and found.resolved
        masked = ending in ("wall_clock", "memory") or (resolved and ending in ("turns", "tokens"))
        masked = masked or (found is not None and (found.timed_out or found.out_of_memory))
        parts = {"resolved": float(resolved), **_tests(found), **_work(session, changes)}
        return Score(float(resolved), {**parts, **{f"ended_{end}": float(end == ending) for end in ENDINGS}}, masked)

    def metrics(self) -> dict[str, float]:
        """Rooms that wait, and turns that were carried out again because theirs did not."""
        return {"rooms_waiting": float(len(self._live)), "turns_again": float(self._live.remade)}

    def _session(self, row: Row, answers: Sequence[str], keys: Sequence[str], known: int) -> tuple[Session, list[str]]:
        """A session behind `answers`, and what the last one was told.

        It goes on from one that waits behind the first `known` of them, or fewer, or begins anew.
        """
        done = self._live.take(keys[: known + 1])
        try:
            n, session = done or (0, self._open(task_of(row.data)))
        except SandboxError as error:
            raise infrastructure(error) from error
        except DataError as error:
            raise VerifierFailure(FailureKind.DATA, str(error)) from error
        replies: list[str] = []
        try:
            for answer in answers[n:]:
                replies = session.turn(answer)
        except SandboxError as error:
            session.close()
            raise infrastructure(error) from error
        return session, replies

    def _open(self, task: SweTask) -> Session:
        """A fresh layer over the repository. Raises `SandboxError` or `DataError`."""
        box, task = self._place(task)
        check_here(task)
        room = open_room(box, prepare(task), self._limits(self.command_time_s))
        budget = Budget(command_time_s=self.command_time_s, episode_time_s=self.episode_time_s, shown=self.shown)
        try:
            known = manifest(room, REPOSITORY)
        except SandboxError:
            room.close()
            raise
        return Session(room, REPOSITORY, known, schemas(REPOSITORY, self.command_time_s), budget)

    def _graded(self, row: Row, changes: TreeChanges) -> Grade | None:
        """What the tests say of changes; None where there are none."""
        if not changes.files:
            return None
        box, task = self._place(task_of(row.data))
        return grade(box, task, changes.files, self._limits(self.test_time_s))

    def _place(self, task: SweTask) -> tuple[Sandbox, SweTask]:
        """Where rooms for a task are opened, and the task with its repository on this machine."""
        return in_image(task, self.images) if self.sandbox == IMAGES else (sandbox(self.sandbox), task)

    def _ending(self, session: Session, attempt: Attempt) -> Ending:
        """What ended the work. A file of messages that ends in a call was cut somewhere: `tokens`."""
        if session.ended in ("wall_clock", "memory"):
            return session.ended
        if session.ended is None and session.late:
            return "wall_clock"
        if not attempt.finished:
            return "tokens"
        return session.ended or ("turns" if session.turns >= self.max_turns else "tokens")

    def _limits(self, time_s: float) -> Limits:
        return Limits(
            time_s=time_s,
            memory_mib=self.memory_mib,
            disk_mib=self.disk_mib,
            processes=self.processes,
            cpus=self.cpus,
            output_kib=OUTPUT_KIB,
        )


def _tests(found: Grade | None) -> dict[str, float]:
    if found is None:
        return {"f2p": 0.0, "p2p": 0.0, "dropped": 0.0, "tampered": 0.0, "test_s": 0.0}
    return {
        "f2p": found.f2p_passed / max(found.f2p, 1),
        "p2p": found.p2p_passed / found.p2p if found.p2p else 1.0,
        "dropped": float(len(found.dropped)),
        "tampered": float(found.tampered),
        "test_s": found.wall_s,
    }


def _work(session: Session, changes: TreeChanges) -> dict[str, float]:
    return {
        "turns": float(session.turns),
        "calls": float(session.calls),
        "refused": float(session.refused),
        "commands_s": session.spent_s,
        "changed": float(len(changes.files)),
        "left_out": float(changes.left_out),
        "unreadable": float(bool(changes.unreadable)),
    }
