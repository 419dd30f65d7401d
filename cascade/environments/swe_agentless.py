"""swe: an issue and the files it is about, answered by a patch, with no tools and one turn."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from typing import Any, Literal

from cascade.environments.patches import Changes, PatchError, apply_diff, make_diff
from cascade.environments.search_replace import as_blocks
from cascade.environments.swe_answer import CLOSE, OPEN, changes_of
from cascade.environments.swe_formats import is_test
from cascade.environments.swe_grading import Grade, check_here, grade
from cascade.environments.swe_images import in_image
from cascade.environments.swe_judge import ask, with_log_probs
from cascade.environments.swe_localised import Localised, localise
from cascade.environments.swe_prompts import question
from cascade.environments.swe_row_source import IMAGES, SweRows, infrastructure
from cascade.environments.swe_rows import SweTask, task_of
from cascade.errors import ConfigError, DataError, FailureKind, SandboxError, VerifierFailure
from cascade.judging.client import judge_of
from cascade.judging.config import JudgeConfig
from cascade.sandbox.backends import sandbox
from cascade.sandbox.limits import Limits
from cascade.sandbox.ports import Sandbox
from cascade.types import Message, Row, Score

REMEMBERED = 1000  # grades of changes that were tested last
MAX_COMPARED = 5000  # characters of a diff, above which the ratio of characters takes seconds
Reward = Literal["execution", "judge", "lexical"]
Files = Literal["gold", "retrieved", "both"]


@dataclass(frozen=True, kw_only=True)
class SweAgentless(SweRows):
    """Repair without an agent, as in Nemotron-Cascade 1 (arXiv 2512.13607, 4.7) and 2 (arXiv 2603.19220, 4.8.1).

    A prompt has the issue and files: those that the oracle changes (`gold`), the `top` that BM25 finds (`retrieved`),
    or one or the other by a hash of the row (`both`). Rows with a prompt of their own keep it. The answer is applied
    exactly or not at all, and rewarded by

    - `execution`: 1 when the tests of the row pass on it, else 0 (`swe_grading`);
    - `judge`: the probability that a judge gives to its resolving the issue, beside the oracle;
    - `lexical`: how like the oracle's its diff is, by `difflib`'s ratio; with `threshold`, 1 from there on and else 0.

    Of judge and lexical reward, one that leaves every file as the oracle does has 1, and is not judged.

    Args:
        unchanged_reward: of an answer that changes no source.
        unparsable_reward: of one that means nothing or does not fit; Cascade 1 has -1.
        max_chars: of the files in a prompt; `max_file_chars` of one, of which the likeliest functions stay.
        sandbox: `bwrap`, or `apptainer` for rows whose code is in an image.
        images: path of an image, with `{instance_id}`; default: what the row names, fetched by Apptainer.
        time_limit_s: of all tests together, wall clock, which are run twice if they pass.
    """

    name: str = "swe_agentless"
    reward: Reward = "execution"
    files: Files = "both"
    top: int = 5
    max_chars: int = 120_000
    max_file_chars: int = 40_000
    unchanged_reward: float = 0.0
    unparsable_reward: float = 0.0
    threshold: float | None = None
    judge: JudgeConfig | None = None
    max_judge_chars: int = 20_000  # of the issue and of each patch
    images: str = ""
    time_limit_s: float = 120.0
    memory_mib: int = 2048
    disk_mib: int = 256
    processes: int = 128
    deadline_s: float = 900.0
    concurrency: int = field(init=False, repr=False, compare=False)  # with a judge only: then verdicts wait for it

    def __post_init__(self) -> None:
        super().__post_init__()
        for key in ("top", "max_chars", "max_file_chars", "max_judge_chars"):
            if getattr(self, key) < 1:
                raise ConfigError(f"{key} is {getattr(self, key)}.", "Give a positive number.")
        if (self.judge is not None) != (self.reward == "judge"):
            said = "no judge" if self.judge is None else "a judge"
            raise ConfigError(f"reward is {self.reward}, and there is {said}.", "Give `judge` for reward=judge alone.")
        if self.threshold is not None and (self.reward == "execution" or not 0 < self.threshold <= 1):
            raise ConfigError(f"threshold is {self.threshold}.", "Give it above 0, for a judge's or lexical reward.")
        if not 4 * self.time_limit_s < self.deadline_s:
            raise ConfigError(f"deadline_s is {self.deadline_s}.", "Give more than four times time_limit_s.")
        self._limits()
        if self.judge is not None:
            object.__setattr__(self, "concurrency", self.judge.concurrency)

    def check_machine(self) -> None:
        """See `SweRows.check_machine`; a judge and a comparison of texts need no room."""
        if self.reward == "execution":
            super().check_machine()

    def read(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """A record as `Row.data`, with the prompt that it brings. Raises `DataError` for a malformed one."""
        if record.get("mode") not in (None, "eval"):
            raise DataError(f"The row's mode is {record['mode']!r}: it asks for a test.", "Leave it out.")
        request = record.get("responses_create_params")
        asked = isinstance(request, Mapping) and request.get("input")
        return super().read(record) if asked or record.get("prompt") else self.fields(record)

    def ask(self, row: Row) -> list[Message]:
        _, task = self._place(task_of(row.data))
        files = self._localised(row, task).texts
        if not files:
            raise DataError(f"{row.id} has no files to show.", "Give it a `repository`, a `patch`, or a prompt.")
        return [{"role": "user", "content": question(task, files, self.max_chars, self.max_file_chars)}]

    def gold(self, row: Row) -> str:
        """The oracle as SEARCH/REPLACE blocks, or as a diff where they cannot say it. Raises `DataError`."""
        _, task = self._place(task_of(row.data))
        if not task.patch:
            raise DataError(f"{row.id} has no patch.", "Give it one, if its gold is needed.")
        try:
            said = as_blocks(task.patch, localise(task).read)
        except PatchError:
            said = f"```diff\n{task.patch}```"
        return f"{OPEN}\n{said}\n{CLOSE}"

    def score(self, row: Row, answer: str) -> Score:
        """The reward of an answer. Raises `VerifierFailure` where sandbox or judge fail, or the row cannot be graded.

        Parts: `applied`, `unchanged` and `unparsable`; `localised`, the share of the oracle's files that the prompt
        showed; with tests `f2p` and `p2p`, the shares that pass, and `timed_out`, `out_of_memory`, `tampered`; else
        `identical` to the oracle, and `similarity`, or `p_yes` and `no_verdict`.
        """
        try:
            return self._scored(row, *self._place(task_of(row.data)), answer)
        except SandboxError as error:
            raise infrastructure(error) from error
        except DataError as error:
            raise VerifierFailure(FailureKind.DATA, str(error)) from error

    def metrics(self) -> dict[str, float]:
        """What the judge was asked in this process, and what it cost; nothing without a judge."""
        return judge_of(with_log_probs(self.judge)).metrics() if self.judge else {}

    def _place(self, task: SweTask) -> tuple[Sandbox | None, SweTask]:
        """What opens rooms for a task whose code is in an image, and the task with a copy of its repository here.

        Other tasks, and those that are judged by the files that their rows bring, as they are.
        """
        wanted = self.reward == "execution" or not task.shown_files
        if self.sandbox == IMAGES and not task.repository and wanted:
            return in_image(task, self.images)
        return None, task

    def _scored(self, row: Row, box: Sandbox | None, task: SweTask, answer: str) -> Score:
        if self.reward == "execution" or not task.shown_files:
            check_here(task)
        source = localise(task)
        parts = {"applied": 0.0, "unchanged": 0.0, "unparsable": 0.0, "localised": self._localised(row, task).share}
        try:
            changes = changes_of(answer, source.read)
        except PatchError:
            return Score(self.unparsable_reward, {**parts, "unparsable": 1.0})
        if not changes:
            return Score(self.unchanged_reward, {**parts, "unchanged": 1.0})
        parts["applied"] = 1.0
        if self.reward == "execution":
            return self._by_tests(row, box or sandbox(self.sandbox), task, changes, parts)
        return self._beside_oracle(task, source, changes, parts)

    def _by_tests(self, row: Row, box: Sandbox, task: SweTask, changes: Changes, parts: dict[str, float]) -> Score:
        key = (row.id, _digest(changes))
        if key not in self._known:
            while len(self._known) >= REMEMBERED:
                self._known.pop(next(iter(self._known)))
            self._known[key] = grade(box, task, changes, self._limits())
        found = self._known[key]
        if found.starved:
            del self._known[key]
            raise VerifierFailure(FailureKind.INFRASTRUCTURE, "the tests timed out on a machine with no free core")
        parts |= {
            "f2p": found.f2p_passed / found.f2p,
            "p2p": found.p2p_passed / found.p2p if found.p2p else 1.0,
            "timed_out": float(found.timed_out),
            "out_of_memory": float(found.out_of_memory),
            "tampered": float(found.tampered),
        }
        return Score(float(found.resolved), parts)

    @functools.cached_property
    def _known(self) -> dict[tuple[str, str], Grade]:
        """Grades by row and changes: answers in other words make the same ones."""
        return {}

    def _beside_oracle(self, task: SweTask, source: Localised, changes: Changes, parts: dict[str, float]) -> Score:
        official, wanted = _official(task, source)
        changes = {path: text for path, text in changes.items() if path in official or not is_test(path)}
        if not changes:
            return Score(self.unchanged_reward, {**parts, "unchanged": 1.0})
        if changes == official:
            return Score(1.0, {**parts, "identical": 1.0})
        parts["identical"] = 0.0
        given = _diff(source, changes)
        if self.judge is None:
            share = similarity(wanted, given)
            return Score(self._thresholded(share), {**parts, "similarity": share})
        judge = with_log_probs(self.judge)
        opinion = ask(judge, task.problem_statement, wanted, given, self.max_judge_chars)
        said = {"p_yes": opinion.yes or 0.0, "no_verdict": float(opinion.yes is None)}
        return Score(self._thresholded(opinion.yes or 0.0), {**parts, **said})

    def _thresholded(self, share: float) -> float:
        return share if self.threshold is None else float(share >= self.threshold)

    def _localised(self, row: Row, task: SweTask) -> Localised:
        kind = self.files
        if kind == "both":
            kind = "gold" if hashlib.sha256(row.id.encode()).digest()[0] % 2 else "retrieved"
        return localise(task, kind, self.top)

    def _limits(self) -> Limits:
        return Limits(
            time_s=self.time_limit_s,
            memory_mib=self.memory_mib,
            disk_mib=self.disk_mib,
            processes=self.processes,
            output_kib=4096,
        )


def similarity(one: str, other: str) -> float:
    """`difflib`'s ratio of two diffs: of their characters, or of their lines where one is long."""
    if max(len(one), len(other)) <= MAX_COMPARED:
        return SequenceMatcher(None, one, other, autojunk=False).ratio()
    return 1.0 if one == other else SequenceMatcher(None, one.splitlines(), other.splitlines()).ratio()


def _official(task: SweTask, source: Localised) -> tuple[Changes, str]:
    """What the oracle changes, and as a diff. Of code in an image, of which the row brings a part, the patch as it is.

    Raises `DataError` for a row without a patch, or with one that does not fit.
    """
    if not task.patch:
        raise DataError(f"{task.instance_id} has no patch to compare with.", "Use reward=execution.")
    try:
        changes = apply_diff(task.patch, source.read)
        return changes, _diff(source, changes)
    except PatchError as error:
        if not task.repository:
            return {}, task.patch
        raise DataError(f"The `patch` of {task.instance_id} does not fit: {error}.", "Repair the row.") from None


def _diff(source: Localised, changes: Changes) -> str:
    return make_diff({path: source.read(path) for path in changes}, changes)


def _digest(changes: Changes) -> str:
    return hashlib.sha256(repr(sorted(changes.items())).encode()).hexdigest()
