"""Schemas made strict, and that the fast validator says what the exact one says."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from cascade.environments.strict_schema import is_plain, strict_schema, strictify, validator
from cascade.errors import FailureKind, VerifierFailure


def test_every_property_is_required_and_no_other_allowed_at_every_depth() -> None:
    schema = {
        "type": "object",
        "required": {"item": ["a"]},
        "additionalProperties": "false",
        "properties": {"a": {"type": "array", "items": {"properties": {"b": {}}, "required": []}}, "c": {}},
        "$defs": {"d": {"properties": {"e": {}}}},
    }
    strict = strictify(schema)
    assert (strict["required"], strict["additionalProperties"]) == (["a", "c"], False)
    assert strict["properties"]["a"]["items"] == {
        "properties": {"b": {}},
        "required": ["b"],
        "additionalProperties": False,
    }
    assert strict["$defs"]["d"]["required"] == ["e"]
    assert schema["required"] == {"item": ["a"]}  # the row's own is left alone


def test_schemas_in_lists_stay_as_they_are() -> None:
    branch = {"type": "object", "properties": {"a": {}}}
    assert strictify({"anyOf": [branch]}) == {"anyOf": [branch]}


def test_a_property_may_be_called_properties() -> None:
    is_valid = validator('{"type": "object", "properties": {"properties": {"type": "string"}}}')
    assert is_valid({"properties": "x"})
    assert not is_valid({"properties": 1})


@pytest.mark.parametrize(
    "schema",
    [
        "{", "[]", "3", "null", '{"type": "text"}', '{"properties": 3}', '{"pattern": "("}', '{"pattern": "\\\\p{L}"}',
        '{"required": "a"}', '{"additionalProperties": "false"}', '{"multipleOf": 0}', '{"minLength": -1}',
        "[" * 100_000, '{"items": {"not": 3}}', '{"type": []}', '{"anyOf": []}', '{"enum": 3}', '{"$ref": "http://127.0.0.1:9/x"}',
        '{"$ref": "#/$defs/none"}',
    ],
)  # fmt: skip
def test_a_broken_schema_is_a_failure_of_the_row(schema: str) -> None:
    with pytest.raises(VerifierFailure) as failure:
        validator(schema)({})
    assert failure.value.kind is FailureKind.DATA


def test_a_reference_within_the_schema_is_followed() -> None:
    tree = {"type": "object", "properties": {"next": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}}}
    is_valid = validator(json.dumps(tree))
    value: Any = {"next": None}
    for _ in range(50):
        value = {"next": value}
    assert is_valid(value)
    assert not is_valid({"next": 3})
    assert not is_valid({"next": None, "more": 1})


def test_the_dialect_that_a_schema_names_is_not_looked_at() -> None:
    schema = {"$schema": "http://json-schema.org/draft-04/schema#", "exclusiveMinimum": 3}
    assert validator(json.dumps(schema))(4)
    assert not validator(json.dumps(schema))(3)
    assert "$schema" not in strict_schema(json.dumps(schema))


def test_formats_and_nullable_are_not_checked() -> None:
    is_valid = validator('{"properties": {"a": {"type": "string", "format": "date", "nullable": true}}}')
    assert is_valid({"a": "no date"})
    assert not is_valid({"a": None})


@pytest.mark.parametrize("value", [{1: "a"}, {"a": {1, 2}}, {"a": b"x"}, {None: 1}, {"a": "\ud800"}, {"a": 10**400}])
def test_values_that_json_has_none_of_are_judged_all_the_same(value: Any) -> None:
    assert validator("true")(value)
    assert not validator('{"properties": {"a": {"type": "boolean"}}}')(value)


def test_rules_that_cannot_be_applied_to_a_value_are_not_kept() -> None:
    assert not validator('{"multipleOf": 0.5}')(10**400)


SCALARS: list[Any] = [
    "",
    "a",
    "ab",
    "é",
    "text",
    0,
    1,
    -1,
    2,
    3,
    1.0,
    2.5,
    -0.0,
    1e300,
    10**20,
    2**63,
    2**53 + 1,
    True,
    False,
    None,
]
TYPES = ["string", "integer", "number", "boolean", "null", "object", "array"]


def _schema(rng: random.Random, depth: int = 0) -> Any:
    kind = rng.choice(["type", "types", "object", "array", "enum", "const", "bounds", "counts", "any", "bool", "not"])
    if depth > 3 or kind == "type":
        return {"type": rng.choice(TYPES)}
    if kind == "types":
        return {"type": rng.sample(TYPES, 2)}
    if kind == "object":
        extra = {"additionalProperties": _schema(rng, 4)} if rng.random() < 0.2 else {}
        return {
            "type": "object",
            "properties": {name: _schema(rng, depth + 1) for name in rng.sample("abc", 2)},
            **extra,
        }
    if kind == "array":
        return {"type": "array", "items": _schema(rng, depth + 1), "minItems": rng.randrange(2)}
    if kind in ("enum", "const"):
        known = [value for value in SCALARS if not isinstance(value, float) and value not in (10**20, 2**63, 2**53 + 1)]
        return {"enum": rng.sample(known, 3)} if kind == "enum" else {"const": rng.choice(known)}
    if kind == "bounds":
        return {rng.choice(["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"]): rng.randint(-1, 2)}
    if kind == "counts":
        return {rng.choice(["minLength", "maxLength", "minItems", "maxItems", "minProperties"]): rng.randint(0, 2)}
    if kind == "any":
        return {rng.choice(["anyOf", "oneOf", "allOf"]): [_schema(rng, depth + 1) for _ in range(2)]}
    return rng.random() < 0.7 if kind == "bool" else {"not": _schema(rng, depth + 1)}


def _value(rng: random.Random, schema: Any, depth: int = 0) -> Any:
    """A value that often fits."""
    if depth < 4 and isinstance(schema, dict) and rng.random() < 0.9:
        if "properties" in schema:
            found = {key: _value(rng, each, depth + 1) for key, each in schema["properties"].items()}
            return found if rng.random() < 0.8 else {**found, rng.choice("abcd"): rng.choice(SCALARS)}
        if "items" in schema:
            return [_value(rng, schema["items"], depth + 1) for _ in range(rng.randrange(3))]
        if "enum" in schema:
            return rng.choice(schema["enum"])
        for key in ("anyOf", "oneOf", "allOf"):
            if key in schema:
                return _value(rng, rng.choice(schema[key]), depth + 1)
    return rng.choice([*SCALARS, [], {}, [1, "a"], {"a": 1}])


def test_the_fast_validator_agrees_with_jsonschema_on_random_plain_schemas() -> None:
    rng = random.Random(0)
    said = {True: 0, False: 0}
    for _ in range(1500):
        schema_str = json.dumps(_schema(rng))
        strict = strict_schema(schema_str)
        assert is_plain(strict), schema_str
        exact, fast = Draft202012Validator(strict), validator(schema_str)
        for _ in range(4):
            value = _value(rng, strict)
            assert fast(value) == exact.is_valid(value), (schema_str, value)
            said[fast(value)] += 1
    assert min(said.values()) > 1000


@pytest.mark.parametrize(
    "schema",
    ['{"pattern": "a"}', '{"multipleOf": 2}', '{"$ref": "#"}', '{"enum": [1.5]}', '{"const": [1]}',
     '{"uniqueItems": true}', '{"items": {"patternProperties": {}}}', '{"minimum": 0.1}', '{"maximum": 1e300}',
     '{"$schema": "x"}',
     '{"if": true}'],
)  # fmt: skip
def test_what_the_two_validators_do_not_decide_alike_is_left_to_the_exact_one(schema: str) -> None:
    assert not is_plain(json.loads(schema))
