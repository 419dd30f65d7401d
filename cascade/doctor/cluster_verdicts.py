"""Findings from what the ranks of a cluster have told."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cascade.doctor import MIN_DISK_GIB, MIN_SHM_GIB
from cascade.doctor.cluster_facts import Facts
from cascade.doctor.finding import Finding
from cascade.meeting import Place, ranks

SKEW_S = 1.0
SLOW_FILES_S = 5.0  # until a file of another node is seen
MIN_OPEN_FILES = 4096


def roll_call(places: Sequence[Place], world_size: int, timeout_s: float) -> Finding:
    """Whether all ranks have come, and which have not."""
    nodes = Counter(place.node for place in places)
    there = ", ".join(f"{node}: {count}" for node, count in nodes.items())
    missing = sorted(set(range(world_size)) - {place.rank for place in places})
    if not missing:
        return Finding("ranks", "ok", f"all {world_size} on {len(nodes)} node(s): {there}")
    detail = f"{ranks(missing)} of {world_size} did not come in {timeout_s:.0f} s; there are {there}"
    return Finding("ranks", "failed", detail, "See the launcher's output of those ranks; nothing else was checked.")


def clocks(ahead: Mapping[Place, float], asked: Sequence[Place], timeout_s: float) -> Iterator[Finding]:
    """Whether clocks agree. A difference only confuses the order of messages and the times of files."""
    silent = [str(place) for place in asked if place not in ahead]
    if silent:
        yield Finding("clock", "failed", f"{', '.join(silent)} did not tell the time in {timeout_s:.0f} s")
        return
    place = max(ahead, key=lambda place: abs(ahead[place]), default=None)
    if place is None:
        return
    detail = f"{place} is {abs(ahead[place]):.3f} s {'ahead of' if ahead[place] > 0 else 'behind'} rank 0 at most"
    if abs(ahead[place]) > SKEW_S:
        yield Finding("clock", "warning", detail, "Let NTP set the clocks (chrony, systemd-timesyncd).")
    else:
        yield Finding("clock", "ok", detail)


def links(closed: Mapping[Place, Sequence[str]], missing: Sequence[Place], timeout_s: float) -> Finding:
    """Whether every node could connect to every rank of the others."""
    failed = [f"{place} to {what}" for place, found in closed.items() for what in found]
    failed += [f"{place} told nothing in {timeout_s:.0f} s" for place in missing]
    if failed:
        fix = (
            "Open all TCP ports between the nodes, and set GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME to their network."
        )
        return Finding("ports", "failed", "; ".join(failed), fix)
    nodes = len({place.node for place in closed})
    return Finding("ports", "ok", f"every node reaches every rank of the others ({nodes} node(s))")


def files(seen: Mapping[Place, Mapping[str, Any]], shared: Path, timeout_s: float) -> Iterator[Finding]:
    """Whether `shared` is one file system with atomic renames, exclusive creation and locks."""
    errors = [f"{place}: {found['error']}" for place, found in seen.items() if "error" in found]
    errors += [f"a file of {place} was not seen by rank 0" for f in seen.values() for place in f.get("unseen", [])]
    errors += [f"{place} saw half a file after a rename" for place, f in seen.items() if f.get("whole") is False]
    if errors:
        fix = "Give --shared (and run_dir) a folder on a file system that all nodes mount at the same path."
        yield Finding("shared files", "failed", f"{shared}: {'; '.join(errors)}", fix)
        return
    makers = [place for place, found in seen.items() if found["created"]]
    if len(makers) != 1:
        detail = f"{len(makers)} ranks have created the same file exclusively: {', '.join(map(str, makers))}"
        yield Finding("shared files", "failed", f"{shared}: {detail}", "Choose another file system for run folders.")
        return
    slowest = max(seen, key=lambda place: seen[place]["seconds"])
    detail = f"{shared}: a new file was seen by all, last by {slowest} after {seen[slowest]['seconds']:.2f} s"
    slow = seen[slowest]["seconds"] > SLOW_FILES_S
    fix = "Lower the attribute cache of the mount (NFS: actimeo=1)." if slow else ""
    yield Finding("shared files", "warning" if slow else "ok", detail, fix)
    unlocked = [str(place) for place, found in seen.items() if not found["lock_refused"]]
    if unlocked:
        detail = f"{', '.join(unlocked)} could take a lock that rank 0 holds"
        yield Finding("file locks", "warning", detail, "Never start a run twice; mount with locks (Lustre: flock).")
    else:
        yield Finding("file locks", "ok", "a lock of rank 0 is respected by all")


def all_reduced(done: Mapping[Place, Mapping[str, Any]], missing: Sequence[Place], timeout_s: float) -> Finding:
    """Whether a sum over all ranks is right, and how fast."""
    errors = [f"{place}: {found['error']}" for place, found in done.items() if "error" in found]
    errors += [f"{place} was not heard of in {timeout_s:.0f} s" for place in missing]
    errors += [f"{place} has a wrong sum" for place, found in done.items() if found.get("right") is False]
    if errors:
        fix = "Check the network between them; NCCL_DEBUG=INFO (GPUs) shows which interfaces are used."
        return Finding("all-reduce", "failed", "; ".join(errors), fix)
    slowest = min(done.values(), key=lambda found: found["gb_s"])
    world = len(done)
    bus = slowest["gb_s"] * 2 * (world - 1) / world
    detail = f"{slowest['backend']}, right on {world} ranks; {slowest['mib']} MiB: {slowest['gb_s']:.2f} GB/s, "
    return Finding("all-reduce", "ok", f"{detail}{bus:.2f} GB/s on the bus")


def agreement(known: Mapping[Place, Facts]) -> Iterator[Finding]:
    """Whether versions, code and GPUs are the same everywhere; names those that differ from most."""
    names = next(iter(known.values())).same if known else {}
    for name in names:
        values = Counter(found.same.get(name, "unknown") for found in known.values())
        usual, _ = values.most_common(1)[0]
        others: dict[str, list[str]] = {}
        for place, found in known.items():
            if found.same.get(name) != usual:
                others.setdefault(str(found.same.get(name)), []).append(str(place))
        if not others:
            yield Finding(name, "ok", f"{usual} everywhere")
            continue
        differing = "; ".join(f"{value} at {', '.join(places)}" for value, places in others.items())
        yield Finding(name, "failed", f"{usual} at most, but {differing}", "Use one environment on all nodes.")


def resources(known: Mapping[Place, Facts]) -> Iterator[Finding]:
    """Room and limits, of the node that has the least."""
    cuda = any(found.same.get("GPUs") != "none" for found in known.values())
    yield _least(known, "disk_gib", "disk", "GiB free where run folders will be", MIN_DISK_GIB, "Free some space.")
    yield _least(known, "temporary_gib", "temporary files", "GiB free", 1.0, "Set TMPDIR to a larger file system.")
    yield _least(known, "shm_gib", "shared memory", "GiB free", MIN_SHM_GIB, "In a container: a larger --shm-size.")
    yield _least(known, "open_files", "open files", "allowed", MIN_OPEN_FILES, "ulimit -n 65536, or limits.conf.")
    bound = {place: found for place, found in known.items() if found.locked_memory_kib >= 0}
    if cuda and bound:
        place = min(bound, key=lambda place: bound[place].locked_memory_kib)
        detail = f"{bound[place].locked_memory_kib} KiB at {place}: InfiniBand registers more"
        yield Finding("locked memory", "warning", detail, "ulimit -l unlimited, or limits.conf.")


def _least(known: Mapping[Place, Facts], name: str, title: str, unit: str, minimum: float, fix: str) -> Finding:
    place = min(known, key=lambda place: getattr(known[place], name))
    amount = getattr(known[place], name)
    detail = f"at least {amount:g} {unit} (least at {place})"
    return Finding(title, "ok", detail) if amount >= minimum else Finding(title, "warning", detail, fix)
