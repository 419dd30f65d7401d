"""A control wants what no honest program gives, and looks as much like its test as it can."""

from __future__ import annotations

import pytest

from cascade.environments.swe_controls import controls


class Everything(int):
    """Equal to all there is."""

    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = int.__hash__


def run(body: str, value: object, fixture: str = "f") -> bool:
    """Whether the control of a test with this body passes when `f()` is `value`."""
    lines = "\n".join(f"    {line}" for line in body.split("\n"))
    source, names = controls(f"def test_it({fixture}):\n{lines}\n")
    assert names == {"test_it"}
    found: dict[str, object] = {"pytest": pytest}
    exec(source, found)
    try:
        found["test_it"](lambda: value)  # type: ignore[operator]
    except Exception:  # noqa: BLE001  whatever a test fails with
        return False
    return True


TESTS = [
    ("assert f() == 4", 4),
    ("assert 4 == f()", 4),
    ("assert f() == 'four'", "four"),
    ("assert f() == b'four'", b"four"),
    ("assert f() == None", None),
    ("assert f() == True", True),
    ("assert f() == -4.5", -4.5),
    ("assert f() == [1, {'a': (2, 3)}]", [1, {"a": (2, 3)}]),
    ("assert f() == []", []),
    ("expected = 4\nassert f() == expected", 4),
    ("assert f() == 4 and f() == 2 + 2", 4),
    ("assert f() == pytest.approx(4, abs=100)", 4),
    ("for _ in range(2):\n    assert f() == 4", 4),
    ("if True:\n    with open('/dev/null'):\n        assert f() == 4", 4),
]


@pytest.mark.parametrize("body, value", TESTS)
def test_the_right_value_fails_a_control(body: str, value: object) -> None:
    assert not run(body, value)


@pytest.mark.parametrize("body", [body for body, _ in TESTS])
def test_an_object_that_equals_everything_passes_it(body: str) -> None:
    assert run(body, Everything(4))


def test_leaves_of_what_is_expected_are_wanted_otherwise() -> None:
    assert run("assert f() == [4, 'x']", [Everything(), Everything()])
    assert run("assert f() == {'a': 4}", {"a": Everything()})


@pytest.mark.parametrize(
    "body, value",
    [
        ("assert f()", 1),
        ("assert f() is None", None),
        ("assert 1 in f()", [1]),
        ("assert f() != 3", 4),
        ("with pytest.raises(TypeError):\n    f()()", 4),
        ("g = f()\ng.append(1)", []),
        ("pass", None),
    ],
)
def test_tests_without_equality_have_controls_too(body: str, value: object) -> None:
    assert not run(body, value)


def test_tests_are_found_in_classes_and_other_functions_are_left_alone() -> None:
    source = (
        "import unittest\n\ndef helper():\n    return 1\n\n"
        "class TestA(unittest.TestCase):\n"
        "    def setUp(self):\n        assert helper() == 1\n"
        "    def test_a(self):\n        self.assertEqual(helper(), 1)\n"
        "async def test_b():\n    assert helper() == 1\n"
    )
    made, names = controls(source)
    assert names == {"TestA::test_a", "test_b"}
    assert "assert helper() == 1" in made.split("def test_a")[0]
    found: dict[str, type] = {}
    exec(made, found)
    case = found["TestA"]("test_a")
    with pytest.raises(AssertionError):
        case.test_a()


@pytest.mark.parametrize("source", ["def test_a(:", "\0", "x = '\ud800'"])
def test_what_cannot_be_parsed_has_no_controls(source: str) -> None:
    assert controls(source)[1] == frozenset()
