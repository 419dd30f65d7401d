"""SEARCH/REPLACE blocks, as Agentless and Nemotron-Cascade 1 have them: read, applied exactly, and made from a repair.

### path/to/file.py
<<<<<<< SEARCH
lines as they are
=======
lines as they are to be
>>>>>>> REPLACE
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import SequenceMatcher

from cascade.environments.patches import Changes, Files, PatchError, apply_diff, checked_path, parse_diff

SEARCH, DIVIDER, REPLACE = "<<<<<<< SEARCH", "=======", ">>>>>>> REPLACE"
_PATH = re.compile(r"#{2,4}\s+(?:File:\s*)?`?([^`\s][^`]*?)`?\s*", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Block:
    """One edit: lines without their ends, among them the dividers that there are; the right one is not known yet."""

    path: str
    lines: tuple[str, ...]

    def sides(self) -> Iterator[tuple[list[str], list[str]]]:
        """Search and replacement at each of the dividers; a text may hold lines that look like one."""
        for place, line in enumerate(self.lines):
            if line.rstrip() == DIVIDER:
                yield list(self.lines[:place]), list(self.lines[place + 1 :])


def parse_blocks(text: str) -> tuple[Block, ...]:
    """The blocks of a text. A block without a path of its own is of the file of the one before.

    Raises `PatchError` for a block without its end, its divider or any path.
    """
    blocks: list[Block] = []
    path, block = "", None
    for line in text.split("\n"):
        bare = line.rstrip()
        if block is None:
            if bare == SEARCH:
                block = []
            elif found := _PATH.fullmatch(bare):
                path = found[1]
        elif bare == REPLACE:
            if not path:
                raise PatchError("a block has no path")
            blocks.append(Block(checked_path(path.removeprefix("./")), tuple(block)))
            if not any(True for _ in blocks[-1].sides()):
                raise PatchError(f"a block of {path} has no {DIVIDER}")
            block = None
        elif bare == SEARCH:
            raise PatchError("a block begins within another")
        else:
            block.append(line)
    if block is not None:
        raise PatchError("the last block has no end")
    return tuple(blocks)


def apply_blocks(blocks: tuple[Block, ...], read: Files) -> Changes:
    """The files that blocks change, in their order; what is searched for must be there exactly once, as whole lines.

    An empty search makes a new file, or fills an empty one. Lines end as they do in the file. Raises `PatchError`.
    """
    changes: Changes = {}
    if not blocks:
        raise PatchError("there is no block in it")
    for block in blocks:
        now = changes[block.path] if block.path in changes else read(block.path)
        changes[block.path] = _applied(block, now)
    return {path: text for path, text in changes.items() if text != read(path)}


def _applied(block: Block, now: bytes | None) -> bytes:
    text = (now or b"").decode("utf-8", "surrogateescape")
    end = "\r\n" if "\n" in text and text.count("\r\n") == text.count("\n") else "\n"
    lines = [line.removesuffix("\r") if end == "\r\n" else line for line in text.split("\n")]
    places: list[tuple[int, int, list[str]]] = []
    for search, replacement in block.sides():
        if end == "\r\n":
            search, replacement = [[line.removesuffix("\r") for line in side] for side in (search, replacement)]
        if not search:
            if text:
                continue
            places.append((0, 0, replacement))
        elif now is not None:
            found = _places(lines[:-1] if lines[-1] == "" else lines, search)
            if len(found) == 1:
                places.append((found[0], found[0] + len(search), replacement))
    if now is None and not places:
        raise PatchError(f"there is no file {block.path}")
    if not places:
        raise PatchError(f"what is searched for in {block.path} is not there exactly once")
    start, stop, replacement = places[-1]  # the longest search, where the text holds lines like dividers
    if now is None or not text:
        made = "".join(f"{line}\n" for line in replacement)
    else:
        made = end.join([*lines[:start], *replacement, *lines[stop:]])
    try:
        return made.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise PatchError("it holds halves of surrogate pairs") from None


def _places(lines: list[str], search: list[str]) -> list[int]:
    """Where whole lines are."""
    starts = range(len(lines) - len(search) + 1)
    return [at for at in starts if lines[at] == search[0] and lines[at : at + len(search)] == search]


def as_blocks(diff: str, read: Files) -> str:
    """A diff as blocks that do the same.

    Raises `PatchError` where the diff does not fit, or blocks cannot say it: a file deleted or moved, a change of no
    line's text.
    """
    wanted = apply_diff(diff, read)
    said = []
    for patch in parse_diff(diff):
        if patch.new is None or (patch.old is not None and patch.old != patch.new):
            raise PatchError(f"{patch.old} is deleted or moved")
        before, after = (read(patch.new) if patch.old else None), wanted.get(patch.new)
        if after is not None:
            said += _blocks(patch.new, before, after)
    text = "\n\n".join(said)
    if apply_blocks(parse_blocks(text), read) != wanted:
        raise PatchError("blocks cannot say it")
    return text


def _blocks(path: str, before: bytes | None, after: bytes) -> Iterator[str]:
    """Blocks from one text of a file to another, each with as many lines around it as make it the only place."""
    old, new = ((text or b"").decode("utf-8", "surrogateescape").replace("\r\n", "\n") for text in (before, after))
    if not old:
        yield _written(path, [], new.removesuffix("\n").split("\n"))
        return
    if old.endswith("\n") != new.endswith("\n"):
        raise PatchError(f"the end of {path} gets a newline, or loses it")
    old, new = (text.removesuffix("\n").split("\n") for text in (old, new))
    for tag, i1, i2, j1, j2 in SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        if tag != "equal":
            now = [*new[:j1], *old[i1:]]
            start, stop = _named(now, j1, j1 + i2 - i1, path)
            kept_before, kept_after = now[start:j1], now[j1 + i2 - i1 : stop]
            yield _written(path, now[start:stop], [*kept_before, *new[j1:j2], *kept_after])


def _named(lines: list[str], start: int, stop: int, path: str) -> tuple[int, int]:
    """The lines from `start` to `stop`, and as many around them as make them unique."""
    while stop == start or len(_places(lines, lines[start:stop])) != 1:
        if (start, stop) == (0, len(lines)):
            raise PatchError(f"a place of {path} cannot be named")
        start, stop = max(start - 1, 0), min(stop + 1, len(lines))
    return start, stop


def _written(path: str, search: list[str], replacement: list[str]) -> str:
    return "\n".join([f"### {path}", SEARCH, *search, DIVIDER, *replacement, REPLACE])
