"""The pre-flight of a cluster, run by the launcher of the run on all nodes; rank 0 prints one table.

Every wait has a deadline, and what did not come in time is a finding that names the rank and its node.
"""

from __future__ import annotations

import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cascade.doctor import cluster_probes as probes
from cascade.doctor.cluster_facts import Facts, facts
from cascade.doctor.cluster_verdicts import (
    agreement,
    all_reduced,
    clocks,
    files,
    links,
    resources,
    roll_call,
)
from cascade.doctor.finding import Finding
from cascade.errors import ConfigError
from cascade.meeting import Meeting, Place

LEAVE_S = 10.0  # for the others to read the verdict


def check_cluster(shared: Path, timeout_s: float) -> tuple[list[Finding], bool]:
    """The findings, on rank 0 only, and whether all is well, on every rank.

    Args:
        shared: a folder on the file system where run folders will be; made where it is not there.
        timeout_s: deadline of each of the checks, one after the other.

    Raises `ConfigError` without a launcher and `EngineError` when rank 0 is not reached.
    """
    if "RANK" not in os.environ:
        raise ConfigError(
            "`cascade doctor --cluster` was not started by a launcher.",
            "Start it as the run will be, e.g. `srun python -m cascade doctor --cluster --shared FOLDER`.",
        )
    shared.mkdir(parents=True, exist_ok=True)
    meeting = Meeting(timeout_s)
    if meeting.rank == 0:
        return _lead(meeting, meeting.places, shared, timeout_s)
    return [], _follow(meeting, meeting.places, shared, timeout_s)


def _lead(meeting: Meeting, places: list[Place], shared: Path, timeout_s: float) -> tuple[list[Finding], bool]:
    found = [roll_call(places, meeting.world_size, timeout_s)]
    if len(places) == meeting.world_size:
        ahead = probes.clock(meeting, timeout_s) or {}
        mine = _tried(meeting, places, shared, timeout_s)
        reports = {0: mine} | _reports(meeting, places, timeout_s)
        probes.clean(shared, meeting.told("folder", 0, 1.0))
        known = {place.rank: place for place in places}
        told = {known[rank]: report for rank, report in reports.items()}
        missing = [place for place in places if place.rank not in reports]
        found += [
            *clocks({known[rank]: seconds for rank, seconds in ahead.items()}, places[1:], timeout_s),
            links({place: report["ports"] for place, report in told.items()}, missing, timeout_s),
            *files({place: report["files"] for place, report in told.items()}, shared, timeout_s),
            all_reduced({place: report["all_reduce"] for place, report in told.items()}, missing, timeout_s),
            *agreement({place: Facts(**report["facts"]) for place, report in told.items()}),
            *resources({place: Facts(**report["facts"]) for place, report in told.items()}),
        ]
    well = not any(finding.status in ("missing", "failed") for finding in found)
    meeting.tell("verdict", well)
    meeting.gather("left", LEAVE_S, [place.rank for place in places if place.rank != 0])
    return found, well


def _follow(meeting: Meeting, places: list[Place], shared: Path, timeout_s: float) -> bool:
    if len(places) == meeting.world_size:
        probes.clock(meeting, timeout_s)
        meeting.tell("report", _tried(meeting, places, shared, timeout_s))
    well = meeting.told("verdict", 0, 6 * timeout_s)  # rank 0 has as many waits before it
    meeting.tell("left", True)
    if well is None:
        print(f"cascade: rank 0 at {meeting.where} gave no verdict in {6 * timeout_s:.0f} s", file=sys.stderr)
    return bool(well)


def _tried(meeting: Meeting, places: list[Place], shared: Path, timeout_s: float) -> dict[str, Any]:
    """What this rank knows and has tried, in the same order on all."""
    own = facts(shared, meeting.place.node, meeting.place.local_rank)
    with probes.listening(meeting):
        closed = probes.ports(meeting, places, timeout_s)
        seen = probes.shared_files(meeting, places, shared, timeout_s)
        reduced = probes.within(timeout_s, lambda: probes.all_reduce(meeting, timeout_s))
        return {"facts": asdict(own), "ports": closed, "files": seen, "all_reduce": reduced}


def _reports(meeting: Meeting, places: list[Place], timeout_s: float) -> dict[int, Any]:
    """rank -> what it told, of the others; those that never tell are waited for once."""
    return meeting.gather("report", 2 * timeout_s, [place.rank for place in places if place.rank != 0])
