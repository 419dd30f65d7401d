"""What LiveCodeBench imports before every program, of which a program gets the names that it mentions."""

from __future__ import annotations

import functools
import importlib
import re

MODULES = (
    "string", "re", "datetime", "collections", "heapq", "bisect", "copy", "math", "random", "statistics", "itertools",
    "functools", "operator", "io", "sys", "json", "typing",
)  # fmt: skip


def given(source: str) -> str:
    """Imports of the names in a source that would have been there, e.g. `from collections import deque`.

    A later import, of the program's own, replaces them.
    """
    known = _names()
    mentioned = sorted(set(re.findall(r"[A-Za-z_]\w*", source)) & known.keys())
    return "".join(known[name] for name in mentioned)


@functools.cache
def _names() -> dict[str, str]:
    names: dict[str, str] = {}
    for name in MODULES:
        module = importlib.import_module(name)
        public = getattr(module, "__all__", None) or [each for each in vars(module) if not each.startswith("_")]
        names.update({each: f"from {name} import {each}\n" for each in public})
    builtin = vars(importlib.import_module("builtins"))
    names = {name: line for name, line in names.items() if name not in builtin}
    names.update({name: f"import {name}\n" for name in MODULES})
    return names
