"""Runs chosen tests of a repository in a room, and believes only who has the sentinel."""

from __future__ import annotations

import configparser
import json
import secrets
import shlex
import signal
import socket
import threading
import tomllib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from cascade.environments.swe_repository import Prepared
from cascade.environments.swe_room import PYTEST, REPOSITORY, TESTING, python_path
from cascade.sandbox.limits import Outcome
from cascade.sandbox.ports import Room

IGNORED = ("pytest.PytestConfigWarning", "pytest.PytestUnknownMarkWarning")  # settings of plugins that are not here
MAX_ANSWER = 1 << 20
KEPT = ("--import-mode", "--doctest-modules", "--doctest-glob", "--doctest-continue-on-failure", "--pyargs")
"""Of a repository's own options: others want plugins that are not here, or decide what is told."""
SETTINGS = (("pytest.ini", "pytest"), (".pytest.ini", "pytest"), ("tox.ini", "pytest"), ("setup.cfg", "tool:pytest"))
IMPORTED = ("_pytest.unittest", "_pytest.doctest", "_pytest.python", "_pytest.subtests", "unittest.mock")
"""Before anything of the repository, which may have modules of these names."""


@dataclass(frozen=True, slots=True)
class TestRun:
    """What became of the tests that were asked for."""

    __test__ = False  # for pytest, which would take it for a test

    passed: frozenset[str]
    forged: bool  # somebody else than the plugin wrote where results are written
    outcome: Outcome  # of both processes
    code: int | None = None  # how the one with the tests ended, negative for a signal; None: never said

    @property
    def timed_out(self) -> bool:
        """By the clock on the wall, or by the one that counts CPU seconds, which may end only the tests."""
        return self.outcome.status == "timeout" or self.code == -signal.SIGXCPU


def run_tests(room: Room, prepared: Prepared, tests: Sequence[str], exists: Collection[str], time_s: float) -> TestRun:
    """Runs tests by their pytest node ids. Those that are missing, skipped or expected to fail have not passed.

    Args:
        exists: paths in the room's repository that tests may be in.
        time_s: wall clock of all of them together.

    Raises:
        SandboxError: the sandbox has failed, not the tests.
    """
    tests = list(dict.fromkeys(tests))
    files = sorted({name.split("::")[0] for name in tests} & set(exists))
    order = {
        "tests": tests,
        "before": [TESTING],
        "path": [TESTING, *python_path(prepared)],
        "imported": [*PYTEST, *IMPORTED],
        "arguments": [*_arguments(prepared), *(f"{REPOSITORY}/{file}" for file in files)],
    }
    sentinel = secrets.token_hex(16)
    if not files:
        return TestRun(frozenset(), False, Outcome("ok", 0, b"", b"", 0.0, 0.0, 0.0))
    ours, theirs = socket.socketpair()
    answer = bytearray()
    with ours:
        said = threading.Thread(target=_converse, args=(ours, order, sentinel, answer), daemon=True)
        with theirs:
            said.start()
            outcome = room.run(("python", "-"), _inside(), time_s=time_s, folder=REPOSITORY, line=theirs)
        ours.shutdown(socket.SHUT_RDWR)  # if nobody inside has said the last word
        said.join()
    return _believed(bytes(answer), sentinel, tests, outcome)


def _converse(line: socket.socket, order: dict[str, object], sentinel: str, answer: bytearray) -> None:
    """Sends the order, and the sentinel once the one that is to have it is on its own; then listens to the end."""
    try:
        line.sendall(json.dumps(order).encode() + b"\n")
        while not answer.endswith(b"\n"):
            if not (new := line.recv(64)):
                return
            answer += new
        answer.clear()
        line.sendall(sentinel.encode() + b"\n")
        while (new := line.recv(1 << 16)) and len(answer) < MAX_ANSWER:
            answer += new
    except OSError:
        return


def _believed(answer: bytes, sentinel: str, tests: Sequence[str], outcome: Outcome) -> TestRun:
    try:
        said = json.loads(answer)
        if not secrets.compare_digest(str(said["sentinel"]), sentinel):
            return TestRun(frozenset(), True, outcome)
        bits = int(said["passed"], 16)
        passed = frozenset(name for number, name in enumerate(tests) if bits >> number & 1)
        return TestRun(passed, bool(said["forged"]), outcome, int(said["code"]))
    except (ValueError, LookupError, TypeError):
        return TestRun(frozenset(), False, outcome)  # it was ended before it could say anything


def _inside() -> bytes:
    found = find_spec("cascade.environments.swe_tests_inside")
    if found is None or found.origin is None:
        raise RuntimeError("cascade.environments.swe_tests_inside is not installed")
    return Path(found.origin).read_bytes()


def _arguments(prepared: Prepared) -> list[str]:
    options = ["-q", "--tb=no", "--no-header", "--assert=plain", "--continue-on-collection-errors"]
    options += ["-p", "no:cacheprovider", f"--rootdir={REPOSITORY}", "-o", "required_plugins="]
    options += ["-o", f"addopts={shlex.join(_kept(prepared))}"]
    return [*options, *(word for name in IGNORED for word in ("-W", f"ignore::{name}"))]


def _kept(prepared: Prepared) -> list[str]:
    """Those of the options in a repository's settings that decide how tests are found."""
    words = _own_options(prepared)
    kept = []
    for place, word in enumerate(words):
        name, equals, _ = word.partition("=")
        if name in KEPT:
            kept.append(word)
            if not equals and name in ("--import-mode", "--doctest-glob") and place + 1 < len(words):
                kept.append(words[place + 1])
    return kept


def _own_options(prepared: Prepared) -> list[str]:
    project = prepared.read("pyproject.toml")
    try:
        pytest = tomllib.loads((project or b"").decode())["tool"]["pytest"]
        found = pytest.get("ini_options", pytest)["addopts"]
        return [str(word) for word in found] if isinstance(found, list) else shlex.split(str(found))
    except (ValueError, LookupError, TypeError, AttributeError):
        pass
    for name, section in SETTINGS:
        settings = configparser.ConfigParser(interpolation=None, strict=False)
        try:
            settings.read_string((prepared.read(name) or b"").decode())
            return shlex.split(settings[section]["addopts"], comments=True)
        except (ValueError, LookupError, configparser.Error):
            continue
    return []
