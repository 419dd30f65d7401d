"""The part of pytest's interface that test files of small programs use; imported by them as `pytest`.

What is not here is an error where it is used, never a test that is silently left out.
"""

import importlib
import inspect
import re

from seen_by_tests import is_proxy

MARKS = "pytestmark"


class Skipped(BaseException):
    """Raised by `skip`."""


class Failed(AssertionError):
    """Raised by `fail`, and where nothing was raised that was to be."""


class XFailed(BaseException):
    """Raised by `xfail`."""


def skip(reason="", *, msg="", allow_module_level=False):
    """Leaves the test out."""
    raise Skipped(reason or msg)


def fail(reason="", pytrace=True, *, msg=""):
    """Fails the test."""
    raise Failed(reason or msg)


def xfail(reason=""):
    """Ends the test as one that is known to fail."""
    raise XFailed(reason)


def importorskip(name, minversion=None, reason=None):
    """A module, where there is one."""
    try:
        return importlib.import_module(name)
    except ImportError:
        raise Skipped(reason or f"could not import {name!r}") from None


def set_trace(*arguments, **named):
    """There is nobody to debug."""


# ---------------------------------------------------------------------- raises, approx


class _Raised:
    """What `raises` gives: the exception, once there is one."""

    def __init__(self):
        self.value = self.type = self.tb = None

    def match(self, pattern):
        """Fails unless the exception's text has the pattern."""
        if not re.search(pattern, str(self.value)):
            raise Failed(f"Pattern {pattern!r} is not in {str(self.value)[:200]!r}.")
        return True

    def exconly(self, tryshort=False):
        """Class and text."""
        return f"{getattr(self.type, '__name__', None)}: {self.value}"


def raises(expected_exception, *arguments, match=None, check=None, **named):
    """An exception of these classes is to be raised."""
    expected = _Raises(expected_exception, match, check)
    if not arguments:
        return expected
    with expected as raised:
        arguments[0](*arguments[1:], **named)
    return raised


class _Raises:
    def __init__(self, expected, match, check):
        self.expected, self.match, self.check = expected, match, check

    def __enter__(self):
        self.raised = _Raised()
        return self.raised

    def __exit__(self, kind, error, traceback):
        if kind is None:
            raise Failed(f"DID NOT RAISE {self.expected}")
        if not issubclass(kind, self.expected):
            return False
        self.raised.value, self.raised.type, self.raised.tb = error, kind, traceback
        if self.match is not None:
            self.raised.match(self.match)
        if self.check is not None and not self.check(error):
            raise Failed("The exception is not as it was to be.")
        return True


class approx:
    """Equal to a number, or to numbers in lists, tuples and dictionaries, within a tolerance."""

    __array_ufunc__ = None
    __hash__ = None  # pyright: ignore[reportAssignmentType]

    def __init__(self, expected, rel=None, abs=None, nan_ok=False):
        self.expected, self.rel, self.abs, self.nan_ok = expected, rel, abs, nan_ok

    def __eq__(self, actual):
        return self._agrees(actual, self.expected)

    def __ne__(self, actual):
        return not self == actual

    def __repr__(self):
        return f"approx({self.expected!r})"

    def _agrees(self, actual, expected):
        if is_proxy(actual):
            actual = actual._wire_end_.plain(actual)
        if is_proxy(actual):
            return False
        if isinstance(expected, dict):
            return (
                isinstance(actual, dict)
                and actual.keys() == expected.keys()
                and all(self._agrees(actual[key], expected[key]) for key in expected)
            )
        if isinstance(expected, (list, tuple)):
            return (
                isinstance(actual, (list, tuple))
                and len(actual) == len(expected)
                and all(map(self._agrees, actual, expected))
            )
        if not isinstance(expected, (int, float, complex)) or isinstance(expected, bool):
            return bool(actual == expected)
        return isinstance(actual, (int, float, complex)) and self._is_near(actual, expected)

    def _is_near(self, actual, expected):
        if expected != expected or actual != actual:
            return self.nan_ok and expected != expected and actual != actual
        if actual == expected:
            return True
        if abs(expected) == float("inf") or abs(actual) == float("inf"):
            return False
        relative = 1e-6 if self.rel is None and self.abs is None else self.rel or 0
        return abs(actual - expected) <= max(relative * abs(expected), 1e-12 if self.abs is None else self.abs)


# ---------------------------------------------------------------------- marks, fixtures


class _Mark:
    def __init__(self, name, arguments=(), named=None):
        self.name, self.args, self.kwargs = name, arguments, named or {}

    def __call__(self, *arguments, **named):
        if len(arguments) == 1 and not named and (inspect.isfunction(arguments[0]) or inspect.isclass(arguments[0])):
            target = arguments[0]
            setattr(target, MARKS, [*marks_of(target, own=True), self])
            return target
        return _Mark(self.name, arguments, named)


class _Marks:
    def __getattr__(self, name):
        return _Mark(name)


mark = _Marks()


def marks_of(target, own=False):
    found = vars(target).get(MARKS, []) if own else getattr(target, MARKS, [])
    return list(found) if isinstance(found, (list, tuple)) else [found]


class Parameters:
    def __init__(self, values, marks, id_):
        self.values, self.marks, self.id = values, marks, id_


def param(*values, marks=(), id=None):
    """One set of a parametrised test's values."""
    return Parameters(values, list(marks) if isinstance(marks, (list, tuple)) else [marks], id)


class Fixture:
    def __init__(self, make, scope, params, autouse, name):
        self.make, self.scope, self.params, self.autouse = make, scope, params, autouse
        self.name = name or make.__name__

    def __call__(self, *arguments, **named):
        raise Failed(f"Fixture {self.name!r} was called; a test asks for it by an argument's name.")


def fixture(function=None, *, scope="function", params=None, autouse=False, ids=None, name=None):
    """Something that tests ask for by the name of an argument."""
    if function is None:
        return lambda make: Fixture(make, scope, params, autouse, name)
    return Fixture(function, scope, params, autouse, name)
