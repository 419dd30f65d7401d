"""Runs pytest inside a room and tells what passed. Reads nothing of this project: it is sent there as text.

Two processes: one runs the tests, and whatever they import; the other never imports any of it, and is the only one that
has the line to the outside and the run's sentinel, which it reads when the first is already on its own. So printing,
exiting or writing to the line passes for nothing. What code in the first process can still do is to make pytest itself
say something wrong: see the controls in `swe_controls`.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import struct
import sys
import time
from typing import Any, NoReturn

LINE = 3
RECORD = struct.Struct("<16sIBB")  # nonce, number of the test, phase, whether it passed
PHASES = ("setup", "call", "teardown")
PART = len(PHASES)  # of a call: a subtest that failed, after which pytest may still say that the test has passed
NOT_DUMPABLE = 4  # PR_SET_DUMPABLE
WAIT_S = 0.05


def main() -> None:
    """Reads an order and a sentinel from the line, and answers with the sentinel and the tests that passed."""
    line = socket.socket(fileno=LINE)
    lines = line.makefile("rb")
    order = json.loads(lines.readline())
    reading, writing = os.pipe()
    nonce = os.urandom(16)
    child = os.fork()
    if child == 0:
        os.close(reading)
        lines.close()
        line.close()
        _run_tests(order, nonce, writing)
    os.close(writing)
    _hide()
    line.sendall(b"ready\n")
    sentinel = lines.readline().decode().strip()
    passed, forged, code = _witness(reading, nonce, child, len(order["tests"]))
    said = {"sentinel": sentinel, "passed": f"{passed:x}", "forged": forged, "code": code}
    line.sendall(json.dumps(said).encode() + b"\n")
    os._exit(0)


def _hide() -> None:
    """Makes this process's memory and descriptors unreadable for others of the same user."""
    import ctypes

    if ctypes.CDLL(None).prctl(NOT_DUMPABLE, 0, 0, 0, 0) != 0:
        os._exit(1)


def _witness(reading: int, nonce: bytes, child: int, count: int) -> tuple[int, bool, int]:
    """Tests that passed in every phase, each phase once and in order, as bits; whether anything else was written."""
    phases, failed, forged, ended = [0] * count, set(), False, None
    data = b""
    while ended is None or select.select([reading], [], [], 0)[0]:
        if select.select([reading], [], [], WAIT_S)[0]:
            new = os.read(reading, 1 << 16)
            data += new
            while len(data) >= RECORD.size and not forged:
                said, number, phase, good = RECORD.unpack_from(data)
                data = data[RECORD.size :]
                part = phase == PART and not good  # says nothing but that the test has failed
                forged = said != nonce or number >= count or not (part or phase == phases[number] < len(PHASES))
                if not forged:
                    phases[number] += not part
                    if not good:
                        failed.add(number)
            if forged:
                data = b""
            if not new:
                time.sleep(WAIT_S / 10)
                if ended is not None:
                    break
        if ended is None:
            pid, status = os.waitpid(child, os.WNOHANG)
            ended = os.waitstatus_to_exitcode(status) if pid else None
    forged = forged or bool(data)
    good = [number for number in range(count) if phases[number] == len(PHASES) and number not in failed]
    return (0 if forged else sum(1 << number for number in good)), forged, ended


def _run_tests(order: dict[str, Any], nonce: bytes, writing: int) -> NoReturn:
    """pytest on the files of an order; only the tests that it names are run."""
    os.set_inheritable(writing, False)
    sys.dont_write_bytecode = True
    sys.path[:0] = order["before"]
    import pytest

    for name in order["imported"]:
        with contextlib.suppress(ImportError):
            __import__(name)
    sys.path[:] = [*order["path"], *(folder for folder in sys.path if folder not in order["path"])]
    code = int(pytest.main(order["arguments"], plugins=[_reporter(order["tests"], nonce, writing)]))
    os._exit(code if code < 100 else 99)


def _reporter(tests: list[str], nonce: bytes, writing: int) -> object:
    """A plugin that chooses tests and writes a record for every phase of theirs."""
    import pytest
    from _pytest.subtests import SubtestReport

    numbers = {name: number for number, name in enumerate(tests)}
    own, write, pack, getpid = os.getpid(), os.write, RECORD.pack, os.getpid
    kind, part_kind = pytest.TestReport, SubtestReport
    codes = {name: code for code, name in enumerate(PHASES)}

    class Reporter:
        @pytest.hookimpl(trylast=True)
        def pytest_collection_modifyitems(self, config: Any, items: list[Any]) -> None:
            """Also what conftest.py has added or put in another order."""
            chosen = [item for item in items if item.nodeid in numbers]
            config.hook.pytest_deselected(items=[item for item in items if item.nodeid not in numbers])
            items[:] = chosen

        @pytest.hookimpl(tryfirst=True)
        def pytest_runtest_logreport(self, report: Any) -> None:
            number = numbers.get(report.nodeid)
            if number is None or getpid() != own:
                return
            if type(report) is part_kind and report.outcome == "failed":
                write(writing, pack(nonce, number, PART, False))
            if type(report) is not kind:
                return
            good = report.outcome == "passed" and not hasattr(report, "wasxfail")
            write(writing, pack(nonce, number, codes[report.when], good))

    return Reporter()


if __name__ == "__main__":
    main()
