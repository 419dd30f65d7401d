"""From the source distribution of a package to tasks that a grader agrees with."""

import hashlib
import io
import json
import subprocess
import sys
import tarfile
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from cascade.environments.patches import apply_diff
from cascade.environments.swe_grading import grade, oracle
from cascade.environments.swe_repository import Prepared, prepare
from cascade.environments.swe_rows import SweTask, read_task
from cascade.errors import ConfigError, DataError, SandboxError
from cascade.sandbox.backends import sandbox
from cascade.sandbox.limits import Limits
from cascade.sandbox.ports import Furniture, Room
from data.make_swe_tasks import main, split_of, tasks
from data.sdists import downloaded_sdist, write_repository
from data.swe_candidates import candidates
from data.swe_packages import PACKAGES, Package
from data.swe_suite import SuiteRun
from data.swe_verdicts import judged, stable_tests

FILES = {
    "shop/__init__.py": "from shop.basket import Basket\nfrom shop.prices import discounted, rounded, unused\n",
    "shop/prices.py": '''\
"""Prices in cents."""


def rounded(cents):
    """To the next five cents."""
    rest = cents % 5
    if rest >= 3:
        return cents + 5 - rest  # up
    return cents - rest


def discounted(cents, percent=10):
    if percent < 0 or percent > 100:
        raise ValueError("no percentage")
    return rounded(cents - cents * percent // 100)


def unused(cents):
    return cents + 1
''',
    "shop/basket.py": """\
class Basket:
    def __init__(self):
        self.items = []
        self.count = 0

    def add(self, name, cents, number=1):
        for _ in range(number):
            self.items.append((name, cents))
        self.count += number
        return self

    def total(self):
        return sum(cents for _, cents in self.items)

    def names(self):
        return sorted({name for name, _ in self.items})
""",
    "tests/test_prices.py": """\
import sys

import pytest

from shop import discounted, rounded


@pytest.mark.parametrize(("cents", "wanted"), [(10, 10), (11, 10), (13, 15), (14, 15)])
def test_rounded(cents, wanted):
    assert rounded(cents) == wanted


def test_discounted():
    assert discounted(200) == 180
    assert discounted(200, 50) == 100


@pytest.mark.parametrize("percent", [-1, 101])
def test_no_percentage(percent):
    with pytest.raises(ValueError):
        discounted(100, percent)


def test_passes_in_some_runs():
    assert sys.gettrace() is not None


def test_never_passes():
    assert rounded(1) == 7


@pytest.mark.skip(reason="later")
def test_skipped():
    assert rounded(1) == 0


@pytest.mark.parametrize("name", {None, "pear", 3, ("fig", None)})
def test_in_the_order_of_a_set(name):
    assert rounded(10) == 10
""",
    "tests/test_basket.py": """\
import unittest

from shop import Basket


class BasketTest(unittest.TestCase):
    def test_total(self):
        basket = Basket().add("pear", 30).add("fig", 20, number=2)
        self.assertEqual(basket.total(), 70)

    def test_count(self):
        self.assertEqual(Basket().add("pear", 30, 3).count, 3)

    def test_names(self):
        basket = Basket().add("pear", 30).add("fig", 20)
        self.assertEqual(["fig", "pear"], basket.names())
""",
    "setup.cfg": "[metadata]\nname = shop\n",
}
LEFT_OUT = {
    "tests/test_prices.py::test_passes_in_some_runs",
    "tests/test_prices.py::test_never_passes",
    "tests/test_prices.py::test_skipped",
}
COUNT = 6


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> tuple[Package, Path]:
    """The package, and a cache that has its source distribution."""
    cache = tmp_path_factory.mktemp("cache")
    sdist = cache / "sdists" / "shop-1.0.tar.gz"
    sdist.parent.mkdir()
    with tarfile.open(sdist, "w:gz") as archive:
        for path, text in {**FILES, "shop/__pycache__/a.pyc": "", "run.sh": "#!/bin/sh\n"}.items():
            member = tarfile.TarInfo(f"shop-1.0/{path}")
            member.size, member.uid, member.mtime = len(text.encode()), 501, 1_700_000_000
            member.mode = 0o775 if path == "run.sh" else 0o600
            archive.addfile(member, io.BytesIO(text.encode()))
    digest = hashlib.sha256(sdist.read_bytes()).hexdigest()
    return Package(name="shop", version="1.0", sha256=digest, licence="MIT", home="someone/shop"), cache


@pytest.fixture(scope="module")
def made(shop: tuple[Package, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[list[dict[str, Any]], Path]:
    """The rows of the first bugs, and the folder that they were written to."""
    package, cache = shop
    out = tmp_path_factory.mktemp("out")
    return tasks([package], COUNT, seed=3, workers=2, out=out, offline_cache=cache, say=lambda line: None), out


Made = tuple[list[dict[str, Any]], Path]


def test_as_many_tasks_as_asked_for_with_every_column_filled(made: Made) -> None:
    rows, out = made
    assert len(rows) == COUNT == len({row["setup_patch"] for row in rows}) == len({row["instance_id"] for row in rows})
    assert [json.loads(line) for line in (out / "tasks.jsonl").read_text().splitlines()] == rows
    for row in rows:
        assert row["FAIL_TO_PASS"]
        assert row["PASS_TO_PASS"]
        assert row["problem_statement"].startswith("# ")
        assert row["repo"] == "someone/shop"
        assert (out / row["repository"]).is_file()
        assert row["test_files"] == ["tests/test_basket.py", "tests/test_prices.py"]


def test_tests_are_those_that_a_plain_run_of_pytest_finds(made: Made, tmp_path: Path) -> None:
    """An independent count: pytest's own summary, outside of the sandbox, of the package that this file wrote."""
    rows, out = made
    for number, row in enumerate(rows):
        with tarfile.open(out / row["repository"]) as archive:
            archive.extractall(tmp_path / str(number), filter="data")
        root = tmp_path / str(number) / "shop-1.0"
        for path, text in apply_diff(row["setup_patch"], lambda p, root=root: (root / p).read_bytes()).items():
            assert text is not None
            (root / path).write_bytes(text)
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-rA", "-q", "-p", "no:cacheprovider", "--tb=no", "--rootdir=.", "tests"],
            cwd=root,
            env={"PYTHONPATH": ".", "PYTHONHASHSEED": "0", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        words = {line.split()[1]: line.split()[0] for line in done.stdout.splitlines() if "::" in line}
        listed = {*row["FAIL_TO_PASS"], *row["PASS_TO_PASS"]}
        known = {name for name in words if "test_in_the_order_of_a_set" not in name} - LEFT_OUT
        assert listed == known
        assert {*row["FAIL_TO_PASS"]} == {name for name in known if words[name] == "FAILED"}


def test_a_grader_resolves_the_repair_and_not_the_bug(made: Made) -> None:
    rows, out = made
    box = sandbox("bwrap")
    for row in rows[:3]:
        task = read_task(row, out)
        assert grade(box, task, oracle(task)).resolved
        prepared = prepare(task)
        again = {
            path: (text or b"") + b"\n# a change that repairs nothing\n" for path, text in prepared.changes.items()
        }
        found = grade(box, task, again)
        assert (found.resolved, found.f2p_passed, found.p2p_passed) == (False, 0, len(task.pass_to_pass))


def test_the_repair_is_the_reverse_of_the_bug_and_restores_every_byte(made: Made) -> None:
    rows, _ = made
    for row in rows:
        wrong = apply_diff(row["setup_patch"], lambda path: FILES[path].encode())
        assert apply_diff(row["patch"], wrong.get) == {path: FILES[path].encode() for path in wrong}
        changed = [line for line in row["patch"].splitlines() if line[:1] in "+-" and line[:3] not in ("+++", "---")]
        assert 1 <= len(changed) <= 12


def test_issues_tell_what_failed_and_not_where_the_bug_is(made: Made) -> None:
    rows, _ = made
    for row in rows:
        text = row["problem_statement"]
        assert "```" in text
        assert "shop 1.0" in text
        for told in ("prices.py", "basket.py", "/testbed", "tests/", row["kind"], "setup_patch", " at 0x"):
            assert told not in text, told
        wrong = [line[1:].strip() for line in row["setup_patch"].splitlines() if line[:1] == "+" and line[:3] != "+++"]
        assert all(line not in text for line in wrong if len(line) > 12)


def test_the_same_seed_gives_the_same_bytes(shop: tuple[Package, Path], made: Made, tmp_path: Path) -> None:
    """With nothing in the cache but the source distribution, and one worker in place of two."""
    package, cache = shop
    sdist = Path("sdists", "shop-1.0.tar.gz")
    (tmp_path / sdist.parent).mkdir()
    (tmp_path / sdist).write_bytes((cache / sdist).read_bytes())
    out = tmp_path / "out"
    tasks([package], 3, seed=3, workers=1, out=out, offline_cache=tmp_path, say=lambda line: None)
    lines = (made[1] / "tasks.jsonl").read_bytes().splitlines(keepends=True)
    assert (out / "tasks.jsonl").read_bytes() == b"".join(lines[:3])
    assert (out / "shop-1.0.tar.gz").read_bytes() == (made[1] / "shop-1.0.tar.gz").read_bytes()


def test_another_seed_draws_other_bugs_of_the_same_functions(made: Made) -> None:
    prepared = prepare(read_task(made[0][0], made[1]))
    lines = {path: frozenset(range(1, 30)) for path in ("shop/prices.py", "shop/basket.py")}
    drawn = [list(islice(candidates(Prepared(prepared.folder), lines, seed), 8)) for seed in ("3", "3", "4")]
    assert drawn[0] == drawn[1] != drawn[2]
    functions = [{bug.unit for bug in bugs} for bugs in drawn]
    assert functions[0] == functions[2]  # each gives one bug a round
    assert len({bug.kind for bug in drawn[2]}) >= 5


class _Shut:
    """A sandbox that no room is opened of."""

    name = "shut"

    def open(self, limits: Limits, furniture: Furniture | None = None) -> Room:
        raise SandboxError("A suite was run again.", "It should not be.")


def test_what_was_run_is_not_run_again(shop: tuple[Package, Path], made: Made, tmp_path: Path) -> None:
    package, cache = shop
    asked = {"out": tmp_path, "offline_cache": cache, "box": _Shut(), "say": lambda line: None}
    rows = tasks([package], COUNT, seed=3, workers=2, **asked)
    assert rows == made[0]
    with pytest.raises(SandboxError, match="run again"):
        tasks([package], COUNT + 4, seed=3, workers=2, **asked)


def test_bugs_are_only_on_lines_that_tests_run(shop: tuple[Package, Path], tmp_path: Path) -> None:
    files = {path: text.encode() for path, text in FILES.items()}
    for path, text in files.items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_bytes(text)
    lines = {"shop/prices.py": frozenset({4, 6, 7, 9}), "tests/test_prices.py": frozenset({1, 10, 11})}
    bugs = list(candidates(Prepared(tmp_path), lines, "0"))
    assert {(bug.path, bug.unit) for bug in bugs} == {("shop/prices.py", "rounded")}
    assert len({bug.hash for bug in bugs}) == len(bugs)
    inside = [bug for bug in bugs if bug.kind != "removed_guard"]  # which removes a line that is run, and its block
    assert not any("cents + 5 - rest" in line for bug in inside for line in bug.bug.splitlines() if line[:1] == "-")


def test_a_bug_of_a_function_is_in_the_split_of_the_function(made: Made) -> None:
    rows, out = made
    assert all(row["split"] == split_of(f"shop/{row['function']}") for row in rows)
    for name in ("train", "validation", "test"):
        lines = (out / f"{name}.jsonl").read_text().splitlines()
        assert [json.loads(line) for line in lines] == [row for row in rows if row["split"] == name]
    shares = [split_of(f"package/module.py::function_{number}") for number in range(2000)]
    assert 0.77 < shares.count("train") / 2000 < 0.83
    assert 0.08 < shares.count("test") / 2000 < 0.12


@pytest.mark.parametrize(
    ("run", "word"),
    [
        (SuiteRun("ended"), "endless"),
        (SuiteRun("ok", {"tests": "failed"}), "other_tests"),
        (SuiteRun("ok", {"a": "passed", "b": "passed", "c": "passed", "d": "passed"}), "unnoticed"),
        (SuiteRun("ok", {"a": "failed", "b": "failed", "c": "failed", "d": "failed"}), "all_fail"),
        (SuiteRun("ok", {"a": "failed", "b": "failed", "c": "failed", "d": "passed"}), "most_fail"),
        (SuiteRun("ok", {"a": "passed", "b": "skipped", "c": "passed", "d": "passed"}), "kept"),
        (SuiteRun("ok", {"a": "failed", "b": "passed", "c": "passed", "d": "passed", "e": "failed"}), "kept"),
    ],
)
def test_a_bug_is_kept_when_some_tests_notice_and_most_do_not(run: SuiteRun, word: str) -> None:
    found = judged(run, ("a", "b", "c", "d"))
    assert found.word == word
    assert len(found.failed) == (word == "kept")


def test_tests_that_differ_between_runs_are_left_out_with_their_sisters() -> None:
    first = {"t::a[0]": "passed", "t::a[1]": "passed", "t::b": "passed", "t::c": "failed", "t::d[x]": "passed"}
    second = {"t::a[0]": "passed", "t::a[2]": "passed", "t::b": "passed", "t::c": "passed", "t::d[x]": "passed"}
    assert stable_tests([first, second], []) == ("t::b", "t::d[x]")
    assert stable_tests([first, second], [frozenset({"t::d[x]"})]) == ("t::d[x]",)


def test_the_repository_has_the_same_bytes_from_any_archive_of_its_files(
    shop: tuple[Package, Path], made: Made, tmp_path: Path
) -> None:
    with tarfile.open(tmp_path / "other.tar.gz", "w:gz") as archive:
        for path, text in reversed({**FILES, "run.sh": "#!/bin/sh\n"}.items()):
            member = tarfile.TarInfo(f"shop-1.0/{path}")
            member.size, member.uid, member.mode = len(text.encode()), 7, 0o755 if path == "run.sh" else 0o644
            archive.addfile(member, io.BytesIO(text.encode()))
    write_repository(tmp_path / "other.tar.gz", tmp_path / "same.tar.gz")
    assert (tmp_path / "same.tar.gz").read_bytes() == (made[1] / "shop-1.0.tar.gz").read_bytes()
    with tarfile.open(tmp_path / "same.tar.gz") as archive:
        modes = {member.name: (member.mode, member.mtime, member.uid) for member in archive}
    assert modes["shop-1.0/run.sh"] == (0o755, 0, 0)
    assert modes["shop-1.0/setup.cfg"] == (0o644, 0, 0)
    assert len(modes) == len(FILES) + 1


def test_a_source_distribution_of_another_hash_is_refused(shop: tuple[Package, Path]) -> None:
    with pytest.raises(DataError, match=r"is not the shop==1\.0 that is pinned"):
        downloaded_sdist("shop==1.0", "0" * 64, shop[1] / "sdists")


def test_an_unknown_package_is_refused_with_the_nearest_name(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["--packages", "shema", "--out", str(tmp_path)]) == 1
    assert "schema" in capsys.readouterr().err
    with pytest.raises(ConfigError):
        tasks([], 0, out=tmp_path)


@pytest.fixture(scope="module")
def inflection(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache with a real source distribution."""
    cache = tmp_path_factory.mktemp("real")
    package = PACKAGES["inflection"]
    try:
        downloaded_sdist(f"{package.name}=={package.version}", package.sha256, cache / "sdists")
    except DataError as error:
        pytest.skip(f"inflection cannot be downloaded: {error.what[:200]}")
    return cache


@pytest.mark.slow
def test_tasks_of_a_real_package(inflection: Path, tmp_path: Path) -> None:
    rows = tasks(["inflection"], 3, workers=2, out=tmp_path, offline_cache=inflection, say=lambda line: None)
    assert len(rows) == 3
    for row in rows:
        assert 455 * 0.9 < len(row["FAIL_TO_PASS"]) + len(row["PASS_TO_PASS"]) <= 455
        task: SweTask = read_task(row, tmp_path)
        assert grade(sandbox("bwrap"), task, oracle(task)).resolved
