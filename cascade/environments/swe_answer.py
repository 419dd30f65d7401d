"""From what a model wrote to the changes it means: SEARCH/REPLACE blocks or a unified diff."""

from __future__ import annotations

import re

from cascade.environments.patches import Changes, Files, PatchError, apply_diff
from cascade.environments.search_replace import SEARCH, apply_blocks, parse_blocks

OPEN, CLOSE = "<solution>", "</solution>"
MAX_CHARS = 1_000_000
_FENCE = re.compile(r"^(`{3,}|~{3,})[^\n`]*\n(.*?)^\1[`~]*[ \t]*$", re.MULTILINE | re.DOTALL)
_DIFF = re.compile(r"^(?:diff --git |--- [^\n]+\n\+\+\+ )", re.MULTILINE)


def changes_of(answer: str, read: Files) -> Changes:
    """The files that an answer changes, empty where it changes nothing. Raises `PatchError` where it does not fit.

    What counts is inside the last `<solution>` tags, or everything where there are none: all blocks, else the diff in
    fences, else the diff from its first line on. Text around them is talk.
    """
    if len(answer) > MAX_CHARS:
        raise PatchError(f"it has more than {MAX_CHARS} characters")
    text = solution_of(answer)
    if any(line.rstrip() == SEARCH for line in text.split("\n")):
        return apply_blocks(parse_blocks(text), read)
    fenced = [found[2] for found in _FENCE.finditer(text) if _DIFF.search(found[2])]
    diff = "".join(fenced) if fenced else text
    found = _DIFF.search(diff)
    if not found:
        raise PatchError("there is neither a block nor a diff in it")
    return apply_diff(diff[found.start() :], read)


def solution_of(answer: str) -> str:
    """What is inside the last pair of tags; without a closing one, what follows the last opening one."""
    if CLOSE in answer:
        before = answer.rpartition(CLOSE)[0]
        return before.rpartition(OPEN)[2]
    return answer.rpartition(OPEN)[2]
