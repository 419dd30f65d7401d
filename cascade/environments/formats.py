"""Reading text in JSON, YAML, XML, TOML or CSV as plain values, whatever the text was made for.

What a text means is as in NeMo-Gym's `structured_outputs` server: nothing is stripped, so a code fence or a word around
the text is an error. Refused besides, in all formats: a key given twice, NaN and infinities, and what is too long, too
deep or too large (`reading_limits`). In YAML, merge keys; in XML, entities and declarations in the document.
"""

from __future__ import annotations

import csv
import io
import json
import re
import tomllib
from collections.abc import Callable
from typing import Any, NoReturn
from xml.parsers import expat

from cascade.environments.reading_limits import (
    MAX_CHARACTERS,
    MAX_DEPTH,
    MAX_VALUES,
    UnreadableError,
    distinct,
    finite,
    refuse_large,
)
from cascade.environments.yaml_text import read_yaml


def read(text: str, kind: str) -> Any:
    """What a text says. `kind`: json, yaml, xml, toml or csv. Values of XML and CSV are texts, an empty tag is None.

    Raises:
        UnreadableError: it is not of that format, or more than can be read safely.
        KeyError: another kind.
    """
    parse = _PARSERS[kind]
    if len(text) > MAX_CHARACTERS:
        raise UnreadableError(f"it has more than {MAX_CHARACTERS} characters")
    try:
        value = parse(text)
    except UnreadableError:
        raise
    except (ValueError, RecursionError, expat.ExpatError, csv.Error) as error:
        raise UnreadableError(f"{type(error).__name__}: {str(error)[:200]}") from None
    if kind != "json" or text.count("{") + text.count("[") > MAX_DEPTH:
        refuse_large(value)
    return value


def _constant(text: str) -> NoReturn:
    raise UnreadableError(f"{text} is no value")


_JSON = json.JSONDecoder(object_pairs_hook=distinct, parse_float=finite, parse_constant=_constant)


def _json(text: str) -> Any:
    if text.startswith("\ufeff"):
        raise UnreadableError("it begins with a byte order mark")
    return _JSON.decode(text)


_DOTTED = r"""(?:\.[ \t]*+(?:[A-Za-z0-9_-]++|"(?:[^"\\\n]|\\.)*+"|'[^'\n]*+')[ \t]*+)"""  # the `.b` of `a.b = 1`
_MANY_DOTS = re.compile(f"{_DOTTED}{{{MAX_DEPTH}}}")


def _toml(text: str) -> Any:
    if _MANY_DOTS.search(text):  # `tomllib` takes memory in the square of the parts of a key
        raise UnreadableError("it is nested too deep")
    return tomllib.loads(text, parse_float=finite)


def _csv(text: str) -> list[dict[str, Any]]:
    """Rows by the names in the first line; None where a row ends early, as `csv.DictReader` has it."""
    reader = csv.reader(io.StringIO(text))
    names = next(reader, [])
    if len(set(names)) < len(names):
        raise UnreadableError("two columns have the same name")
    rows = []
    for cells in reader:
        if len(cells) > len(names):
            raise UnreadableError("a row has more cells than the first line")
        if len(rows) * len(names) > MAX_VALUES:
            raise UnreadableError(f"it holds more than {MAX_VALUES} values")
        if cells:
            rows.append(dict(zip(names, cells + [None] * (len(names) - len(cells)), strict=True)))
    return rows


def columns(text: str) -> list[str]:
    """The names in the first line of CSV that can be read."""
    return next(csv.reader(io.StringIO(text)), [])


class _Elements:
    """XML as xmltodict (MIT) turns it into values: `@name` attributes, `#text` beside them, lists where tags repeat."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self._open: list[tuple[dict[str, Any], list[str]]] = []  # what the elements around this one hold so far
        self._texts: list[str] = []

    def start(self, name: str, attributes: dict[str, str]) -> None:
        if len(self._open) > MAX_DEPTH:
            raise UnreadableError("it is nested too deep")
        self._open.append((self.values, self._texts))
        self.values = {f"@{key}": value for key, value in attributes.items()}
        self._texts = []

    def characters(self, text: str) -> None:
        self._texts.append(text)

    def end(self, name: str) -> None:
        text, within = "".join(self._texts).strip(), self.values
        self.values, self._texts = self._open.pop()
        if within and text:
            within["#text"] = text
        value = within or text or None
        if name not in self.values:
            self.values[name] = value
        elif isinstance(self.values[name], list):
            self.values[name].append(value)
        else:
            self.values[name] = [self.values[name], value]


def _xml(text: str) -> dict[str, Any]:
    elements, parser = _Elements(), expat.ParserCreate("utf-8")
    parser.buffer_text = True
    parser.StartElementHandler, parser.EndElementHandler = elements.start, elements.end
    parser.CharacterDataHandler = elements.characters
    parser.StartDoctypeDeclHandler = _doctype
    parser.EntityDeclHandler = _entity
    parser.Parse(text.encode(), True)
    return elements.values


def _doctype(_name: str, _system: str | None, _public: str | None, declares: int) -> None:
    if declares:  # entities, and defaults of attributes: a line of these adds as much as one likes to every tag
        raise UnreadableError("the document declares entities or attributes")


def _entity(*_: Any) -> NoReturn:
    raise UnreadableError("the document declares entities")


_PARSERS: dict[str, Callable[[str], Any]] = {"json": _json, "yaml": read_yaml, "xml": _xml, "toml": _toml, "csv": _csv}
KINDS = tuple(_PARSERS)
