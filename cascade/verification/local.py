"""Verifiers on this machine."""

from __future__ import annotations

import os
from collections.abc import Mapping

from cascade.errors import ConfigError
from cascade.ports import Bounded, Environment
from cascade.verification.costs import Costs
from cascade.verification.crew import Crew
from cascade.verification.hand import Bound, ProcessHand
from cascade.verification.jobs import EnvironmentSpec
from cascade.verification.meter import Meter
from cascade.verification.routing import RoutedVerifiers, is_bounded

CACHE_ENTRIES = 100_000
RETRIES = 2
MEMORY_GIB = 2.0


class LocalVerifiers(RoutedVerifiers):
    """`Bounded` environments are judged in worker processes of this machine, which start with the first such job.

    Args:
        environments: by name.
        specs: what workers build them from; needed of the `Bounded` ones.
        workers: processes; None: the cores that this process may use, divided by the processes started beside it.
        cache_entries: verdicts that are remembered; 0: none.
        retries: of a verdict that is late because the machine is busy.
        memory_gib: address space of a worker. An answer that needs more is the model's own fault.
    """

    def __init__(
        self,
        environments: Mapping[str, Environment],
        specs: Mapping[str, EnvironmentSpec],
        workers: int | None = None,
        cache_entries: int = CACHE_ENTRIES,
        retries: int = RETRIES,
        memory_gib: float = MEMORY_GIB,
    ) -> None:
        meter = Meter(workers or own_cores())
        bounds = bounds_of(environments, specs)
        hands = [ProcessHand(bounds, meter, memory_gib, retries) for _ in range(meter.workers)]
        super().__init__(environments, Crew(hands, meter, costs_of(bounds)), meter, cache_entries)


def own_cores() -> int:
    """Cores for this process, where others were started beside it by the same launcher."""
    return max(1, len(os.sched_getaffinity(0)) // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def costs_of(bounds: Mapping[str, Bound]) -> Costs:
    """What verdicts are thought to cost, before any was made."""
    return Costs({name: bound.deadline_s for name, bound in bounds.items()})


def bounds_of(environments: Mapping[str, Environment], specs: Mapping[str, EnvironmentSpec]) -> dict[str, Bound]:
    """What workers must know of every environment that they judge. Raises `ConfigError` for one without a spec."""
    bounds = {}
    for name, environment in environments.items():
        if isinstance(environment, Bounded) and is_bounded(environment):
            if name not in specs:
                raise ConfigError(f"Environment {name} has a deadline, but no spec.", "Pass its `EnvironmentSpec`.")
            bounds[name] = Bound(specs[name], environment.deadline_s)
    return bounds
