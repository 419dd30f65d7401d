"""What crosses between a program and its tests: plain values unchanged, everything else refused."""

from __future__ import annotations

import collections
import datetime
import decimal
import fractions
import math
import random
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

INSIDE = str(Path(__file__).parents[2] / "cascade" / "sandbox" / "inside")


@pytest.fixture(scope="module", autouse=True)
def wire() -> Iterator[Any]:
    """The module as rooms import it: by its own name, from the folder that they show."""
    sys.path.insert(0, INSIDE)
    try:
        import changes  # noqa: F401  # type: ignore[import-not-found]
        import wire as module  # type: ignore[import-not-found]

        yield module
    finally:
        sys.path.remove(INSIDE)


def wire_module() -> Any:
    return sys.modules["wire"]


def refuse(*_: object) -> None:
    raise wire_module().CannotCross("no handles here")


def written(value: object) -> bytes:
    writer = wire_module().Writer(refuse)
    writer.put(value)
    return bytes(writer.out)


def read(data: bytes) -> Any:
    def none(*_: object) -> None:
        raise wire_module().Malformed("no handles here")

    reader = wire_module().Reader(data, none, none)
    value = reader.take()
    reader.done()
    return value


def there_and_back(value: object) -> Any:
    return read(written(value))


HASHABLE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.tuples(inner, inner) | st.frozensets(inner, max_size=3),
    max_leaves=8,
)
PLAIN = st.recursive(
    HASHABLE | st.complex_numbers(allow_nan=False) | st.datetimes() | st.timedeltas() | st.dates() | st.fractions(),
    lambda inner: st.lists(inner) | st.dictionaries(HASHABLE, inner) | st.tuples(inner, inner) | st.sets(HASHABLE),
    max_leaves=20,
)


@settings(max_examples=300, deadline=None)
@given(PLAIN)
def test_plain_values_come_back_equal_and_of_the_same_type(value: object) -> None:
    back = there_and_back(value)
    assert back == value
    assert type(back) is type(value)
    assert repr(back) == repr(value) or isinstance(value, (set, frozenset, dict, list, tuple))


@pytest.mark.parametrize(
    "value",
    [
        decimal.Decimal("1.10"),
        fractions.Fraction(-3, 7),
        range(1, 10, 3),
        slice(None, 3, -1),
        bytearray(b"ab"),
        collections.deque([1, 2], 5),
        collections.OrderedDict(b=1, a=2),
        collections.Counter("aab"),
        datetime.time(1, 2, 3, 4),
        datetime.datetime(2020, 1, 2, tzinfo=datetime.UTC),
        10**400,
        -(2**63) - 1,
        -0.0,
        math.inf,
        "\ud800",
        Ellipsis,
    ],
    ids=repr,
)
def test_other_plain_values_come_back(value: object) -> None:
    back = there_and_back(value)
    assert back == value
    assert type(back) is type(value)
    assert repr(back) == repr(value)


def test_a_default_dictionary_becomes_a_dictionary() -> None:
    assert type(there_and_back(collections.defaultdict(list, a=[1]))) is dict


def test_what_is_no_number_stays_unequal_to_itself() -> None:
    nan = math.nan
    back = there_and_back([nan, nan])
    assert back != [nan, nan]
    assert back[0] != back[1]


def test_lists_that_come_twice_are_one_and_cycles_close() -> None:
    inner = [1]
    twice = there_and_back((inner, inner))
    assert twice[0] is twice[1]
    cycle: list[Any] = [1]
    cycle.append(cycle)
    back = there_and_back(cycle)
    assert back[1] is back


@pytest.mark.parametrize("value", [type("Int", (int,), {})(5), type("Text", (str,), {})("a"), object(), len, int])
def test_objects_of_other_classes_never_cross_as_plain_values(value: object) -> None:
    with pytest.raises(wire_module().CannotCross):
        written(value)


def test_too_deep_and_too_large_values_are_refused_where_they_are_written() -> None:
    deep: list[Any] = []
    for _ in range(200):
        deep = [deep]
    with pytest.raises(wire_module().CannotCross, match="deeper"):
        written(deep)
    with pytest.raises(wire_module().CannotCross, match="bytes"):
        written("x" * (wire_module().MAX_BYTES + 1))


LENGTH = struct.Struct(">I").pack


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"?",
        b"i\0",
        b"s" + LENGTH(2**32 - 1),
        b"l" + LENGTH(2**31) + b"N",
        b"s" + LENGTH(1) + b"\xff",
        b"d" + LENGTH(1) + b"N",
        b"S" + LENGTH(1) + b"l" + LENGTH(0),
        b"d" + LENGTH(2) + b"l" + LENGTH(0) + b"N",
        b"R" + LENGTH(0),
        b"A" + LENGTH(0),
        b"m" + LENGTH(3) + b"1.x",
        b"Q" + LENGTH(2) + (b"i" + struct.pack(">q", 1)) + (b"i" + struct.pack(">q", 0)),
        b"r" + LENGTH(3) + b"NNN",
        b"D" + LENGTH(1) + b"s" + LENGTH(6) + b"system",
        b"D" + LENGTH(2) + b"s" + LENGTH(8) + b"timezone" + b"N",
        b"D" + LENGTH(1) + b"N",
        b"q" + LENGTH(0),
        b"q" + LENGTH(1) + b"T" + b"N",
        b"L" + LENGTH(1) + b"N",
        b"l" + LENGTH(1),
        b"NN",
        (b"t" + LENGTH(1)) * 500 + b"N",
    ],
    ids=lambda data: repr(data[:30]),
)
def test_malformed_bytes_are_said_to_be(data: bytes) -> None:
    with pytest.raises(wire_module().Malformed):
        read(data)


def test_random_bytes_raise_nothing_else_and_take_no_time() -> None:
    chance = random.Random(0)
    good = written([1, "ab", {"k": (2.5, {3})}, 10**30, b"x", collections.deque([1])])
    for _ in range(20_000):
        data = bytearray(good)
        for _ in range(chance.randrange(1, 4)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        try:
            read(bytes(data[: chance.randrange(1, len(data) + 1)]))
        except wire_module().Malformed:
            pass


def test_more_values_than_allowed_are_refused_before_they_fill_the_memory() -> None:
    count = wire_module().MAX_VALUES + 10
    with pytest.raises(wire_module().Malformed, match="More than"):
        read(b"l" + LENGTH(count) + b"N" * count)


@pytest.mark.parametrize("container", [[1, [2]], {"a": 1}, {1, 2}, bytearray(b"ab"), collections.deque([1])], ids=repr)
def test_a_change_in_place_is_found_and_made_again_elsewhere(container: Any) -> None:
    changes = sys.modules["changes"]
    other = there_and_back(container)
    before = changes.snapshot(container)
    assert changes.is_as_before(container, before)
    container.clear()
    assert not changes.is_as_before(container, before)
    changes.refill(other, changes.contents(container))
    assert other == container


def test_changes_of_the_wrong_form_are_malformed() -> None:
    for container, now in [([], [1]), ([], b""), ({}, ([], 1)), ({}, (1,)), (set(), ([],)), (bytearray(), (1,))]:
        with pytest.raises(wire_module().Malformed):
            sys.modules["changes"].refill(container, now)
