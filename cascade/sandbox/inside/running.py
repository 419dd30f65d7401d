"""How tests of each style are run: what they are called, and what became of them.

A result is (name, "passed" | "failed" | "error" | "skipped", message). A test during which the program has hung up or
broken the rules has not passed, whatever it says itself.
"""

import builtins
import functools
import importlib
import itertools
import sys
import traceback

from seen_by_tests import is_proxy

SPACE = "tests_of_the_program"  # the module in which loose statements run


def run_unittest(end, order):
    """Every case of the modules in `run`."""
    import unittest

    results = []
    suite = unittest.TestSuite()
    for name in order["run"]:
        try:
            suite.addTests(unittest.defaultTestLoader.loadTestsFromModule(importlib.import_module(name)))
        except BaseException as error:  # noqa: BLE001  a program may raise anything where it is imported
            results.append((name, "error", told(error)))
    suite.run(results_of_unittest(unittest, end, results))
    return results


def without_differences(unittest):
    """Spares failing assertions the line by line comparison of what may be very long."""
    import types

    unittest.case.difflib = types.SimpleNamespace(ndiff=lambda *texts, **named: [], unified_diff=lambda *texts: [])
    unittest.case.pprint = types.SimpleNamespace(pformat=lambda value, *more, **named: "")


def results_of_unittest(unittest, end, results):
    """A `unittest` result that writes down every test, in its order."""

    class Results(unittest.TestResult):
        def _note(self, test, became, message=""):
            if end.broken and became != "error":
                became, message = "error", end.broken
            results.append((test.id() if hasattr(test, "id") else str(test), became, message))

        def startTest(self, test):
            super().startTest(test)
            self._failed_part = False

        def addSuccess(self, test):
            if not self._failed_part:
                self._note(test, "passed")

        def addExpectedFailure(self, test, err):
            self._note(test, "passed")

        def addUnexpectedSuccess(self, test):
            self._note(test, "failed", "It was to fail.")

        def addFailure(self, test, err):
            self._note(test, "failed", told(err[1]))

        def addError(self, test, err):
            self._note(test, "error", told(err[1]))

        def addSkip(self, test, reason):
            self._note(test, "skipped", reason)

        def addSubTest(self, test, subtest, err):
            if err is not None:
                self._failed_part = True
                self._note(subtest, "failed" if issubclass(err[0], test.failureException) else "error", told(err[1]))

    return Results()


def run_check(end, order):
    """One test: `check(candidate)` of the statements, for the program's function of that name."""
    space = Space(end, order["program_module"])

    def check():
        run_in(space, order["setup"])
        space.pop(order["function"], None)  # a declaration without a body
        for statement in order["statements"]:
            run_in(space, statement)
        dict.__getitem__(space, "check")(space.of_program(order["function"]))

    return [(f"check({order['function']})", *became(end, check))]


def run_statements(end, order):
    """One test a statement, each in the names that `setup` and those before it have left."""
    space = Space(end, order["program_module"])
    ready = became(end, lambda: run_in(space, order["setup"]))
    if ready[0] != "passed":
        return [("setup", *ready)]
    results = []
    for number, statement in enumerate(order["statements"], 1):
        results.append((f"statement {number}", *became(end, functools.partial(run_in, space, statement))))
    return results


def run_calls(end, order):
    """One test a call: arguments, and the value or values that it may return."""
    space = Space(end, order["program_module"])
    results = []
    for number, (arguments, accepted) in enumerate(order["calls"], 1):

        def call(arguments=arguments, accepted=accepted):
            value = function(space, order["function"])(*arguments)
            if not any(agrees(value, expected, order["tolerance"]) for expected in accepted):
                raise AssertionError("Another value than expected.")

        results.append((f"call {number}", *became(end, call)))
    return results


def function(space, name):
    """The program's function, or the method of that name of its class `Solution`."""
    try:
        return space.of_program(name)
    except AttributeError:
        return getattr(space.of_program("Solution")(), name)


def agrees(value, expected, tolerance):
    """Whether a value is the expected one as JSON knows values: tuples are lists; numbers within the tolerance."""
    if is_proxy(value):
        value = value._wire_end_.plain(value)
        if is_proxy(value) and isinstance(expected, list):  # something that is iterated, e.g. a generator
            value = list(itertools.islice(value, len(expected) + 1))
    if isinstance(expected, list):
        if type(value) not in (list, tuple) or len(value) != len(expected):
            return False
        return all(map(agrees, value, expected, itertools.repeat(tolerance)))
    if isinstance(expected, dict):
        if type(value) is not dict or len(value) != len(expected):
            return False
        value = {key if type(key) is str else _json_key(key): held for key, held in value.items()}
        return value.keys() == expected.keys() and all(agrees(value[key], expected[key], tolerance) for key in expected)
    if type(value) is bool or type(expected) is bool:
        return type(value) is type(expected) and value == expected
    if tolerance and type(value) in (int, float) and type(expected) in (int, float):
        return value == expected or abs(value - expected) <= tolerance * max(1.0, abs(expected))
    return not is_proxy(value) and value == expected


def _json_key(key):
    return {True: "true", False: "false", None: "null"}[key] if type(key) in (bool, type(None)) else str(key)


STYLES = {  # besides pytest's, in `pytest_running`
    "unittest": run_unittest,
    "check": run_check,
    "statements": run_statements,
    "calls": run_calls,
}


class Space(dict):
    """Names for statements: their own, then the program's, unless they are the language's."""

    def __init__(self, end, module):
        super().__init__(__name__=SPACE, __builtins__=builtins)
        self._end = end
        self._module = module

    def of_program(self, name):
        """An attribute of the program's module."""
        return getattr(importlib.import_module(self._module), name)

    def __missing__(self, name):
        if hasattr(builtins, name) or name.startswith("__"):
            raise KeyError(name)
        try:
            return self.of_program(name)
        except AttributeError:
            raise KeyError(name) from None


def run_in(space, source):
    """Runs statements."""
    exec(compile(source, f"{SPACE}.py", "exec", dont_inherit=True), space)


def became(end, test):
    """Runs a test; returns what became of it, and why."""
    try:
        test()
    except AssertionError as error:
        return ("failed", told(error)) if not end.broken else ("error", end.broken)
    except BaseException as error:  # noqa: BLE001  a program may raise anything
        return "error", end.broken or told(error)
    return ("error", end.broken) if end.broken else ("passed", "")


def told(error):
    """An exception in a line or two, and where the tests were."""
    try:
        text = f"{type(error).__name__}: {error}"
    except BaseException:  # noqa: BLE001  text that the program is asked for
        text = type(error).__name__
    places = [f"{at.filename}:{at.lineno}" for at in traceback.extract_tb(error.__traceback__, limit=-30) if _shown(at)]
    return f"{text} ({places[-1]})" if places else text


def _shown(at):
    return not at.filename.startswith(("/", "<frozen")) and not at.filename.startswith(sys.prefix)
