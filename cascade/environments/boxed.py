r"""What stands in `\boxed{...}`, whatever braces are within."""

from __future__ import annotations

import re

OPENING = r"\boxed"
UNWRAPPED = 8  # boxes around a box that are looked through: each costs a pass over the text
_TOKEN = re.compile(r"(\\boxed\s*\{)|\\\\(?!boxed)|\\[{}]|([{}])")  # `\{` and `\}` are characters, not braces


def boxed(text: str) -> list[str]:
    r"""What every box holds, in the order the boxes begin, e.g. `["\frac{1}{2}", "B"]`. Linear in the text.

    A box that is never closed is none; a box within a box is a part of the outer one.
    """
    begin = text.find(OPENING)
    if begin < 0:
        return []
    opened: list[tuple[int, int] | None] = []  # where an open box and its content begin; None for any other brace
    boxes: list[tuple[int, int, int]] = []  # where a box begins, where its content begins and ends
    for token in _TOKEN.finditer(text, begin):
        kind = token.lastindex
        if kind == 1:
            opened.append(token.span())
        elif kind == 2 and token[2] == "{":
            opened.append(None)
        elif kind == 2 and opened and (opening := opened.pop()):
            start, inner = opening
            while boxes and boxes[-1][0] > start:
                boxes.pop()
            boxes.append((start, inner, token.start()))
    return [text[inner:end] for _, inner, end in boxes]


def last_boxed(text: str) -> str | None:
    r"""What the last box holds, without space around it; None without a box, `""` for an empty one.

    A box that holds nothing but a box is read as the inner one: `\boxed{\boxed{5}}` is `5`.
    """
    found = boxed(text)
    if not found:
        return None
    content = found[-1].strip()
    for _ in range(UNWRAPPED):
        within = boxed(content) if content.startswith(OPENING) and content.endswith("}") else []
        if len(within) != 1 or content.removeprefix(OPENING).lstrip() != f"{{{within[0]}}}":
            break
        content = within[0].strip()
    return content
