"""What does not fit, and the smallest change that makes it fit: every change that is named was planned with.

Changes are tried alone first, in the order of `single_changes`: those that cost least come first. Where none is enough,
pairs of them are tried, then what brings a role closest is taken again and again, and what turns out to be needless is
taken back. A change counts when, with it, every stage's role of that name fits.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from cascade.planning.case import Case
from cascade.planning.changes import Changes
from cascade.planning.roles import Role
from cascade.planning.splits import decide
from cascade.planning.stage_plan import RecipePlan
from cascade.planning.workload import StageWork, stage_work

TIMES = (2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
"""As many machines that are tried."""

PAIRED = 12
"""The changes that help most, of which pairs are tried."""


@dataclass(frozen=True)
class Problem:
    """A role of a stage that does not fit, or a layout that cannot run (`role` cluster)."""

    stage: str
    role: str
    needs: int  # bytes
    has: int
    change: Changes | None  # None: nothing that was tried helps
    says: str


def find_problems(asked: Case, plan: RecipePlan) -> list[Problem]:
    """The problems of a plan. `asked`: the case as it was given, before its layout was decided."""
    if plan.refused:
        change = smallest_change(asked, None)
        return [Problem("", "cluster", 0, 0, change, plan.refused)]
    changes: dict[str, Changes | None] = {}
    found = []
    for stage in plan.stages:
        for role in stage.roles:
            if role.fits:
                continue
            if role.name not in changes:
                changes[role.name] = smallest_change(asked, role.name)
            needs, has = _tightest(role)
            says = f"{role.name} of {stage.name}"
            found.append(Problem(stage.name, role.name, needs, has, changes[role.name], says))
    return found


def change_for_all(asked: Case, problems: list[Problem]) -> Changes | None:
    """One change with which the whole plan fits, or None where none was found."""
    known = [problem.change for problem in problems if problem.change]
    apart = [change for number, change in enumerate(known) if change not in known[:number]]
    return _piled_up(asked, list(single_changes(asked, None)), None, apart)


def _tightest(role: Role) -> tuple[int, int]:
    """What is needed and there: on the accelerator, or in the machine's memory where only that is too small."""
    return (role.total, role.available) if role.total > role.room else (role.host, role.host_available)


def smallest_change(asked: Case, role: str | None) -> Changes | None:
    """The first change that makes a role fit in every stage, or all roles (None); see above for the order."""
    singles = list(single_changes(asked, role))
    fills: dict[int, float] = {}
    for number, change in enumerate(singles):
        fills[number] = _fills(asked, change, role)
        if fills[number] <= 1:
            return change
    helpful = set(sorted(fills, key=lambda number: fills[number])[:PAIRED])
    helpful |= {number for number in fills if _helps_others(singles[number], asked)}
    for one, other in combinations(sorted(helpful), 2):
        both = {**singles[one], **singles[other]}
        if len(both) == len(singles[one]) + len(singles[other]) and _fills(asked, both, role) <= 1:
            return both
    return _piled_up(asked, singles, role)


def _helps_others(change: Changes, asked: Case) -> bool:
    """Larger servers and more machines may need each other."""
    more = change.get("cluster.nodes", 0) in (2 * asked.cluster.nodes, 4 * asked.cluster.nodes)
    return more or "rollout.tensor_parallel" in change


def _piled_up(asked: Case, singles: list[Changes], role: str | None, begun: Sequence[Changes] = ()) -> Changes | None:
    """The best change on top of the best so far, until it fits or nothing helps; needless ones taken back."""
    chosen = list(begun)
    left = _fills(asked, _merged(chosen), role)
    while left > 1:
        fills = [(_fills(asked, _merged([*chosen, change]), role), number) for number, change in enumerate(singles)]
        best, number = min(fills)
        if best >= left:
            return None
        left = best
        chosen.append(singles[number])
    for change in list(chosen):
        rest = [other for other in chosen if other is not change]
        if _fills(asked, _merged(rest), role) <= 1:
            chosen = rest
    return _merged(chosen)


def _merged(changes: list[Changes]) -> Changes:
    return {key: value for change in changes for key, value in change.items()}


def _fills(asked: Case, change: Changes, role: str | None) -> float:
    """How full the fullest is with a change, its layout decided anew; infinite where it cannot run."""
    changed = asked.changed(change)
    if any(key.startswith("policy.row_tokens") for key in change):
        works: Mapping[str, StageWork] = {name: stage_work(changed.recipe, name) for name in changed.order}
        changed = Case(changed.recipe, changed.order, changed.shape, works)
    case = decide(changed, timed=False).case
    if case.refused() is not None:
        return float("inf")
    found = case.overflow()
    if role is None:
        return max(found.values())
    return found.get(role, 0.0)


def single_changes(asked: Case, role: str | None) -> Iterator[Changes]:
    """Changes of one thing each, those that cost least first."""
    if role in ("train", None):
        yield from _training_changes(asked)
    if role in ("rollout", None):
        yield from _rollout_changes(asked)
    if role in ("teacher", None):
        yield from _teacher_changes(asked)
    if role in ("train", None) and asked.layout.rollout.colocated and asked.layout.rollout.needed:
        yield {"rollout.engine": "vllm_server"}
    if role == "train" and asked.layout.teacher.colocated and asked.layout.teacher.needed:
        yield {"teachers.engine": "vllm_server"}
    if asked.recipe.policy.dtype == "fp32":
        yield {"policy.dtype": "bf16"}
    nodes = asked.cluster.nodes
    for times in TIMES:
        yield {"cluster.nodes": nodes * times}


def _training_changes(asked: Case) -> Iterator[Changes]:
    policy = asked.recipe.policy
    if not policy.activation_checkpointing:
        yield {"policy.activation_checkpointing": True}
    for size in (2, 4, 8, 16):
        if size > policy.sequence_parallel:
            yield {"policy.sequence_parallel": size}
    for size in (2, 4, 8, 16, 32, 64):
        if size > policy.expert_parallel and asked.shape.of_kind("moe"):
            yield {"policy.expert_parallel": size}
    for stage in range(policy.zero_stage + 1, 4):
        yield {"policy.zero_stage": stage}
    if policy.offload_optimizer == "none":
        yield {"policy.offload_optimizer": "cpu"}
    if policy.offload_parameters == "none":
        yield {"policy.zero_stage": 3, "policy.offload_parameters": "cpu"}
    if policy.zero_stage < 3 or policy.offload_parameters == "none":
        yield {"policy.zero_stage": 3, "policy.offload_optimizer": "cpu", "policy.offload_parameters": "cpu"}
    rows = policy.rows_per_micro_batch
    while rows > 1:
        rows //= 2
        yield {"policy.rows_per_micro_batch": rows}
    if policy.log_prob_chunk > 256:
        yield {"policy.log_prob_chunk": 256}


def _rollout_changes(asked: Case) -> Iterator[Changes]:
    rollout = asked.recipe.rollout
    if rollout.engine == "hf":
        for sequences in (64, 16, 4, 1):
            if sequences < rollout.batch_sequences:
                yield {"rollout.batch_sequences": sequences}
        for size in (1, 2, 4, 8):
            yield {"rollout.engine": "vllm_server", "rollout.tensor_parallel": size}
    elif rollout.engine == "vllm_server":
        for size in (2, 4, 8, 16):
            if size > rollout.tensor_parallel:
                yield {"rollout.tensor_parallel": size}
    else:
        yield {"rollout.engine": "vllm_server"}
    longest = _longest(asked)
    if rollout.engine != "hf" and (rollout.max_model_len or asked.shape.context or 0) > longest:
        yield {"rollout.max_model_len": longest}


def _longest(asked: Case) -> int:
    """Tokens of the longest sequence that any stage samples, with room for its prompt, in whole thousands."""
    limits = [each.limit + 2 * each.prompt for work in asked.works.values() for each in work.answers]
    row = asked.recipe.policy.row_tokens
    return min(row, 1024 * (1 + int(max(limits, default=row)) // 1024))


def _teacher_changes(asked: Case) -> Iterator[Changes]:
    if asked.recipe.teachers.engine == "local":
        if asked.recipe.teachers.resident > 1:
            yield {"teachers.resident": 1}
        for size in sorted({asked.recipe.rollout.tensor_parallel, 2, 4, 8}):
            same = size == asked.recipe.rollout.tensor_parallel
            sizes = {} if same else {"rollout.tensor_parallel": size}
            yield {"teachers.engine": "vllm_server", **sizes}
    else:
        for size in (2, 4, 8):
            if size > asked.recipe.rollout.tensor_parallel:
                yield {"rollout.tensor_parallel": size}
