"""A value that is valid under a schema, where one is easily made, and its text in any of the formats."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from html import escape
from typing import Any

MAX_DEPTH = 24  # of references that lead to themselves
_BY_FORMAT = {
    "date": "2024-05-10",
    "time": "12:00:00Z",
    "date-time": "2024-05-10T12:00:00Z",
    "email": "ann@example.org",
    "uri": "https://example.org/a",
    "uuid": "123e4567-e89b-12d3-a456-426614174000",
}


def example_value(schema: Any, root: Any = None, depth: int = 0) -> Any:
    """A value that looks valid; the caller finds out whether it is. Patterns are not looked at."""
    root = schema if root is None else root
    if not isinstance(schema, Mapping) or depth > MAX_DEPTH:
        return "text"
    if "const" in schema:
        return schema["const"]
    if isinstance(schema.get("enum"), list) and schema["enum"]:
        return schema["enum"][0]
    if isinstance(schema.get("$ref"), str):
        return example_value(_referred(schema["$ref"], root), root, depth + 1)
    merged = dict(schema)
    for branches in ("allOf", "anyOf", "oneOf"):
        for branch in (schema.get(branches) or [])[: None if branches == "allOf" else 1]:
            if isinstance(branch, Mapping):
                merged = {**example_base(branch, root), **merged}
    return _of_type(merged, root, depth)


def example_base(branch: Mapping[str, Any], root: Any) -> Mapping[str, Any]:
    """A branch of `anyOf` and its like, or what it refers to."""
    found = _referred(branch["$ref"], root) if isinstance(branch.get("$ref"), str) else branch
    return found if isinstance(found, Mapping) else {}


def _of_type(schema: Mapping[str, Any], root: Any, depth: int) -> Any:
    if "const" in schema or schema.get("enum"):
        return schema.get("const", (schema.get("enum") or [None])[0])
    kinds = schema.get("type", "object" if "properties" in schema else "array" if "items" in schema else "string")
    kind = next((each for each in kinds if each != "null"), "null") if isinstance(kinds, list) else kinds
    if kind == "object":
        return _object(schema, root, depth)
    if kind == "array":
        count = max(int(schema.get("minItems", 0)), 2 if schema.get("maxItems", 2) >= 2 else 1)
        items = [example_value(each, root, depth + 1) for each in schema.get("prefixItems") or []]
        return items + [example_value(schema.get("items", {}), root, depth + 1) for _ in range(count - len(items))]
    if kind in ("integer", "number"):
        return _number(schema, whole=kind == "integer")
    if kind == "string":
        text = _BY_FORMAT.get(schema.get("format", ""), "text")
        return text.ljust(int(schema.get("minLength", 0)), "x")[: schema.get("maxLength")]
    return {"boolean": True, "null": None}.get(kind, "text")


def _object(schema: Mapping[str, Any], root: Any, depth: int) -> dict[str, Any]:
    properties = schema.get("properties") or {}
    names: list[str] = list(dict.fromkeys([*properties, *(schema.get("required") or [])]))
    return {name: example_value(properties.get(name, {}), root, depth + 1) for name in names}


def _number(schema: Mapping[str, Any], whole: bool) -> int | float:
    step = schema.get("multipleOf", 1)
    low = schema.get("minimum", schema.get("exclusiveMinimum", 0))
    high = schema.get("maximum", schema.get("exclusiveMaximum"))
    number = low + step if "exclusiveMinimum" in schema else low
    if "multipleOf" in schema:
        number = -(-number // step) * step
    if high is not None and "multipleOf" not in schema and number >= high:
        number = high - (step if "exclusiveMaximum" in schema else 0)
        if number < low:
            number = (low + high) / 2
    return int(number) if whole else number


def _referred(reference: str, root: Any) -> Any:
    found = root
    for key in reference.removeprefix("#").split("/")[1:]:
        found = found.get(key.replace("~1", "/").replace("~0", "~")) if isinstance(found, Mapping) else None
    return found


def example_text(value: Any, kind: str) -> str:
    """A value as text in a format. What the format cannot say, such as a null in TOML, comes out as something else."""
    if kind == "xml":
        return "".join(_element(key, each) for key, each in value.items()) if isinstance(value, dict) else ""
    if kind == "toml":
        fields = value.items() if isinstance(value, dict) else []
        return "".join(f"{json.dumps(key)} = {_inline(each)}\n" for key, each in fields)
    if kind == "csv":
        return _table(value)
    return json.dumps(value, ensure_ascii=False)  # which is YAML too


def _element(name: str, value: Any) -> str:
    if isinstance(value, list):
        return f"<{name}>{''.join(_element('item', each) for each in value)}</{name}>"
    if isinstance(value, dict):
        return f"<{name}>{''.join(_element(key, each) for key, each in value.items())}</{name}>"
    text = "" if value is None else json.dumps(value) if isinstance(value, bool) else str(value)
    return f"<{name}>{escape(text, quote=False)}</{name}>"


def _inline(value: Any) -> str:
    """A value in one line of TOML."""
    if isinstance(value, dict):
        return f"{{{', '.join(f'{json.dumps(key)} = {_inline(each)}' for key, each in value.items())}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(_inline, value))}]"
    return json.dumps(value)


def _table(rows: Any) -> str:
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        return ""
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(
        {key: json.dumps(each) if isinstance(each, bool) else each for key, each in row.items()} for row in rows
    )
    return out.getvalue()
