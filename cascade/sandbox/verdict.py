"""From how a program ended to the one word for it."""

from __future__ import annotations

import signal

from cascade.sandbox.limits import Status

FAULTS = {signal.SIGSEGV, signal.SIGABRT, signal.SIGFPE, signal.SIGBUS, signal.SIGILL, signal.SIGTRAP, signal.SIGSYS}
FAULTS |= {signal.SIGXFSZ, signal.SIGPIPE}
ENDED_BY: dict[str, Status] = {
    "timeout": "timeout",
    "memory": "memory",
    "disk": "killed",
    "room": "killed",  # a program has brought its whole room down
    "told": "output_limit",
}


def status_of(code: int | None, ended_by: str | None, too_much: bool, err: bytes) -> Status:
    """`code`: negative for a signal. `ended_by`: a key of `ENDED_BY`, or None. `err`: its last words."""
    if too_much:
        return "output_limit"
    if ended_by is not None or code is None:
        return ENDED_BY[ended_by or "timeout"]
    if code == 0:
        return "ok"
    if code == -signal.SIGXCPU:
        return "timeout"
    if _says_out_of_memory(err):
        return "memory"
    return "killed" if code < 0 and -code not in FAULTS else "runtime_error"


def _says_out_of_memory(err: bytes) -> bool:
    """Whether a program says at its end that it got no memory."""
    return err.rstrip().rpartition(b"\n")[2].startswith(b"MemoryError") or b"std::bad_alloc" in err[-500:]
