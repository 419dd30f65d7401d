"""Patches: applied exactly or not at all, reversed, and made from two trees.

Nothing is guessed: context must match to the byte, and a hunk whose lines are elsewhere than it says is applied only
where they occur once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from difflib import SequenceMatcher

from cascade.environments.unified_diff import FilePatch, Hunk, PatchError, checked_path, lines_of, parse_diff, rendered

__all__ = [
    "Changes",
    "Files",
    "PatchError",
    "apply_diff",
    "checked_path",
    "make_diff",
    "parse_diff",
    "reversed_diff",
    "touched",
]

Files = Callable[[str], bytes | None]
"""A file of a tree by its path; None where there is none."""

Changes = dict[str, bytes | None]
"""Path -> new content, or None for a file that is no more."""

CONTEXT = 3


def apply_diff(diff: str, read: Files) -> Changes:
    """The files that a diff changes, with their new contents. Raises `PatchError` where it does not fit exactly."""
    changes: Changes = {}

    def now(path: str) -> bytes | None:
        return changes[path] if path in changes else read(path)

    patches = parse_diff(diff)
    if not patches:
        raise PatchError("there is no diff in it")
    for patch in patches:
        text = b""
        if patch.old is not None:
            found = now(patch.old)
            if found is None:
                raise PatchError(f"there is no file {patch.old}")
            text = found
        if patch.new is not None and patch.new != patch.old and now(patch.new) is not None:
            raise PatchError(f"there is a file {patch.new} already")
        after = _applied(text, patch)
        if patch.old is not None and patch.old != patch.new and not patch.copies:
            changes[patch.old] = None
        if patch.new is not None:
            changes[patch.new] = after
        elif after:
            raise PatchError(f"{patch.old} is to be deleted, but some of it is left")
    return {path: text for path, text in changes.items() if text != read(path)}


def touched(diff: str) -> tuple[str, ...]:
    """The paths that a diff changes, makes or deletes, each once. Raises `PatchError`."""
    paths = [path for patch in parse_diff(diff) for path in (patch.old, patch.new) if path is not None]
    return tuple(dict.fromkeys(paths))


def reversed_diff(diff: str) -> str:
    """The diff that undoes a diff. Raises `PatchError`."""
    swap = {b"-": b"+", b"+": b"-", b" ": b" "}
    patches = []
    for patch in reversed(parse_diff(diff)):
        if patch.copies:
            raise PatchError("a copy cannot be reversed")
        hunks = tuple(
            Hunk(hunk.new_start, hunk.old_start, tuple((swap[mark], line) for mark, line in hunk.lines))
            for hunk in patch.hunks
        )
        patches.append(replace(patch, old=patch.new, new=patch.old, hunks=hunks))
    return "".join(map(rendered, patches))


def make_diff(before: Mapping[str, bytes | None], after: Mapping[str, bytes | None]) -> str:
    """The diff between two trees, or between the files of two trees that may differ; `""` for equal ones."""
    patches = []
    for path in sorted({*before, *after}):
        old, new = before.get(path), after.get(path)
        if old == new:
            continue
        hunks = tuple(_hunks(lines_of(old or b""), lines_of(new or b"")))
        patches.append(FilePatch(None if old is None else path, None if new is None else path, hunks))
    return "".join(map(rendered, patches))


def _applied(text: bytes, patch: FilePatch) -> bytes:
    lines, done, at = lines_of(text), [], 0
    for number, hunk in enumerate(patch.hunks, 1):
        old = hunk.side(b" -")
        start = _place(lines, old, at, hunk, f"hunk {number} of {patch.old or patch.new}")
        done += [*lines[at:start], *hunk.side(b" +")]
        at = start + len(old)
    done += lines[at:]
    if any(not line.endswith(b"\n") for line in done[:-1]):
        raise PatchError(f"a line without its newline is not the last of {patch.new or patch.old}")
    return b"".join(done)


def _place(lines: Sequence[bytes], old: Sequence[bytes], at: int, hunk: Hunk, name: str) -> int:
    """The index at which a hunk applies, not before `at`: where it says, else the only place that matches."""
    if not old:
        if lines:
            raise PatchError(f"{name} has no context")
        return 0
    said = hunk.old_start - 1
    if said >= at and list(lines[said : said + len(old)]) == old:
        return said
    starts = range(at, len(lines) - len(old) + 1)
    places = [i for i in starts if lines[i] == old[0] and list(lines[i : i + len(old)]) == old]
    if len(places) != 1:
        raise PatchError(f"{name} matches {'nowhere' if not places else f'{len(places)} places'}")
    return places[0]


def _hunks(old: Sequence[bytes], new: Sequence[bytes]) -> Iterator[Hunk]:
    for group in SequenceMatcher(None, old, new, autojunk=len(old) > 5000).get_grouped_opcodes(CONTEXT):
        lines: list[tuple[bytes, bytes]] = []
        for tag, i1, i2, j1, j2 in group:
            if tag == "equal":
                lines += [(b" ", line) for line in old[i1:i2]]
            else:
                lines += [(b"-", line) for line in old[i1:i2]]
                lines += [(b"+", line) for line in new[j1:j2]]
        yield Hunk(group[0][1] + 1, group[0][3] + 1, tuple(lines))
