"""Where each key of a recipe was written, so that an error can name the file and line, or the override."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml


@dataclass(frozen=True)
class Origins:
    """The places a recipe was composed from; of two, the later one wins."""

    overrides: Sequence[str]  # as they were typed
    files: Sequence[tuple[Path, str]]  # (file, package it is mounted at)

    def of(self, path: Sequence[str]) -> str:
        """`recipes/quickstart.yaml:12`, or the override, that holds the key or its nearest parent that is written."""
        for length in range(len(path), 0, -1):
            override, line = self._exactly(path[:length]), self._line(path[:length])
            beneath = self.override_beneath(path[:length])
            found = override or (beneath if length == len(path) else None) or line or beneath
            if found:
                return found
        return str(self.files[-1][0]) if self.files else "the recipe"

    def override_beneath(self, path: Sequence[str]) -> str | None:
        """The last override of a key below `path`, e.g. of `stages.sft.seed` for `stages.sft`."""
        start = ".".join(path) + "."
        return next((_said(word) for word in reversed(self.overrides) if _key(word).startswith(start)), None)

    def in_a_file(self, path: Sequence[str]) -> bool:
        """Whether a file holds the key; if not, overrides alone have made it."""
        return self._line(path) is not None

    def merged(self) -> dict[str, Any]:
        """The files as one mapping, as far as they fit together."""
        mapping: dict[str, Any] = {}
        for file, package in self.files:
            merge(mapping, _mounted(file, package))
        return mapping

    def clash(self) -> tuple[list[str], str] | None:
        """The first key that is a list in one file and a mapping in another, and where the later one stands."""
        mapping: dict[str, Any] = {}
        for file, package in self.files:
            path = merge(mapping, _mounted(file, package))
            if path:
                return path, f"{file}:{_line_of(file, package, path)}"
        return None

    def _exactly(self, path: Sequence[str]) -> str | None:
        dotted = ".".join(path)
        return next((_said(word) for word in reversed(self.overrides) if _key(word) == dotted), None)

    def _line(self, path: Sequence[str]) -> str | None:
        for file, package in reversed(self.files):
            line = _line_of(file, package, path)
            if line:
                return f"{file}:{line}"
        return None


def merge(mapping: dict[str, Any], new: Mapping[str, Any]) -> list[str] | None:
    """Merges `new` into `mapping`; the path at which one of them has a list and the other a mapping, if any."""
    for key, value in new.items():
        old = mapping.get(key)
        if {type(old), type(value)} == {dict, list}:
            return [key]
        if isinstance(old, dict) and isinstance(value, dict):
            beneath = merge(old, value)
            if beneath:
                return [key, *beneath]
        else:
            mapping[key] = value
    return None


def _key(override: str) -> str:
    """The dotted key an override sets: `stages.extra` for `+stage@stages.extra=rl`."""
    return override.lstrip("+~").split("=")[0].split("@")[-1]


def _said(override: str) -> str:
    return f"the override `{override}`"


def _mounted(file: Path, package: str) -> dict[str, Any]:
    content = _names_as_text(yaml.safe_load(file.read_text(encoding="utf-8")))
    content.pop("defaults", None)
    for part in reversed(_parts(package)):
        content = {part: content}
    return content


def _names_as_text(node: Any) -> Any:
    return {str(key): _names_as_text(value) for key, value in node.items()} if isinstance(node, dict) else node


def _parts(package: str) -> list[str]:
    return [part for part in package.split(".") if part and part != "_global_"]


@functools.lru_cache(maxsize=64)
def _parsed(text: str) -> yaml.Node | None:
    return yaml.compose(text, Loader=yaml.SafeLoader)


def _line_of(file: Path, package: str, path: Sequence[str]) -> int | None:
    """The line of `file`, mounted at `package`, on which the key `path` stands; None when it does not."""
    prefix = _parts(package)
    if list(path[: len(prefix)]) != prefix or len(path) == len(prefix):
        return None
    node = _parsed(file.read_text(encoding="utf-8"))
    line = None
    for part in path[len(prefix) :]:
        if isinstance(node, yaml.SequenceNode) and part.isdecimal() and int(part) < len(node.value):
            node = node.value[int(part)]
            line = node.start_mark.line + 1
            continue
        found = [(k, v) for k, v in node.value if k.value == part] if isinstance(node, yaml.MappingNode) else []
        if not found:
            return None
        line, node = found[-1][0].start_mark.line + 1, found[-1][1]
    return line
