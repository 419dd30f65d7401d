"""Diffs round-trip, agree with git's, and are applied exactly or not at all."""

from __future__ import annotations

import contextlib
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cascade.environments.patches import (
    Changes,
    PatchError,
    apply_diff,
    checked_path,
    make_diff,
    parse_diff,
    reversed_diff,
    touched,
)

LINES = ["a", "b", "", "x = 1", "    y", "-- z", "++ q", "+", "-", "\\ No", "@@ -1 +1 @@", "diff --git a/x b/x"]
LINES += ["é", "\r"]
TEXT = st.builds(
    lambda lines, ended: ("\n".join(lines) + ("\n" if ended and lines else "")).encode(),
    st.lists(st.sampled_from(LINES), max_size=30),
    st.booleans(),
)
TREE = st.dictionaries(st.sampled_from(["m.py", "d/n.py", "a b.txt", 'q"x.py', "é.py"]), TEXT, max_size=4)
Tree = dict[str, bytes]


def patched(tree: Tree, diff: str) -> Tree:
    changes: Changes = apply_diff(diff, tree.get) if diff else {}
    after = {**tree, **changes}
    return {path: text for path, text in after.items() if text is not None}


def write_tree(folder: Path, tree: Tree) -> None:
    for path, text in tree.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(text)


def read_tree(folder: Path) -> Tree:
    files = (path for path in folder.rglob("*") if path.is_file() and ".git" not in path.parts)
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def git(folder: Path, *words: str, said: bytes = b"") -> bytes:
    command = ["git", "-c", "user.name=a", "-c", "user.email=a@b.c", *words]
    return subprocess.run(command, cwd=folder, input=said, capture_output=True, check=True, timeout=60).stdout


@settings(max_examples=150, deadline=None)
@given(TREE, TREE)
def test_a_diff_leads_from_one_tree_to_the_other_and_its_reverse_back(before: Tree, after: Tree) -> None:
    diff = make_diff(before, after)
    assert patched(before, diff) == after
    assert patched(after, reversed_diff(diff)) == before


@settings(max_examples=40, deadline=None)
@given(TREE, TREE)
def test_git_applies_our_diffs(before: Tree, after: Tree) -> None:
    diff = make_diff(before, after)
    if diff:
        with TemporaryDirectory() as name:
            write_tree(Path(name), before)
            git(Path(name), "apply", "-", said=diff.encode("utf-8", "surrogateescape"))
            assert read_tree(Path(name)) == after


@settings(max_examples=25, deadline=None)
@given(TREE, TREE)
def test_we_apply_gits_diffs_renames_among_them(before: Tree, after: Tree) -> None:
    with TemporaryDirectory() as name:
        folder = Path(name)
        git(folder, "init", "-q")
        write_tree(folder, before)
        git(folder, "add", "-A")
        git(folder, "commit", "-qm", "before", "--allow-empty")
        for path in before:
            (folder / path).unlink()
        write_tree(folder, after)
        git(folder, "add", "-A")
        diff = git(folder, "diff", "--cached", "-M").decode("utf-8", "surrogateescape")
        assert patched(before, diff) == after


ONE = {"m.py": b"one\ntwo\nthree\nfour\nfive\n"}
GOOD = "--- a/m.py\n+++ b/m.py\n@@ -2,3 +2,3 @@\n two\n-three\n+THREE\n four\n"


def test_a_hunk_at_another_line_applies_where_its_lines_are_once() -> None:
    moved = GOOD.replace("@@ -2,3 +2,3 @@", "@@ -40,3 +40,3 @@")
    assert apply_diff(moved, ONE.get) == {"m.py": b"one\ntwo\nTHREE\nfour\nfive\n"}
    twice = {"m.py": ONE["m.py"] * 2}
    with pytest.raises(PatchError, match="2 places"):
        apply_diff(moved, twice.get)
    assert apply_diff(GOOD, twice.get)["m.py"] == b"one\ntwo\nTHREE\nfour\nfive\n" + ONE["m.py"]


def test_a_change_of_nothing_is_no_change() -> None:
    assert apply_diff("--- a/m.py\n+++ b/m.py\n@@ -1,2 +1,2 @@\n one\n-two\n+two\n", ONE.get) == {}


def test_a_blank_line_is_an_empty_line_of_context() -> None:
    tree = {"m.py": b"a\n\nb\n"}
    assert apply_diff("--- a/m.py\n+++ b/m.py\n@@ -1,3 +1,3 @@\n a\n\n-b\n+c\n", tree.get) == {"m.py": b"a\n\nc\n"}


@pytest.mark.parametrize(
    "diff, why",
    [
        (GOOD.replace(" two", " Two"), "nowhere"),
        (GOOD.replace(" two", "two"), "ends before"),
        (GOOD.replace(" two", " two "), "nowhere"),
        (GOOD.replace("-2,3 +2,3", "-2,4 +2,4"), "ends before"),
        (GOOD.replace("-2,3 +2,3", "-2,2 +2,2"), "goes on after"),
        (GOOD.replace("m.py", "n.py"), "no file n.py"),
        (GOOD.replace("b/m.py", "b/n.py"), "two files"),
        (GOOD.replace("m.py", "../m.py"), "no path"),
        (GOOD.replace("a/m.py", "/etc/passwd").replace("b/m.py", "/etc/passwd"), "no path"),
        (GOOD.replace("m.py", ".git/config"), "no path"),
        ("--- /dev/null\n+++ b/m.py\n@@ -0,0 +1 @@\n+x\n", "already"),
        ("--- a/m.py\n+++ /dev/null\n@@ -1,2 +0,0 @@\n-one\n-two\n", "some of it is left"),
        ("--- a/m.py\n+++ b/m.py\n@@ -3,0 +4 @@\n+x\n", "no context"),
        ("--- a/m.py\n+++ b/m.py\n", "no hunk"),
        ("@@ -1 +1 @@\n-one\n+two\n", "no file"),
        ("diff --git a/m.py b/m.py\nindex 1..2\nGIT binary patch\nliteral 1\n", "binary"),
        ("nothing at all", "no diff"),
        ("\ud800", "surrogate"),
    ],
)
def test_what_does_not_fit_exactly_is_refused(diff: str, why: str) -> None:
    with pytest.raises(PatchError, match=why):
        apply_diff(diff, ONE.get)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from([*GOOD.splitlines(True), "--- /dev/null\n", "@@ -0,0 +1 @@\n", "x", "+"]), max_size=12))
def test_no_text_is_worse_than_refused(lines: list[str]) -> None:
    with contextlib.suppress(PatchError):
        apply_diff("".join(lines), ONE.get)


def test_the_paths_of_a_diff() -> None:
    diff = make_diff({"a.py": b"1\n", "gone.py": b"1\n"}, {"a.py": b"2\n", "new.py": b"1\n"})
    assert touched(diff) == ("a.py", "gone.py", "new.py")
    assert [patch.old for patch in parse_diff(diff)] == ["a.py", "gone.py", None]
    assert touched("") == ()


@pytest.mark.parametrize("path", ["", "/a", "a//b", "../a", "a/../b", "a/.git/b", "a\0b", "./a"])
def test_no_path_leads_out_of_the_repository(path: str) -> None:
    with pytest.raises(PatchError):
        checked_path(path)
