"""A small repository with an issue, and agents that follow a script in it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from cascade.environments.patches import make_diff
from cascade.environments.tool_calls import call_text
from cascade.types import Message

FILES = {
    "counting/__init__.py": "from counting.words import count\n",
    "counting/words.py": (
        "def count(text):\n    return len(text.split(' '))\n\n\n"
        "def longest(text):\n    return max(text.split(), key=len)\n"
    ),
    "tests/__init__.py": "",
    "tests/test_words.py": (
        "from counting.words import count, longest\n\n\n"
        "def test_one():\n    assert count('a') == 1\n\n\n"
        "def test_longest():\n    assert longest('a bat') == 'bat'\n\n\n"
        "def test_spaces():\n    assert count('a  b') == 2\n"
    ),
    "setup.cfg": "[tool:pytest]\ntestpaths = tests\n",
    "README.md": "Counts words.\n",
}
BROKEN, REPAIRED = "text.split(' ')", "text.split()"
F2P = ["tests/test_words.py::test_spaces", "tests/test_more.py::test_tabs"]
P2P = ["tests/test_words.py::test_one", "tests/test_words.py::test_longest"]
HIDDEN = "from counting import count\n\n\ndef test_tabs():\n    assert count('a\\tb\\n') == 2\n"


def record(folder: Path, **changed: Any) -> dict[str, Any]:
    """A row, whose repository is written below `folder` unless it is there."""
    repository = folder / "repository"
    for path, text in FILES.items():
        (repository / path).parent.mkdir(parents=True, exist_ok=True)
        (repository / path).write_text(text)
    words = FILES["counting/words.py"]
    repair = {"counting/words.py": words.replace(BROKEN, REPAIRED).encode()}
    return {
        "instance_id": "counting-1",
        "repo": "ours/counting",
        "base_commit": "0" * 40,
        "problem_statement": "Words that stand two spaces apart are counted as three.",
        "patch": make_diff({"counting/words.py": words.encode()}, dict(repair)),
        "test_patch": make_diff({}, {"tests/test_more.py": HIDDEN.encode()}),
        "FAIL_TO_PASS": F2P,
        "PASS_TO_PASS": P2P,
        "repository": str(repository),
        **changed,
    }


def bash(command: str) -> dict[str, Any]:
    return {"name": "bash", "arguments": {"command": command}}


def edit(**arguments: Any) -> dict[str, Any]:
    return {"name": "edit", "arguments": arguments}


def view(path: str, *lines: int) -> dict[str, Any]:
    return {"name": "view", "arguments": {"path": path, **({"view_range": list(lines)} if lines else {})}}


SUBMIT = {"name": "submit", "arguments": {}}
REPAIR = bash("sed -i \"s/split(' ')/split()/\" counting/words.py")


def turns(*calls: dict[str, Any]) -> list[str]:
    """A turn a call."""
    return [call_text([call]) for call in calls]


def messages(*calls: dict[str, Any], observer: str = "tool") -> list[Message]:
    """The completion of an agent, as people have it in files: calls in the form of chat completions.

    `observer`: who says what a tool has shown; some agents' files have the user say it.
    """
    found: list[Message] = []
    for call in calls:
        function = {"name": call["name"], "arguments": json.dumps(call["arguments"])}
        found.append({"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": function}]})
        found.append({"role": observer, "content": "..."})
    return found[:-1]
