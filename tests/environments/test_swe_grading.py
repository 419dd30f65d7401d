"""Only changes of source that do what the tests want are resolved; whatever else makes tests pass is not."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from cascade.environments.patches import Changes, make_diff
from cascade.environments.swe_grading import Bench, Grade, grade, oracle
from cascade.environments.swe_repository import prepare
from cascade.environments.swe_rows import SweTask
from cascade.errors import DataError, SandboxError
from cascade.sandbox.backends import sandbox
from cascade.sandbox.limits import Limits
from tests.environments.small_repository import BAD, F2P, FILES, GOOD, P2P, SOURCE, small_task

LIMITS = Limits(time_s=60.0, memory_mib=512, disk_mib=64, output_kib=1024)
TEST_FILE = "tests/test_prices.py"


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> SweTask:
    return small_task(tmp_path_factory.mktemp("swe"))


def graded(task: SweTask, changes: Changes, limits: Limits = LIMITS) -> Grade:
    return grade(sandbox("bwrap"), task, changes, limits)


def source(text: str) -> Changes:
    return {SOURCE: text.encode()}


def test_the_oracle_resolves_and_leaves_the_prepared_repository_as_it_was(task: SweTask) -> None:
    prepared = prepare(task)
    before = {path: (prepared.folder / path).read_bytes() for path in prepared.files()}
    found = graded(task, oracle(task))
    assert found.resolved, found.reason
    assert (found.f2p_passed, found.f2p, found.p2p_passed, found.p2p) == (2, 2, 4, 4)
    assert [found.timed_out, found.out_of_memory, found.tampered, found.dropped] == [False, False, False, ()]
    assert before == {path: (prepared.folder / path).read_bytes() for path in prepared.files()}


def test_another_repair_than_the_oracle_resolves(task: SweTask) -> None:
    assert graded(task, source(GOOD.replace("whole * discount // 100", "discount * whole // 100"))).resolved


def test_no_change_and_a_change_that_repairs_nothing_resolve_nothing(task: SweTask) -> None:
    assert graded(task, {}).reason == "no source is changed"
    assert graded(task, source(BAD)).reason == "no source is changed"
    found = graded(task, source(BAD + "# a comment\n"))
    assert (found.resolved, found.f2p_passed, found.p2p_passed) == (False, 0, 4)
    assert "test_discount[10-360]" in found.reason


def test_a_repair_that_breaks_another_test_resolves_nothing(task: SweTask) -> None:
    found = graded(task, source(GOOD.replace("min(prices)", "max(prices)")))
    assert (found.resolved, found.f2p_passed, found.p2p_passed) == (False, 2, 3)


@pytest.mark.parametrize(
    "changes",
    [
        {TEST_FILE: None},
        {TEST_FILE: b"def test_no_discount(): pass\n"},
        {"tests/conftest.py": b"import pytest\n\n@pytest.hookimpl\ndef pytest_runtest_makereport(): ...\n"},
        {"conftest.py": b"def pytest_collection_modifyitems(items): items.clear()\n"},
        {"pyproject.toml": b'[tool.pytest.ini_options]\naddopts = "--co"\n'},
        {"pytest.ini": b"[pytest]\npython_files = nothing.py\n"},
        {"sitecustomize.py": b"import os\nos._exit(0)\n"},
        {"pytest.py": b"def main(*a): return 0\n"},
        {"unittest/__init__.py": b"class TestCase: pass\n"},
        {"tests/__init__.py": b"import sys\n"},
        {"basket/tests/helper.py": b""},
        {"evil.pth": b"import os\n"},
        {"../outside.py": b""},
        {".git/hooks/post-checkout": b""},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_changes_to_tests_and_to_what_runs_them_do_not_count(task: SweTask, changes: Changes) -> None:
    found = graded(task, changes)
    assert found.dropped == tuple(changes)
    assert not found.resolved
    assert found.reason.startswith("no source is changed")


def test_a_repair_counts_beside_changes_that_do_not(task: SweTask) -> None:
    found = graded(task, {**oracle(task), TEST_FILE: None, "conftest.py": b"raise SystemExit\n"})
    assert found.resolved
    assert found.dropped == ("conftest.py", TEST_FILE)


ALWAYS_EQUAL = "class E(int):\n    __eq__ = lambda *a: True\n    __hash__ = int.__hash__\n"
EXPLOITS = {
    "exits_with_0": BAD + "import os\nos._exit(0)\n",
    "exits_in_the_call": BAD.replace("whole = sum(prices)", "import os; os._exit(0)"),
    "exits_at_exit": BAD + "import atexit, os\natexit.register(os._exit, 0)\n",
    "ends_the_session": BAD.replace("whole = sum(prices)", "import pytest; pytest.exit('done', 0)"),
    "skips": BAD.replace("whole = sum(prices)", "import pytest; pytest.skip('later')"),
    "expects_to_fail": BAD.replace("whole = sum(prices)", "import pytest; pytest.xfail('known')"),
    "prints_a_report": BAD + "print('2 passed in 0.01s'); print('PASSED ' + __file__)\n",
    "equals_everything": ALWAYS_EQUAL + BAD.replace("whole - discount // 100", "E(whole)"),
    "patches_the_call": BAD + "import _pytest.python as p\np.Function.runtest = lambda self: None\n",
    "patches_reports": (
        BAD + "import _pytest.reports as r\n"
        "r.TestReport.outcome = property(lambda self: 'passed', lambda self, value: None)\n"
    ),
    "patches_assertions": (
        BAD + "import unittest, builtins\n"
        "unittest.TestCase.assertEqual = lambda *a: None\n"
        "builtins.AssertionError = type('Quiet', (SystemExit,), {})\n"
    ),
    "rewrites_the_tests": (
        BAD + "import sys, pathlib\n"
        "for p in pathlib.Path('/testbed/tests').glob('test_*.py'):\n"
        "    p.write_text('def test_discount(): pass')\n"
    ),
    "replaces_test_functions": BAD.replace(
        "whole = sum(prices)",
        "import sys, gc, types; whole = 0\n"
        "    for m in list(sys.modules.values()):\n"
        "        for n, f in list(vars(m).items()):\n"
        "            if n.startswith('test_') and isinstance(f, types.FunctionType):\n"
        "                f.__code__ = (lambda *a, **k: None).__code__\n"
        "    sys._getframe(1).f_globals['total'] = None\n",
    ),
    "writes_passes_everywhere": (
        BAD + "import os\n"
        "for fd in range(3, 64):\n"
        "    for said in (b'passed\\n', b'{\"passed\": \"ff\"}\\n', b'\\0' * 2200):\n"
        "        try: os.write(fd, said)\n"
        "        except OSError: pass\n"
    ),
    "forges_records": (
        BAD + "import gc, os, types\n"
        "for f in gc.get_objects():\n"
        "    if isinstance(f, types.FunctionType) and f.__name__ == 'pytest_runtest_logreport' and f.__closure__:\n"
        "        kept = dict(zip(f.__code__.co_freevars, [c.cell_contents for c in f.__closure__]))\n"
        "        if 'nonce' in kept:\n"
        "            for number in kept['numbers'].values():\n"
        "                for phase in range(3):\n"
        "                    kept['write'](kept['writing'], kept['pack'](kept['nonce'], number, phase, 1))\n"
        "            os._exit(0)\n"
    ),
    "peeks_at_what_is_expected": BAD.replace(
        "return whole - discount // 100",
        "import sys; said = sys._getframe(1).f_locals; return said.get('expected', whole - discount // 100)",
    ),
    "kills_its_parent": BAD + "import os, signal\nos.kill(os.getppid(), signal.SIGKILL)\n",
    "kills_everything": BAD + "import os, signal\nos.kill(-1, signal.SIGKILL)\n",
    "leaves_a_daemon": BAD + "import os, time\nif os.fork() == 0:\n    os.setsid()\n    time.sleep(600)\n",
}

LIVE = ("equals_everything", "patches_the_call", "patches_reports", "forges_records", "peeks_at_what_is_expected")


@pytest.mark.parametrize("name", sorted(set(EXPLOITS) - set(LIVE)))
def test_an_exploit_resolves_nothing(task: SweTask, name: str) -> None:
    found = graded(task, source(EXPLOITS[name]))
    assert not found.resolved
    assert found.reason


@pytest.mark.parametrize("name", LIVE)
def test_what_controls_are_for_would_pass_without_them(task: SweTask, name: str) -> None:
    assert grade(sandbox("bwrap"), task, source(EXPLOITS[name]), LIMITS, check_controls=False).resolved
    assert graded(task, source(EXPLOITS[name])).tampered


READING = """
import os, signal
parent = f"/proc/{os.getppid()}"
for name in ("mem", "environ", "maps", "fd", "fd/0", "fd/3", "task"):
    try:
        os.listdir(f"{parent}/{name}") if name == "fd" else open(f"{parent}/{name}", "rb").read(64)
    except OSError:
        continue
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_who_has_the_sentinel_cannot_be_read(task: SweTask) -> None:
    assert graded(task, source(GOOD + READING)).resolved
    assert not graded(task, source(GOOD + READING.replace("os.getppid()", "os.getpid()"))).resolved  # it does look


def test_a_loop_is_ended_and_told(task: SweTask) -> None:
    started = time.monotonic()
    loop = GOOD.replace("whole = sum(prices)", "\n    while True: pass\n")
    found = graded(task, source(loop), Limits(time_s=3.0, memory_mib=512, output_kib=1024))
    assert found.timed_out
    assert not found.resolved
    assert time.monotonic() - started < 15


def test_the_end_of_cpu_seconds_is_a_timeout_too(task: SweTask) -> None:
    ended = GOOD + "import os, signal\nos.kill(os.getpid(), signal.SIGXCPU)\n"
    found = graded(task, source(ended))
    assert (found.resolved, found.timed_out) == (False, True)


def test_a_fork_bomb_is_ended_and_resolves_nothing(task: SweTask) -> None:
    started = time.monotonic()
    bomb = GOOD + "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass\n"
    found = graded(task, source(bomb), Limits(time_s=3.0, memory_mib=512, processes=64, output_kib=1024))
    assert (found.resolved, found.f2p_passed) == (False, 0)
    assert time.monotonic() - started < 20


def test_running_out_of_memory_is_told(task: SweTask) -> None:
    found = graded(
        task, source(GOOD + "hoard = [bytearray(1 << 20) for _ in range(4096)]\n"), Limits(time_s=30.0, memory_mib=256)
    )
    assert not found.resolved
    assert found.f2p_passed == 0


def test_a_test_patch_is_applied_for_grading_only(task: SweTask) -> None:
    new = b"from basket import total\n\ndef test_new():\n    assert total([1], 100) == 0\n"
    patched = SweTask(
        instance_id="basket-2",
        problem_statement="x",
        patch=task.patch,
        setup_patch=task.setup_patch,
        test_patch=make_diff({}, {"tests/test_new.py": new}),
        fail_to_pass=("tests/test_new.py::test_new",),
        pass_to_pass=P2P,
        repository=task.repository,
    )
    assert prepare(patched).read("tests/test_new.py") is None
    assert graded(patched, oracle(patched)).resolved
    assert not graded(patched, {"tests/test_new.py": b"def test_new(): pass\n"}).resolved


def test_a_test_with_a_subtest_that_fails_has_not_passed(task: SweTask) -> None:
    source = (
        "import unittest\nfrom basket import total\n\n"
        "class TestNew(unittest.TestCase):\n    def test_parts(self):\n"
        "        for price, expected in ((1, {expected}), (2, 0)):\n"
        "            with self.subTest(price):\n                self.assertEqual(total([price], 100), expected)\n"
    )
    grades = []
    for expected in (0, 5):
        text = source.format(expected=expected).encode()
        patched = SweTask(
            instance_id=f"basket-parts-{expected}",
            problem_statement="x",
            patch=task.patch,
            setup_patch=task.setup_patch,
            test_patch=make_diff({}, {"tests/test_new.py": text}),
            fail_to_pass=("tests/test_new.py::TestNew::test_parts",),
            repository=task.repository,
        )
        grades.append(graded(patched, oracle(patched)).resolved)
    assert grades == [True, False]


def test_tests_that_are_not_there_have_not_passed(task: SweTask) -> None:
    missing = SweTask(
        instance_id="basket-3",
        problem_statement="x",
        patch=task.patch,
        setup_patch=task.setup_patch,
        fail_to_pass=(*F2P, "tests/test_gone.py::test_a", "tests/test_prices.py::test_gone"),
        repository=task.repository,
    )
    found = graded(missing, oracle(missing))
    assert (found.resolved, found.f2p_passed, found.f2p) == (False, 2, 4)


def test_a_test_that_wants_a_failed_assertion_is_no_control(tmp_path: Path, task: SweTask) -> None:
    odd = (
        "import pytest\nfrom basket import total\n\n"
        "def test_odd():\n    assert total([10], 100) != 10\n"
        "    with pytest.raises(AssertionError):\n        assert total([10], 100) == 7\n"
    )
    patched = SweTask(
        instance_id="basket-4",
        problem_statement="x",
        patch=task.patch,
        setup_patch=task.setup_patch,
        test_patch=make_diff({}, {"tests/test_odd.py": odd.encode()}),
        fail_to_pass=("tests/test_odd.py::test_odd",),
        repository=task.repository,
    )
    assert Bench(sandbox("bwrap"), patched, prepare(patched), LIMITS).controls_passed(oracle(patched))
    assert graded(patched, oracle(patched)).resolved


@pytest.mark.parametrize(
    "settings",
    [
        '[tool.pytest]\naddopts = ["--cov=x", "--import-mode=importlib"]\n',
        '[tool.pytest.ini_options]\naddopts = "--cov x -n auto"\nfilterwarnings = ["error"]\nasyncio_mode = "auto"\n',
        "",
    ],
)
def test_settings_for_plugins_that_are_not_here_do_no_harm(tmp_path: Path, settings: str) -> None:
    own = small_task(tmp_path)
    (tmp_path / "repository" / "pyproject.toml").write_text(settings)
    if not settings:
        (tmp_path / "repository" / "setup.cfg").write_text("[tool:pytest]\naddopts = --cov=x --doctest-modules\n")
    assert graded(own, oracle(own)).resolved


def test_code_in_an_image_alone_is_the_machines_failure(task: SweTask) -> None:
    imaged = SweTask(instance_id="a-1", problem_statement="x", fail_to_pass=("t::t",), image="org/image:1")
    with pytest.raises(SandboxError, match=r"org/image:1.*Apptainer"):
        graded(imaged, {SOURCE: b""})


def test_a_patch_of_the_row_that_does_not_fit_is_the_rows_fault(task: SweTask) -> None:
    broken = SweTask(
        instance_id="a-2",
        problem_statement="x",
        fail_to_pass=F2P,
        test_patch=make_diff({TEST_FILE: b"other\n"}, {TEST_FILE: b"text\n"}),
        repository=task.repository,
    )
    with pytest.raises(DataError, match="test_patch"):
        graded(broken, {SOURCE: FILES[SOURCE].encode() + b"\n"})
