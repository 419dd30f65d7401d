"""The text of unified diffs, in git's form: read strictly, and written.

Texts are bytes, so that every file survives; lines end at `\\n` alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

NO_NEWLINE = b"\\ No newline at end of file"
OTHER_HEADERS = (b"old mode ", b"new mode ", b"similarity index ", b"dissimilarity index ", b"index ")
_HUNK = re.compile(rb"@@ -(\d{1,9})(?:,(\d{1,9}))? \+(\d{1,9})(?:,(\d{1,9}))? @@.*")
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", '"': '"', "\\": "\\", "a": "\a", "b": "\b", "f": "\f", "v": "\v"}


class PatchError(ValueError):
    """A patch that means nothing, or does not fit its files; says why in a few words."""


@dataclass(frozen=True, slots=True)
class Hunk:
    """A place of a file: its lines there, each with ` `, `-` or `+` before it; starts count from 1."""

    old_start: int
    new_start: int
    lines: tuple[tuple[bytes, bytes], ...]  # mark and line, which ends in \n but for a last line without

    def side(self, marks: bytes) -> list[bytes]:
        """The lines before (` -`) or after (` +`)."""
        return [line for mark, line in self.lines if mark in marks]


@dataclass(frozen=True, slots=True)
class FilePatch:
    """What a diff does to one file; None for the side on which there is no file."""

    old: str | None
    new: str | None
    hunks: tuple[Hunk, ...] = ()
    copies: bool = False  # the old file stays


def parse_diff(diff: str) -> tuple[FilePatch, ...]:
    """The files of a diff in its order; none for an empty text. Raises `PatchError` for what cannot be read."""
    try:
        text = diff.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise PatchError("it holds halves of surrogate pairs") from None
    return tuple(_Reader(lines_of(text)).patches())


def rendered(patch: FilePatch) -> str:
    """What a diff says of one file."""
    old, new = patch.old or patch.new or "", patch.new or patch.old or ""
    said = [f"diff --git {_quoted('a/' + old)} {_quoted('b/' + new)}"]
    said += ["new file mode 100644"] * (patch.old is None) + ["deleted file mode 100644"] * (patch.new is None)
    if patch.old and patch.new and patch.old != patch.new:
        said += [f"rename from {_quoted(old)}", f"rename to {_quoted(new)}"]
    if patch.hunks:
        said.append(f"--- {_header('a/', patch.old)}")
        said.append(f"+++ {_header('b/', patch.new)}")
    text = "\n".join(said).encode("utf-8", "surrogateescape") + b"\n"
    for hunk in patch.hunks:
        counts = []
        for sign, start, lines in (("-", hunk.old_start, hunk.side(b" -")), ("+", hunk.new_start, hunk.side(b" +"))):
            counts.append(f"{sign}{start if lines else start - 1},{len(lines)}")
        text += f"@@ {' '.join(counts)} @@\n".encode()
        for mark, line in hunk.lines:
            text += mark + line if line.endswith(b"\n") else mark + line + b"\n" + NO_NEWLINE + b"\n"
    return text.decode("utf-8", "surrogateescape")


def lines_of(text: bytes) -> list[bytes]:
    """Lines with their newline; unlike `splitlines` they end at nothing else."""
    lines = text.split(b"\n")
    return [line + b"\n" for line in lines[:-1]] + ([lines[-1]] if lines[-1] else [])


def checked_path(path: str) -> str:
    """The path, if it names a file below the root of a repository. Raises `PatchError`."""
    parts = path.split("/")
    if not path or path.startswith("/") or "\0" in path or {"", ".", ".."} & set(parts) or ".git" in parts:
        raise PatchError(f"{path[:80]!r} is no path in the repository")
    return path


class _Reader:
    """Reads a diff from its first line to its last."""

    def __init__(self, lines: Sequence[bytes]) -> None:
        self._lines = lines
        self._at = 0

    def patches(self) -> Iterator[FilePatch]:
        while self._at < len(self._lines):
            line = self._lines[self._at]
            if line.startswith(b"diff --git "):
                yield self._git()
            elif line.startswith(b"--- ") and self._next(1).startswith(b"+++ "):
                yield self._plain()
            elif _HUNK.match(line):
                raise PatchError(f"the hunk at line {self._at + 1} belongs to no file")
            else:
                self._at += 1  # talk before and between files

    def _git(self) -> FilePatch:
        """A file with git's header, of which there may be nothing else: an empty file, a rename, a mode."""
        first = self._lines[self._at].rstrip(b"\r\n")[len(b"diff --git ") :]
        self._at += 1
        old = new = None
        made = deleted = copies = False
        while self._at < len(self._lines):
            line = self._lines[self._at].rstrip(b"\r\n")
            word, _, rest = line.partition(b" ")
            if line.startswith((b"rename from ", b"copy from ")):
                old, copies = _path(rest.partition(b" ")[2], ""), word == b"copy"
            elif line.startswith((b"rename to ", b"copy to ")):
                new = _path(rest.partition(b" ")[2], "")
            elif line.startswith(b"new file mode "):
                made = True
            elif line.startswith(b"deleted file mode "):
                deleted = True
            elif line.startswith((b"GIT binary patch", b"Binary files ")):
                raise PatchError("it changes a binary file")
            elif not line.startswith(OTHER_HEADERS):
                break
            self._at += 1
        if self._next(0).startswith(b"--- ") and self._next(1).startswith(b"+++ "):
            return self._plain(old, new, copies)
        if old is None or new is None:
            old, new = _both(first)
        return FilePatch(None if made else old, None if deleted else new, (), copies)

    def _plain(self, moved: str | None = None, to: str | None = None, copies: bool = False) -> FilePatch:
        """`---`, `+++` and hunks."""
        old = _path(self._next(0).rstrip(b"\r\n")[4:], "a/")
        new = _path(self._next(1).rstrip(b"\r\n")[4:], "b/")
        self._at += 2
        if old != new and old is not None and new is not None and (old, new) != (moved, to):
            raise PatchError(f"{old} and {new} are two files")
        if old is None and new is None:
            raise PatchError("both sides are /dev/null")
        hunks = []
        while found := _HUNK.fullmatch(self._next(0).rstrip(b"\r\n")):
            self._at += 1
            hunks.append(self._hunk(found))
        if not hunks:
            raise PatchError(f"there is no hunk for {new or old}")
        if self._next(0)[:1] in (b"+", b"-", b" ") and not re.match(rb"-- ?\r?$|--- ", self._next(0)):
            raise PatchError(f"a hunk goes on after its header says, at line {self._at + 1}")
        return FilePatch(old, new, tuple(hunks), copies)

    def _hunk(self, header: re.Match[bytes]) -> Hunk:
        old_start, old_left, new_start, new_left = (int(1 if n is None else n) for n in header.groups())
        lines: list[tuple[bytes, bytes]] = []
        while old_left or new_left:
            line = self._next(0)
            mark, text = (line[:1], line[1:]) if line not in (b"\n", b"\r\n") else (b" ", line)
            if mark not in (b" ", b"-", b"+") or not line:
                raise PatchError(f"a hunk ends before its header says, at line {self._at + 1}")
            self._at += 1
            old_left -= mark != b"+"
            new_left -= mark != b"-"
            if old_left < 0 or new_left < 0:
                raise PatchError(f"a hunk has other lines than its header says, at line {self._at}")
            if self._next(0).startswith(b"\\ "):
                self._at += 1
                text = text.removesuffix(b"\n")
            elif not text.endswith(b"\n"):
                text += b"\n"  # the diff itself ends without one
            lines.append((mark, text))
        empty = (not any(mark != other for mark, _ in lines) for other in (b"+", b"-"))
        return Hunk(old_start + next(empty), new_start + next(empty), tuple(lines))

    def _next(self, ahead: int) -> bytes:
        return self._lines[self._at + ahead] if self._at + ahead < len(self._lines) else b""


def _path(written: bytes, prefix: Literal["", "a/", "b/"]) -> str | None:
    """A path as a header has it; None for /dev/null."""
    name = written.decode("utf-8", "surrogateescape")
    name = _unquoted(name) if name.startswith('"') else name.split("\t")[0]
    if name == "/dev/null" and prefix:
        return None
    return checked_path(name.removeprefix(prefix))


def _both(written: bytes) -> tuple[str, str]:
    """The path of `a/PATH b/PATH`: of a file that keeps its name, since others have lines of their own."""
    name = written.decode("utf-8", "surrogateescape")
    if name.startswith('"'):
        name = " ".join(_unquoted(part) for part in re.findall(r'"(?:[^"\\]|\\.)*"|\S+', name))
    half = len(name) // 2
    if len(name) % 2 and name[:half].startswith("a/") and name[half] == " " and name[half + 1 :] == f"b/{name[2:half]}":
        return checked_path(name[2:half]), checked_path(name[2:half])
    raise PatchError(f"{name[:80]!r} does not name one file")


def _unquoted(name: str) -> str:
    """A path in C's quotes, with bytes in octal."""
    found = re.match(r'"((?:[^"\\]|\\.)*)"', name)
    if not found:
        raise PatchError(f"{name[:80]!r} is no path")

    def one(escape: re.Match[str]) -> str:
        code = escape[1]
        return chr(int(code, 8) & 255) if code[0].isdigit() else _ESCAPES.get(code, code)

    raw = re.sub(r"\\([0-7]{3}|.)", one, found[1].encode("utf-8", "surrogateescape").decode("latin-1"))
    return raw.encode("latin-1", "replace").decode("utf-8", "surrogateescape")


def _quoted(name: str) -> str:
    """A path as a header has it, quoted where it holds quotes, backslashes or control characters."""
    if not re.search(r'["\\\x00-\x1f\x7f]', name):
        return name
    codes = {ord(char): f"\\{letter}" for letter, char in _ESCAPES.items()}
    raw = name.encode("utf-8", "surrogateescape")
    return '"' + "".join(codes.get(b) or (f"\\{b:03o}" if b < 32 or b > 126 else chr(b)) for b in raw) + '"'


def _header(prefix: str, path: str | None) -> str:
    if path is None:
        return "/dev/null"
    quoted = _quoted(prefix + path)
    return f"{quoted}\t" if " " in quoted and not quoted.startswith('"') else quoted
