"""Comparison of outputs: what each checker takes for right, and that hostile outputs neither pass nor crash one."""

from __future__ import annotations

import time
from typing import Any

import pytest

from cascade.environments.code_checkers import Checker, checker_of, matches, read_checker, values_match
from cascade.environments.code_values import UnreadableValueError, read_value
from cascade.errors import DataError


def right(told: Any, output: str | bytes, expected: str) -> bool:
    data = output if isinstance(output, bytes) else output.encode()
    return matches(read_checker(checker_of(told)), data, expected.encode())


@pytest.mark.parametrize(
    ("told", "output", "expected"),
    [
        (None, "1 2  \n3\n\n", "1 2\n3"), (None, "a\r\nb\r\n", "a\nb\n"), (None, "", "\n"), (None, "\n\n", ""),
        ("exact", "a \n", "a \n"),
        ("tokens", " 1\n2   3", "1 2 3\n"),
        ("decimals", "  1.0 2.50\n", "1 2.5"), ("livecodebench", "1e3", "1000"), ("decimals", "a b", " a b "),
        ("unordered_lines", "b\na \n\n", "a\nb"), ("unordered_tokens", "3 1\n2", "1 2 3"),
        ("float", "0.3333333 x", "0.33333333333 x"), ({"kind": "float", "abs": 0.5}, "1.5", "1"),
        ({"kind": "float", "rel": 1e-3}, "1000.9", "1000.0"), ({"name": "float", "eps": 1e-2}, "-0.001", "0"),
        ({"type": "float", "rel_tol": 0, "abs_tol": 1e-9}, "+1.0000000001e0", "1"), ("float", "nan", "nan"),
        ("yes_no", "yes\nNO", "YES\nno\n"), ({"kind": "lines", "ignore_case": True}, "Abc", "aBC"),
    ],
)  # fmt: skip
def test_right_outputs(told: Any, output: str, expected: str) -> None:
    assert right(told, output, expected)


@pytest.mark.parametrize(
    ("told", "output", "expected"),
    [
        (None, " 1", "1"), (None, "1\n\n2", "1\n2"), (None, "1.0", "1"), (None, "1 2", "1  2"), (None, "", "0"),
        ("exact", "a", "a\n"), ("exact", "a\r\n", "a\n"),
        ("tokens", "1 2", "1 2 3"), ("tokens", "Yes", "YES"),
        ("decimals", "1.0001", "1"), ("decimals", "1\n1", "1 1"), ("decimals", "nan", "NaN"),
        ("unordered_lines", "a\na\nb", "a\nb\nb"),
        ("float", "0.33334", "0.33333"), ("float", "1000000001", "1000000000"),
        ("float", "nan", "1"), ("float", "inf", "1e300"), ("float", "1e999", "1e300"), ("float", "1e999999999", "1"),
        ("float", "0x1p0", "1"), ("float", "1_0", "10"), ("float", "\u0661", "1"), ("decimals", "\u0661", "1"),
        ("decimals", "1_0", "10"), ("decimals", "Infinity", "1"), ("decimals", "-0x1", "-1"),
        ("yes_no", "y", "yes"), ("yes_no", "\u017fo", "so"), ("yes_no", "yes no", "yes"),
    ],
)  # fmt: skip
def test_wrong_outputs(told: Any, output: str, expected: str) -> None:
    assert not right(told, output, expected)


HOSTILE = [
    b"\x00" * 1000, b"\xff\xfe\xfd", b"1\x000", "٤٢".encode(), "４２".encode(), b"4" * 2**20, b"9" * 10_000 + b".5",
    b"1e" + b"9" * 100_000, b"-" * 2**20, b" " * 2**20 + b"41", b"\n" * 2**20 + b"41", b"nan", b"-inf", b"1e999999999",
    b"NaN " * 100_000, b"1e400 " * 100_000, b"0." + b"0" * 2**20, "\ud800".encode(errors="surrogatepass"), b"42\x00",
    b"42\x0b\x0c\x1c", "42\u00a043".encode(), "42\u2028".encode(),
]  # fmt: skip


@pytest.mark.parametrize(
    "kind", ["exact", "lines", "tokens", "decimals", "unordered_lines", "unordered_tokens", "float", "yes_no"]
)
def test_hostile_outputs_neither_pass_nor_crash_nor_hold_up(kind: str) -> None:
    checker = read_checker(checker_of(kind))
    for output in HOSTILE:
        began = time.process_time()
        assert not matches(checker, output, b"42\n"), output[:40]
        assert not matches(checker, output, b"0 " * 50_000), output[:40]
        assert time.process_time() - began < 2


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("[1, 2]", "[1, 2]"), ("1.0000001", "1"), ("[0.1, [0.30000000000000004]]", "[0.1, [0.3]]"), ("true", "1"),
        ('{"a": 1, "b": [2.0]}', '{"b": [2], "a": 1}'), ("null", "null"), ("9" * 5000, "9" * 5000),
    ],
)  # fmt: skip
def test_right_values(value: str, expected: str) -> None:
    assert values_match(Checker(), read_value(value), read_value(expected))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("[2, 1]", "[1, 2]"), ("1", '"1"'), ("100000000000000001", "100000000000000000"), ("NaN", "1.5"),
        ("Infinity", "1e300"), ("[1]", "[1, 1]"), ('{"a": 1}', '{"a": 1, "b": 2}'), ("[]", "{}"), ("null", "0"),
        ("9" * 5000, "8" * 5000), ("1" + "0" * 400, "1.5"), ("1.01", "1"),
    ],
)  # fmt: skip
def test_wrong_values(value: str, expected: str) -> None:
    assert not values_match(Checker(), read_value(value), read_value(expected))


def test_values_in_any_order_exactly_and_within_a_tolerance() -> None:
    assert values_match(Checker("unordered_lines"), [[2, 1], "a"], ["a", [2, 1]])
    assert not values_match(Checker("unordered_lines"), [1, 1, 2], [1, 2, 2])
    assert not values_match(Checker("exact"), 1.0000001, 1)
    assert values_match(Checker("float", absolute=0.1), [1.05], [1])


@pytest.mark.parametrize("text", [b"", b"1 2", b"[" * 100_000, b"\xff", b"{'a': 1}", b"1\x00", b'{"a":' * 50_000])
def test_what_is_no_value_says_so(text: bytes) -> None:
    with pytest.raises(UnreadableValueError):
        read_value(text)


def test_a_deep_value_is_compared_without_a_crash() -> None:
    deep = read_value("[" * 900 + "]" * 900)
    assert values_match(Checker(), deep, read_value("[" * 900 + "]" * 900))
    assert not values_match(Checker("unordered_lines"), deep, [1])


def test_a_checker_of_several_lines_is_a_program() -> None:
    assert checker_of("import sys\nsys.exit(0)") == {
        "kind": "program", "language": "python", "source": "import sys\nsys.exit(0)",
    }  # fmt: skip
    assert checker_of({"source": "#include <cstdio>\nint main() {}"})["language"] == "cpp"
    assert checker_of({"kind": "program", "language": "C++", "code": "int main() {}"})["language"] == "cpp"


@pytest.mark.parametrize(
    "told",
    [
        "fuzzy", 3, [], {"kind": "float", "abs": -1}, {"kind": "float", "eps": "small"}, {"kind": "float", "eps": True},
        {"kind": "float", "eps": float("nan")}, {"kind": "program"}, {"kind": "program", "source": " "},
        {"kind": "program", "source": "x", "language": "perl"}, {"kind": "lines", "strict": True}, {"kind": 3},
    ],
)  # fmt: skip
def test_a_checker_that_is_none_is_a_data_error(told: Any) -> None:
    with pytest.raises(DataError):
        checker_of(told)
