"""JSON schemas made strict, and whether a value is valid under one.

As in NeMo-Gym's `structured_outputs` server: every object with `properties` must have all of them and no others, JSON
Schema 2020-12 decides, and `format` and `nullable` are not checked.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping
from typing import Any

from cascade.errors import FailureKind, VerifierFailure

LARGEST = 2**53  # whole numbers below it are the same in every implementation
_ANNOTATIONS = {"title", "description", "default", "examples", "example", "nullable", "$comment", "format"}
_COUNTS = {"minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties"}
_BOUNDS = {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"}
_TYPES = {"string", "integer", "number", "boolean", "object", "array", "null"}


def strictify(schema: Any) -> Any:
    """The schema with every property required and no others allowed, wherever it lists `properties`.

    Schemas in lists, such as the branches of `anyOf`, stay as they are, as in NeMo-Gym.
    """
    if not isinstance(schema, dict):
        return schema
    strict = {
        key: _strictified_mapping(value) if key == "properties" else strictify(value) for key, value in schema.items()
    }
    if "properties" in schema:
        strict |= {"required": list(schema["properties"]), "additionalProperties": False}
    return strict


def _strictified_mapping(schemas: Any) -> Any:
    return {key: strictify(value) for key, value in schemas.items()} if isinstance(schemas, dict) else schemas


@functools.lru_cache(maxsize=1024)
def strict_schema(schema_str: str) -> Any:
    """A schema's text, strictified. Raises `VerifierFailure`, of the row, where it is no JSON object or boolean."""
    try:
        schema = json.loads(schema_str)
        if isinstance(schema, dict):  # 2020-12 decides whatever dialect it names
            return strictify({key: value for key, value in schema.items() if key != "$schema"})
        if isinstance(schema, bool):
            return schema
    except (ValueError, RecursionError, TypeError) as error:
        raise VerifierFailure(FailureKind.DATA, f"the schema cannot be read: {error}"[:300]) from None
    raise VerifierFailure(FailureKind.DATA, "the schema is neither an object nor a boolean")


@functools.lru_cache(maxsize=1024)
def validator(schema_str: str) -> Callable[[Any], bool]:
    """What says whether a value is valid under the strictified schema. It never raises for a value.

    Raises:
        VerifierFailure: of the row, where the schema is none.
    """
    schema = strict_schema(schema_str)
    exact = functools.cache(lambda: _exact_validator(schema))
    if not is_plain(schema):
        return _never_raising(exact(), FailureKind.DATA)
    import jsonschema_rs

    try:
        fast = jsonschema_rs.Draft202012Validator(schema)
    except ValueError:  # jsonschema says what is wrong with it
        return _never_raising(exact(), FailureKind.DATA)

    def is_valid(value: Any) -> bool:
        try:
            return fast.is_valid(value)
        except (ValueError, TypeError, RecursionError):  # dates, sets, keys that are numbers: values JSON has none of
            return _never_raising(exact(), FailureKind.DATA)(value)

    return is_valid


def _exact_validator(schema: Any) -> Any:
    """The validator that NeMo-Gym's is made from, two hundred times as slow as jsonschema-rs."""
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import SchemaError
    from jsonschema_specifications import REGISTRY

    try:
        Draft202012Validator.check_schema(schema)
    except SchemaError as error:
        raise VerifierFailure(
            FailureKind.DATA, f"the schema is none: {error.message[:200]} at {error.json_path}"
        ) from None
    except RecursionError:
        raise VerifierFailure(FailureKind.DATA, "the schema is nested too deep") from None
    return Draft202012Validator(schema, registry=REGISTRY)  # with a registry nothing is fetched from anywhere


def _never_raising(checker: Any, unresolved: FailureKind) -> Callable[[Any], bool]:
    from referencing.exceptions import Unresolvable

    def is_valid(value: Any) -> bool:
        try:
            return bool(checker.is_valid(value))
        except Unresolvable as error:
            raise VerifierFailure(unresolved, f"the schema refers to what is not in it: {error}"[:300]) from None
        # A value that the rules cannot be applied to is not valid: too large for a float, not comparable, too deep.
        except (ArithmeticError, TypeError, ValueError, RecursionError, AttributeError):
            return False

    return is_valid


def is_plain(schema: Any) -> bool:
    """Whether a schema keeps to what jsonschema and jsonschema-rs decide alike.

    They do not agree on regular expressions, references, fractions of numbers, and equality of large numbers.
    """
    if isinstance(schema, bool):
        return True
    return isinstance(schema, Mapping) and all(_plain_keyword(key, value) for key, value in schema.items())


def _plain_keyword(key: str, value: Any) -> bool:
    if key == "properties":
        return isinstance(value, Mapping) and all(is_plain(each) for each in value.values())
    if key in ("items", "additionalProperties", "not"):
        return is_plain(value)
    if key in ("anyOf", "oneOf", "allOf"):
        return isinstance(value, list) and bool(value) and all(is_plain(each) for each in value)
    if key == "type":
        named = value if isinstance(value, list) else [value]
        return bool(named) and all(isinstance(name, str) and name in _TYPES for name in named)
    if key == "required":
        return isinstance(value, list) and all(isinstance(name, str) for name in value)
    if key == "enum":
        return isinstance(value, list) and all(_plain_constant(each) for each in value)
    if key == "const":
        return _plain_constant(value)
    if key in _COUNTS:
        return type(value) is int and 0 <= value < LARGEST
    if key in _BOUNDS:
        return type(value) is int and abs(value) < LARGEST
    return key in _ANNOTATIONS and (key not in ("title", "description", "format", "$comment") or isinstance(value, str))


def _plain_constant(value: Any) -> bool:
    return value is None or isinstance(value, str | bool) or (type(value) is int and abs(value) < LARGEST)
