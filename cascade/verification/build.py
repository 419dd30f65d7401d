"""From a recipe's `verifiers` to whoever makes verdicts."""

from __future__ import annotations

from collections.abc import Mapping

from cascade.config import VerifiersConfig
from cascade.ports import Environment
from cascade.verification.jobs import EnvironmentSpec, Verifiers
from cascade.verification.local import LocalVerifiers
from cascade.verification.penalised import PenalisedVerifiers


def build_verifiers(
    config: VerifiersConfig, environments: Mapping[str, Environment], specs: Mapping[str, EnvironmentSpec]
) -> Verifiers:
    """Verifiers for these environments; what they start, they start with the first job that needs it.

    Raises `EngineError` where Ray is asked for and not installed or not reachable.
    """
    shared = (config.workers, config.cache_entries, config.retries, config.memory_gib)
    if config.engine == "ray":
        from cascade.verification.ray_cluster import RayVerifiers

        verifiers: Verifiers = RayVerifiers(environments, specs, *shared, address=config.address)
    else:
        verifiers = LocalVerifiers(environments, specs, *shared)
    penalties = {
        name: spec.config.penalties for name, spec in specs.items() if any(vars(spec.config.penalties).values())
    }
    return PenalisedVerifiers(verifiers, penalties) if penalties else verifiers
