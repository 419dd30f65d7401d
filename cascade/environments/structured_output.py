"""structured_output: values in JSON, YAML, XML, TOML or CSV, or as a tool's arguments, that keep to a schema.

Scored as NeMo-Gym's `structured_outputs` server does: what the values say is not judged, only their form.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cascade.environments.formats import KINDS, columns, read
from cascade.environments.reading_limits import UnreadableError
from cascade.environments.row_source import RowEnvironment
from cascade.environments.schema_coercion import coerced_csv, coerced_xml
from cascade.environments.schema_example import example_text, example_value
from cascade.environments.strict_schema import strict_schema, validator
from cascade.environments.tool_calls import call_text, calls_of
from cascade.errors import DataError, VerifierFailure
from cascade.types import Message, Row, Score

RESPONSE_MODES = ("text", "tool_call")


@dataclass(frozen=True, kw_only=True)
class StructuredOutput(RowEnvironment):
    """Rows with `schema_str`, and `schema_type` (json, yaml, xml, toml or csv), as NeMo-Gym has them.

    With `response_mode: tool_call` the answer is one call, of `tool_name` where the row has it, and the value its
    arguments, or what they have under `tool_payload_key`. A schema's `pattern` may hold a verifier up, so verdicts
    have a deadline.
    """

    name: str = "structured_output"
    domain: str = "structured_output"
    deadline_s: float = 2.0

    def fields(self, record: Mapping[str, Any]) -> dict[str, Any]:
        schema = record.get("schema_str", record.get("schema"))
        if schema is None:
            raise DataError("The row has no `schema_str`.", "Give a JSON schema.")
        data = {"schema_str": schema if isinstance(schema, str) else json.dumps(schema)}
        try:
            strict_schema(data["schema_str"])
        except VerifierFailure as failure:
            raise DataError(f"`schema_str`: {failure.detail}.", "Give a JSON schema.") from None
        for key, default, known in (("schema_type", "json", KINDS), ("response_mode", "text", RESPONSE_MODES)):
            data[key] = record.get(key) or default
            if data[key] not in known:
                raise DataError(f"`{key}` is {data[key]!r:.60}.", f"Give one of {', '.join(known)}.")
        for key in ("tool_name", "tool_payload_key"):
            if record.get(key) is not None:
                data[key] = str(record[key])
        return data

    def ask(self, row: Row) -> list[Message]:
        """For text that keeps to the schema, without saying about what."""
        if row.data["response_mode"] == "tool_call":
            return super().ask(row)
        kind = row.data["schema_type"].upper()
        task = f"Write {kind} that is valid under this JSON schema, with all of its properties and nothing around it."
        return [{"role": "user", "content": f"{task}\n\n{row.data['schema_str']}"}]

    def gold(self, row: Row) -> str:
        """A made-up value that is valid. Raises `DataError` where none was found: some schemas allow none."""
        data = row.data
        try:
            validator(data["schema_str"])  # first, for the reason it gives where the schema is broken
            value = example_value(strict_schema(data["schema_str"]))
            if data["response_mode"] == "tool_call":
                arguments = {data["tool_payload_key"]: value} if data.get("tool_payload_key") else value
                gold = call_text([{"name": self._tool(row), "arguments": arguments}])
            else:
                gold = example_text(value, data["schema_type"])
            if self.score(row, gold).reward == 1:
                return gold
        except VerifierFailure as failure:
            raise DataError(f"{row.id}: {failure.detail}.", "Correct the schema.") from None
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
            pass  # a schema of a shape that the maker of examples does not know
        raise DataError(f"{row.id}: no example of its schema was found in {data['schema_type']}.", "Leave the row out.")

    def score(self, row: Row, answer: str) -> Score:
        """1 for a valid value; `read`: the answer could be read at all. Raises `VerifierFailure` for a bad schema."""
        data = row.data
        if data["response_mode"] == "tool_call":
            parts = self._called(row, answer)
        else:
            parts = grade(answer, data["schema_str"], data["schema_type"])
        return Score(parts["valid"], parts)

    def _called(self, row: Row, answer: str) -> dict[str, float]:
        data, calls = row.data, calls_of(answer, row.data.get("tools"))
        is_valid = validator(data["schema_str"])
        if len(calls) != 1 or calls[0].problem or calls[0].name != data.get("tool_name", calls[0].name):
            return {"read": 0.0, "valid": 0.0}
        value: Any = calls[0].arguments
        if key := data.get("tool_payload_key"):
            if key not in value:
                return {"read": 0.0, "valid": 0.0}
            value = value[key]
        return {"read": 1.0, "valid": float(is_valid(value))}

    def _tool(self, row: Row) -> str:
        tools = row.data.get("tools") or [{"function": {"name": "answer"}}]
        return row.data.get("tool_name") or tools[0]["function"]["name"]


def grade(answer: str, schema_str: str, schema_type: str = "json") -> dict[str, float]:
    """`read`: the answer is text in the format; `valid`: it is valid under the strictified schema.

    Raises:
        VerifierFailure: of the row, where the schema is none.
    """
    is_valid = validator(schema_str)
    if not answer.strip():
        return {"read": 0.0, "valid": 0.0}
    try:
        value = read(answer, schema_type)
        if schema_type == "xml":
            value = coerced_xml(value, strict_schema(schema_str))
        elif schema_type == "csv":
            value = coerced_csv(value, columns(answer), strict_schema(schema_str))
    except UnreadableError:
        return {"read": 0.0, "valid": 0.0}
    return {"read": 1.0, "valid": float(is_valid(value))}
