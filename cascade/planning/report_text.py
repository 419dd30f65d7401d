"""A plan on a cluster, in lines for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from cascade.planning.changes import Changes, words
from cascade.planning.plan_json import memory_json, parameters_json
from cascade.planning.problems import Problem
from cascade.planning.search import Found
from cascade.planning.shapes import ModelShape
from cascade.planning.sizes import GIB
from cascade.planning.stage_plan import PARTS, RecipePlan, StagePlan


def parameter_lines(shape: ModelShape) -> Iterator[str]:
    """Parameters in all, active, and by kind."""
    counts = parameters_json(shape)
    yield (
        f"model: {shape.name} ({shape.architecture}), {_count(counts['total'])} parameters, "
        f"{_count(counts['active'])} active, {_count(counts['active_without_embeddings'])} without embeddings"
    )
    rest = {kind: count for kind, count in counts.items() if not kind.startswith(("total", "active")) and count}
    yield "  " + ", ".join(f"{kind.replace('_', ' ')} {_count(count)}" for kind, count in rest.items())


def _count(number: int) -> str:
    for size, name in ((10**9, "B"), (10**6, "M"), (10**3, "k")):
        if number >= size:
            return f"{number / size:.2f} {name}"
    return str(number)


def report(
    plan: RecipePlan,
    problems: Sequence[Problem],
    derived: Changes,
    commands: Sequence[str],
    together: Changes | None = None,
) -> Iterator[str]:
    """Layout, stages, sums, what does not fit, and how to launch. `together`: the change with which all fits."""
    yield from parameter_lines(plan.shape)
    yield from _layout_lines(plan, derived)
    yield ""
    yield from _stage_table(plan)
    yield ""
    yield from _memory_lines(plan)
    yield ""
    cost = f", {plan.cost_usd:,.0f} USD" if plan.cost_usd is not None else ""
    yield f"in all: {_hours(plan.hours)}, {plan.gpu_hours:,.1f} GPU-hours on {plan.layout.gpus} GPUs{cost}"
    yield "fits" if plan.fits else "does not fit"
    yield from _problem_lines(problems, together)
    yield ""
    yield from commands


def _hours(hours: float) -> str:
    return f"{hours:,.1f} hours" if hours >= 0.1 else f"{hours * 3600:,.1f} seconds"


def _layout_lines(plan: RecipePlan, derived: Changes) -> Iterator[str]:
    cluster, layout, policy = plan.cluster, plan.layout, plan.recipe.policy
    yield (
        f"cluster: {cluster.nodes} x {cluster.gpus_per_node} {cluster.gpu} of {cluster.gpu_memory_gib:g} GiB; "
        f"{layout.gpus} taken on {layout.nodes} machine(s)"
    )
    more = [f"expert parallel {policy.expert_parallel}"] if policy.expert_parallel > 1 else []
    more += [f"sequence parallel {policy.sequence_parallel}"] if policy.sequence_parallel > 1 else []
    more += ["activation checkpointing"] if policy.activation_checkpointing else []
    more += [f"optimizer on {policy.offload_optimizer}"] if policy.offload_optimizer != "none" else []
    more += [f"parameters on {policy.offload_parameters}"] if policy.offload_parameters != "none" else []
    yield f"  train: {layout.training} GPUs, ZeRO-{policy.zero_stage}{''.join(f', {word}' for word in more)}"
    for name, role in (("rollout", layout.rollout), ("teacher", layout.teacher)):
        if not role.needed:
            continue
        where = f"on the {layout.training} that train" if role.colocated else f"{role.gpus} GPUs of their own"
        yield f"  {name}: {role.engine}, {role.replicas} x {role.tensor_parallel} GPU(s), {where}"
    if derived:
        yield f"  derived, since the recipe is not written for these machines: {' '.join(words(derived))}"


def _stage_table(plan: RecipePlan) -> Iterator[str]:
    width = max(len(stage.name) for stage in plan.stages)
    heads = ("steps", *PARTS, "step", "GPU-hours")
    yield f"{'seconds a step':<{width}}  " + "".join(f"{head:>13}" for head in heads)
    for stage in plan.stages:
        parts = [getattr(stage.seconds, part) for part in PARTS]
        figures = [f"{stage.steps:,}", *(f"{part:,.2f}" for part in (*parts, stage.seconds.total))]
        overlapped = "  rollouts while training" if stage.seconds.overlapped else ""
        line = "".join(f"{figure:>13}" for figure in (*figures, f"{stage.gpu_hours:,.1f}"))
        yield f"{stage.name:<{width}}  {line}{overlapped}"


def _memory_lines(plan: RecipePlan) -> Iterator[str]:
    yield "GiB on one GPU"
    shown: dict[str, list[str]] = {}
    for stage in plan.stages:  # alike stages once
        shown.setdefault("\n".join(_role_lines(stage)), []).append(stage.name)
    for lines, names in shown.items():
        yield f"  {', '.join(names)}"
        yield from lines.splitlines()


def _role_lines(stage: StagePlan) -> Iterator[str]:
    for role in stage.roles:
        held: Mapping[str, Any] = memory_json(role.name, role.memory)
        kinds = ", ".join(f"{kind} {size:.1f}" for kind, size in held.items() if kind != "total" and size >= 0.05)
        verdict = "" if role.fits else "  DOES NOT FIT"
        host = f"; host {role.host / GIB:.0f} of {role.host_available / GIB:.0f}" if role.host else ""
        yield (
            f"    {role.name:<8}{role.total / GIB:7.1f} of {role.available / GIB:.1f}: {kinds or 'next to nothing'}"
            f"{host}{verdict}"
        )


def _problem_lines(problems: Sequence[Problem], together: Changes | None) -> Iterator[str]:
    said: dict[tuple[str, str], list[Problem]] = {}
    for problem in problems:
        change = " ".join(words(problem.change)) if problem.change else ""
        said.setdefault((problem.role, change), []).append(problem)
    for (role, change), group in said.items():
        worst = max(group, key=lambda problem: problem.needs - problem.has)
        if role == "cluster":
            yield f"  {worst.says}"
        else:
            stages = ", ".join(problem.stage for problem in group)
            yield f"  {role} of {stages}: up to {worst.needs / GIB:.1f} GiB, and there are {worst.has / GIB:.1f}"
        yield f"    smallest change that helps: {change or 'none was found'}"
    if problems and together:
        yield f"  all fits with: {' '.join(words(together))}"


def search_lines(plan: RecipePlan, found: Found | None) -> Iterator[str]:
    """The fastest layout, as overrides, beside the recipe's own."""
    if found is None:
        yield "search: no layout that fits was found; see above for what would help"
        return
    yield f"search: {found.tried:,} layouts in {found.seconds:.0f} s; the fastest that fits"
    yield f"  {' '.join(words(found.changes)) or 'is the one above'}"
    gain = f", {plan.hours / found.plan.hours:.2f} times as fast" if plan.fits and found.plan.hours else ""
    own = _hours(plan.hours) if plan.fits else "does not fit"
    yield (
        f"  {_hours(found.plan.hours)}, {found.plan.gpu_hours:,.1f} GPU-hours on {found.plan.layout.gpus} GPUs "
        f"(the one above: {own}){gain}"
    )
