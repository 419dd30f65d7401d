"""What an agentless repair is asked: the issue, the files it may be about, and the form of an answer."""

from __future__ import annotations

from collections.abc import Mapping

from cascade.environments.patches import PatchError, parse_diff
from cascade.environments.swe_retrieval import Index, pieces_of, words_of
from cascade.environments.swe_rows import SweTask

ASKED = """\
Resolve an issue of a code repository. These are the issue and the files that it may be about.

<issue>
{issue}
</issue>

{files}

Find out what is wrong, and change the code so that the issue is resolved and everything else works as before. Do not \
change tests.

Give your changes inside <solution> tags, as SEARCH/REPLACE blocks. Each names its file, the lines as they are, and \
the lines as they are to be:

<solution>
### path/to/file.py
<<<<<<< SEARCH
    return first - second
=======
    return first + second
>>>>>>> REPLACE
</solution>

The lines under SEARCH must be in the file exactly as you write them, with all their spaces, and in one place only: \
give as many lines around a change as that takes. Several changes are several blocks. A block with nothing under \
SEARCH makes a new file. A unified diff inside the tags is understood as well."""
LEFT_OUT = "[lines {first} to {last} are left out]"


def question(task: SweTask, files: Mapping[str, str], max_chars: int, max_file_chars: int) -> str:
    """The prompt with files in their order, none longer than `max_file_chars`, and at most `max_chars` of them."""
    shown, left = [], max_chars
    for path, text in files.items():
        part = excerpt(task, path, text, min(max_file_chars, left))
        if part:
            shown.append(f'<file path="{path}">\n{part.rstrip()}\n</file>')
            left -= len(part)
    return ASKED.format(issue=task.problem_statement.strip(), files="\n\n".join(shown))


def excerpt(task: SweTask, path: str, text: str, max_chars: int) -> str:
    """A file, or those of its functions that fit and answer best to the issue; `""` where none fits."""
    if len(text) <= max_chars:
        return text
    pieces, lines = pieces_of(path, text), text.split("\n")
    index = Index(pieces)
    changed = _changed_lines(task, path)
    ranked = sorted(
        index.scores(words_of(task.problem_statement)),
        key=lambda item: (not any(item[0].start <= line < item[0].stop for line in changed), -item[1]),
    )
    kept, left = [], max_chars
    for piece, _ in ranked:
        size = sum(len(line) + 1 for line in lines[piece.start : piece.stop]) + len(LEFT_OUT)
        if size <= left:
            kept.append(piece)
            left -= size
    shown, at = [], 0
    for piece in sorted(kept, key=lambda piece: piece.start):
        shown += _gap(at, piece.start) + lines[piece.start : piece.stop]
        at = piece.stop
    return "\n".join([*shown, *_gap(at, len(lines))]) if kept else ""


def _gap(start: int, stop: int) -> list[str]:
    return [LEFT_OUT.format(first=start + 1, last=stop)] if stop > start else []


def _changed_lines(task: SweTask, path: str) -> list[int]:
    """Where the oracle changes a file: an excerpt that leaves it out asks for the impossible."""
    try:
        patches = parse_diff(task.patch)
    except PatchError:
        return []
    lines = []
    for hunk in (hunk for patch in patches if patch.old == path for hunk in patch.hunks):
        at = hunk.old_start - 1
        for mark, _ in hunk.lines:
            if mark != b" ":
                lines.append(at)
            at += mark != b"+"
    return lines
