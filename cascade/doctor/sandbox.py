"""Whether programs of a model can be run safely here: what holds them, and what it stops when it is attacked."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator

from cascade.doctor.finding import Finding
from cascade.errors import CascadeError
from cascade.sandbox import backends, bubblewrap, cgroups, identity, seccomp
from cascade.sandbox.attack_table import GROUPS, Attack
from cascade.sandbox.attacks import Tried, tried
from cascade.sandbox.limits import Limits
from cascade.sandbox.ports import Sandbox

WITHOUT = "bwrap_without_cgroups"
USELESS = "Environments that run programs (code, SWE) do not work here."
ALLOW = (
    "Allow unprivileged user namespaces: sysctl -w kernel.unprivileged_userns_clone=1 (Debian), or "
    "kernel.apparmor_restrict_unprivileged_userns=0 (Ubuntu). In a container: docs/sandbox.md."
)
REPORT = "Run no programs of a model on this machine, and report what escaped."
AGAIN = "Run it again on a quiet machine; if it stays so, report it."


def sandbox() -> Iterator[Finding]:
    """What it is made of, then one finding a group of attacks. Takes seconds: every attack is really tried."""
    try:
        box, told = _box()
    except CascadeError as error:
        yield Finding("sandbox", "warning", f"{error.what} {USELESS}", error.fix)
        return
    try:
        box.open(Limits()).close()
    except CascadeError as error:
        yield Finding("sandbox", "warning", f"{error.what} {USELESS}", ALLOW)
        return
    yield told
    known = {each.attack.name: each for each in tried(box)}
    for name, attacks in GROUPS.items():
        yield _group(f"attacks: {name}", attacks, known)


def _box() -> tuple[Sandbox, Finding]:
    """The usual back end, or else the one without control groups. Raises `CascadeError` for the usual one's lack."""
    try:
        return backends.sandbox("bwrap"), Finding("sandbox", "ok", _made_of(f"cgroup v{cgroups.mounted().version}"))
    except CascadeError as error:
        try:
            box = backends.sandbox(WITHOUT)
        except CascadeError:
            raise error from None
        detail = f"{_made_of('no cgroup')}; only sandbox={WITHOUT} works: {error.what}"
        return box, Finding("sandbox", "warning", detail, error.fix)


def _made_of(groups: str) -> str:
    path = bubblewrap.binary()
    version = ".".join(map(str, bubblewrap.version(path)))
    as_root = identity.makes_rooms_as_root()
    user = f"a uid above {identity.ROOM_ID} for every room" if as_root else f"user namespace of uid {os.geteuid()}"
    filtered = f"seccomp for {platform.machine()}, {len(seccomp.DENIED)} calls denied"
    return f"bubblewrap {version} at {path}, {user}, {groups}, {filtered}"


def _group(name: str, attacks: tuple[Attack, ...], known: dict[str, Tried]) -> Finding:
    found = [known[attack.name] for attack in attacks]
    escaped = [f"{each.attack.name} ({each.detail})" for each in found if each.result == "escaped"]
    unclear = [f"{each.attack.name} ({each.detail})" for each in found if each.result == "unclear"]
    stopped = [each.attack.name for each in found if each.result == "stopped"]
    detail = f"{len(stopped)} of {len(found)} stopped: {', '.join(stopped)}"
    if escaped:
        return Finding(name, "warning", f"ESCAPED: {', '.join(escaped)}; {detail}", REPORT)
    if unclear:
        return Finding(name, "warning", f"not tried: {', '.join(unclear)}; {detail}", AGAIN)
    return Finding(name, "ok", detail)
