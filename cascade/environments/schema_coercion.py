"""The texts of XML and CSV as the types that a schema gives them, as NeMo-Gym's `structured_outputs` server does it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cascade.environments.reading_limits import UnreadableError, finite

_TRUTHS = {"true": True, "1": True, "false": False, "0": False}


def coerced_xml(value: Any, schema: Any) -> Any:
    """A value of XML in the types of its schema; what does not fit stays text, for the validation to refuse.

    Repeated elements within an array's own element are that array: `<tags><tag>a</tag><tag>b</tag></tags>`. An empty
    element is the empty text where text is asked for. Raises `UnreadableError` for NaN and infinities.
    """
    kind = schema.get("type") if isinstance(schema, Mapping) else None
    if kind == "object" and isinstance(value, dict):
        properties = schema.get("properties", {})
        return {key: coerced_xml(each, properties[key]) if key in properties else each for key, each in value.items()}
    if kind == "array":
        if isinstance(value, dict) and len(value) == 1:
            value = next(iter(value.values()))
        if not isinstance(value, list):
            value = [] if value is None else [value]
        return [coerced_xml(each, schema.get("items", {})) for each in value]
    if value is None and kind == "string":
        return ""
    return _scalar(value, kind) if isinstance(value, str) else value


def coerced_csv(rows: list[dict[str, Any]], columns: Sequence[str], schema: Any) -> list[dict[str, Any]]:
    """The cells of a table in the types of the schema of its rows. An empty cell is null where null is allowed.

    Raises `UnreadableError` where the schema is not one of rows, for NaN and infinities, and for a table without rows
    whose columns are not the schema's: NeMo-Gym takes any line of prose for the head of a valid, empty table.
    """
    of_row = schema.get("items", schema) if isinstance(schema, Mapping) else None
    properties = of_row.get("properties", {}) if isinstance(of_row, Mapping) else None
    if not isinstance(properties, Mapping) or not all(isinstance(each, Mapping) for each in properties.values()):
        raise UnreadableError("the schema is not one of rows")
    if not rows and set(columns) != set(properties):
        raise UnreadableError("the first line does not name the columns")
    kinds = {key: each.get("type", "string") for key, each in properties.items()}
    return [{key: _cell(cell, kinds.get(key, "string")) for key, cell in row.items()} for row in rows]


def _cell(cell: str | None, kind: Any) -> Any:
    if not isinstance(kind, list):
        return _scalar(cell, kind) if cell else cell
    if not cell and "null" in kind:
        return None
    for each in kind:
        if each != "null":
            value = _cell(cell, each)
            if not isinstance(value, str) or each == "string":
                return value
    return cell


def _scalar(text: str, kind: Any) -> Any:
    """`"3"` -> 3 where a whole number is asked for; the text itself where it is no such value."""
    try:
        if kind == "integer":
            return int(text)
        if kind == "number":
            return finite(text)
    except UnreadableError:
        raise
    except ValueError:
        return text
    return _TRUTHS.get(text.lower(), text) if kind == "boolean" else text
