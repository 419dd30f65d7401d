"""From a completion to a program: the last fenced block of the right language, or the text itself.

Nothing is parsed as Python here: a text of 100,000 brackets ends CPython's parser. Every pass is linear in the text.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

MAX_CHARACTERS = 8 * 2**20  # of an answer; a longer one is no answer
MAX_PROGRAM = 2**20  # characters of a program

LANGUAGES = {
    "python": "python", "python3": "python", "py": "python", "py3": "python", "python2": "other", "pycon": "other",
    "cpp": "cpp", "c++": "cpp", "cc": "cpp", "cxx": "cpp", "c++17": "cpp", "cpp17": "cpp", "c++14": "cpp",
    "c++20": "cpp", "g++": "cpp", "c": "other",
}  # fmt: skip
"""What people write behind a fence; any other word is another language, and none may be any."""

_FENCE = re.compile(r"[ \t]*(?P<mark>`{3,}|~{3,})(?P<info>[^\n]*)")
_CODE = re.compile(
    r"^[ \t]*(?:(?:import|from|def|class|async|for|while|if|try|with|return|yield|raise|assert|global|nonlocal|pass|"
    r"lambda|print|using|int|void|template)\b|#include|#!|@|\"\"\"|'''|[A-Za-z_][\w.]*[ ]?[(\[]|"
    r"[A-Za-z_(][\w.,\[\]() ]*=)",
    re.MULTILINE,
)
"""A line that may be code. A text without any is an answer in words."""

_FUTURE = re.compile(r"(?:[ \t]*(?:#[^\n]*)?\n)*from __future__ ")
_FILE = re.compile(r"[\w./-]+\.\w+")


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block, e.g. of "```python two_fer.py": `Block("python", "two_fer.py", "def two_fer(): ...")`."""

    language: str  # python, cpp, other, or "" where the fence names none
    heading: str  # the rest of the fence's line, and the line before the fence
    text: str
    closed: bool = True


def blocks_of(answer: str) -> list[Block]:
    """The fenced blocks of a text in order; the last may lack its end, as where a completion was cut."""
    blocks: list[Block] = []
    mark, info, before, indent = "", "", "", ""
    body: list[str] = []
    for line in answer.split("\n"):
        found = _FENCE.match(line)
        if not mark:
            if found and not (found["mark"][0] == "`" and "`" in found["info"]):
                mark, info, body = found["mark"], found["info"].strip(), []
                indent = line[: len(line) - len(line.lstrip(" \t"))]
            elif line.strip():
                before = line
        elif found and found["mark"].startswith(mark) and not found["info"].strip():
            blocks.append(_block(info, before, body, indent))
            mark, before = "", ""
        else:
            body.append(line)
    if mark:
        blocks.append(_block(info, before, body, indent, closed=False))
    return blocks


def code_in(answer: str, language: str | None, default: str = "python") -> tuple[str, str] | None:
    """The program's text and its language; None where the answer has no code.

    Args:
        language: the one that is asked for; None: that of the fence, or of the text, decides.
        default: of a text that does not say.
    """
    if len(answer) > MAX_CHARACTERS:
        return None
    found = _code(answer.replace("\r\n", "\n"), language)
    if found is None or not found[0].strip() or len(found[0]) > MAX_PROGRAM:
        return None
    return found[0], language or found[1] or ("cpp" if "#include" in found[0] else default)


def continued(text: str, prompt: str, entry_point: str) -> str:
    """The whole file of a text that answers a prompt which ends within a function.

    A text that defines the function itself follows the prompt's imports and helpers; any other is the function's body,
    whose first line may have lost its indentation.
    """
    defined = _definition(entry_point)
    if defined.search(prompt) and not defined.search(text):
        if not prompt.rstrip(" \t").endswith(("\n", '"', "'", ":")):
            return prompt + text  # it ends within a line
        return f"{prompt.rstrip()}\n{_as_body(text, _indent_of(prompt))}\n"
    preamble = preamble_of(prompt, entry_point)
    if not preamble or _FUTURE.match(text):
        return text
    return f"{preamble}\n\n\n{text}"


def preamble_of(prompt: str, entry_point: str) -> str:
    """What of a prompt stands before the function that it ends with: imports and helpers."""
    asked = [found.start() for found in _definition(entry_point).finditer(prompt)]
    lines = (prompt[: asked[-1]] if asked else prompt).rstrip().split("\n")
    while lines and lines[-1].startswith("@"):  # decorators of the function
        lines.pop()
    return "\n".join(lines).rstrip()


def files_in(answer: str, names: Sequence[str]) -> dict[str, str] | None:
    """The files that an answer gives, of those asked for; None where there is no code.

    With one file asked for, it is the last block, or the text itself. With several, a block says which file it is:
    behind its fence, in the line before it, or in a comment on its first line.
    """
    if len(answer) > MAX_CHARACTERS:
        return None
    if len(names) == 1:
        code = code_in(answer, "python")
        return {names[0]: code[0]} if code else None
    found: dict[str, str] = {}
    for block in blocks_of(answer.replace("\r\n", "\n")):
        name = _named(block, names)
        if name and len(block.text) <= MAX_PROGRAM:
            found[name] = block.text
    return found or None


def fenced(text: str, language: str = "python", name: str = "") -> str:
    """A text as a fenced block, whatever it holds."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    mark = "`" * max(3, longest + 1)
    return f"{mark}{language}{' ' + name if name else ''}\n{text.rstrip()}\n{mark}"


def as_answer(solution: str, language: str) -> str:
    """A solution of a row, which is a program or already an answer with one, as an answer."""
    begins = solution.lstrip().partition("\n")[0]
    return solution if "```" in solution and not _CODE.match(begins) else fenced(solution, language)


def _block(info: str, before: str, body: Sequence[str], indent: str, closed: bool = True) -> Block:
    word = info.partition(" ")[0].strip("{}.").lower()
    language = LANGUAGES.get(word.partition(":")[0].partition("{")[0], "other" if word else "")
    if language == "other" and _FILE.fullmatch(word):  # "```two_fer.py"
        language = LANGUAGES.get(word.rpartition(".")[2], "other")
    text = "\n".join(line[len(indent) :] if line.startswith(indent) else line.lstrip(" \t") for line in body)
    return Block(language, f"{info}\n{before}", text, closed)


def _code(answer: str, language: str | None) -> tuple[str, str] | None:
    """The last block of the language, else the last that names none, else the text where it has no block at all."""
    blocks = blocks_of(answer) if "```" in answer or "~~~" in answer else []
    if not blocks:
        return (answer, "") if _CODE.search(answer) else None
    if len(blocks) == 1 and not blocks[0].closed and not blocks[0].language:
        before = answer.partition(_mark_of(answer))[0]
        if _CODE.match(before.lstrip("\n")):  # the prompt had opened the block, and this fence ends it
            return before, ""
    for kinds in ([language] if language else ["python", "cpp"], [""]):
        for block in reversed(blocks):
            if block.language in kinds and block.text.strip():
                return block.text, block.language
    return None


def _mark_of(answer: str) -> str:
    return "```" if "```" in answer else "~~~"


def _named(block: Block, names: Sequence[str]) -> str | None:
    """Which of the files a block says it is."""
    first = block.text.lstrip().partition("\n")[0]
    places = [*block.heading.split("\n"), first if first.startswith(("#", "//")) else ""]
    for place in places:
        for word in _FILE.findall(place[:500]):
            for name in names:
                if word.removeprefix("./") in (name, name.rpartition("/")[2]):
                    return name
    return None


def _definition(entry_point: str) -> re.Pattern[str]:
    name = entry_point.partition("(")[0].partition(".")[0].strip()  # of `Solution().solve`, the class
    return re.compile(rf"^(?:async[ \t]+)?(?:def|class)[ \t]+{re.escape(name)}\b", re.MULTILINE)


def _indent_of(prompt: str) -> str:
    """The indentation of the last line of a prompt that has any, e.g. of its docstring."""
    for line in reversed(prompt.split("\n")):
        if line.strip() and line[0] in " \t":
            return line[: len(line) - len(line.lstrip())]
    return "    "


def _as_body(text: str, indent: str) -> str:
    """Text that is indented as a body is; the first line may have lost its indentation, or every line."""
    lines = text.strip("\n").split("\n")
    if lines[0][:1] in (" ", "\t") or not lines[0].strip():
        return "\n".join(lines)
    others = [line for line in lines[1:] if line.strip()]
    depths = [len(line) - len(line.lstrip()) for line in others]
    lost_one = not others or (
        min(depths) >= len(indent) and not (lines[0].rstrip().endswith(":") and depths[0] < 2 * len(indent))
    )
    rest = lines[1:] if lost_one else [indent + line if line.strip() else line for line in lines[1:]]
    return "\n".join([indent + lines[0], *rest])
