"""Which checkpoint is the best of a domain, and why, in one sentence."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from cascade.errors import RegistryError
from cascade.types import Checkpoint, SplitScore


@dataclass(frozen=True, slots=True)
class Candidate:
    """A checkpoint with its score on the domain and split in question."""

    checkpoint: Checkpoint
    score: SplitScore
    evaluation_hash: str


@dataclass(frozen=True, slots=True)
class Best:
    """The best checkpoint of a domain and one sentence why."""

    checkpoint: Checkpoint
    score: SplitScore
    why: str


def best_of(candidates: Sequence[Candidate], domain: str, split: str) -> Best:
    """The candidate with the highest mean, the earlier one of equals. `candidates`: at least one, earliest first.

    Example of `why`: "mopd_1 step 60 has the highest validation score on math: 0.612 ± 0.028 (n=300), 0.041 above
    if_rl".
    """
    ranked = sorted(candidates, key=lambda c: -c.score.mean)  # stable: equals stay in order
    first = ranked[0]
    score, name = first.score, f"{first.checkpoint.stage} step {first.checkpoint.step}"
    measured = f"{score.mean:.3f} ± {score.stderr:.3f} (n={score.n})"
    if len(ranked) == 1:
        return Best(first.checkpoint, score, f"{name} is the only one with a {split} score on {domain}: {measured}")
    why = f"{name} has the highest {split} score on {domain}: {measured}, {_margin(first, ranked[1])}"
    if any(c.evaluation_hash != first.evaluation_hash for c in ranked):
        why += "; not all were evaluated with the same settings"
    return Best(first.checkpoint, score, why)


def nothing_scored(domain: str, split: str, scored: Collection[str], restricted: bool) -> RegistryError:
    """The error for a domain without scores; `scored`: the domains that have some on this split."""
    where = " among the checkpoints allowed" if restricted else ""
    what = f"No checkpoint has a {split} score on '{domain}'{where}."
    if domain in scored:
        return RegistryError(what, "Allow more checkpoints, or evaluate these.")
    if not scored:
        return RegistryError(what, f"Nothing has a {split} score yet: evaluate a stage first.")
    near = difflib.get_close_matches(domain, sorted(scored), n=1, cutoff=0.5)
    hint = f"Did you mean '{near[0]}'? " if near else ""
    return RegistryError(what, f"{hint}Scored are: {', '.join(sorted(scored))}.")


def _margin(first: Candidate, second: Candidate) -> str:
    other = second.checkpoint.stage
    if other == first.checkpoint.stage:
        other = f"{other} step {second.checkpoint.step}"
    gap = first.score.mean - second.score.mean
    return f"{gap:.3f} above {other}" if gap > 0 else f"equal to {other}, which came later"
