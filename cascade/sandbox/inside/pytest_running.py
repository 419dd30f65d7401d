"""How test files in pytest's form are run: parametrised tests, fixtures, marks, and what became of each test."""

import contextlib
import importlib
import inspect
import itertools
import os
import sys

import running
from pytest_subset import Fixture, Parameters, Skipped, XFailed, marks_of


def run_pytest(end, order):
    """Every test of the modules in `run`, after `conftest` where there is one; see `running`."""
    conftest, results = {}, []
    try:
        conftest = vars(importlib.import_module("conftest")) if "conftest" in order["modules"] else {}
    except BaseException as error:  # noqa: BLE001  it may import the program
        results.append(("conftest", "error", running.told(error)))
    for name in order["run"]:
        try:
            module = importlib.import_module(name)
        except Skipped as error:
            results.append((name, "skipped", str(error)))
            continue
        except BaseException as error:  # noqa: BLE001  a program may raise anything where it is imported
            results.append((name, "error", running.told(error)))
            continue
        results += _Module(end, name, module, conftest).run()
    return results


class _Module:
    """The tests of one module."""

    def __init__(self, end, name, module, conftest):
        self.end, self.name, self.module = end, name, module
        found = (*conftest.values(), *vars(module).values())
        self.fixtures = {each.name: each for each in found if type(each) is Fixture}
        self.kept = contextlib.ExitStack()  # fixtures of more than one test
        self.values = {}

    def run(self):
        results = []
        for name, test, owner in self._tests():
            if owner == "unittest":
                results += _cases(self.end, test)
                continue
            try:
                runs = list(_parametrised(test, [*marks_of(self.module), *marks_of(owner or test)], self._varied(test)))
            except BaseException as error:  # noqa: BLE001  values may be asked of the program
                results.append((f"{self.name}::{name}", "error", running.told(error)))
                continue
            for label, marks, values in runs:
                results.append((f"{self.name}::{name}{label}", *self._became(test, owner, marks, values)))
        problem = running.became(self.end, self.kept.close)
        return results + ([(f"{self.name}::end", *problem)] if problem[0] != "passed" else [])

    def _varied(self, test):
        """The fixtures with several values that a test asks for, or that those ask for."""
        names, found = list(inspect.signature(test).parameters), []
        names += [each.name for each in self.fixtures.values() if each.autouse]
        for name in names:
            fixture = self.fixtures.get(name)
            if fixture is not None and fixture not in found:
                found.append(fixture)
                names += inspect.signature(fixture.make).parameters
        return [[([f" {each.name}"], value) for value in each.params] for each in found if each.params is not None]

    def _tests(self):
        case = sys.modules["unittest"].TestCase if "unittest" in sys.modules else ()
        for name, value in list(vars(self.module).items()):
            if inspect.isclass(value) and case and issubclass(value, case):
                if value.__module__ == self.name:
                    yield name, value, "unittest"
            elif inspect.isclass(value) and name.startswith("Test"):
                for method in dir(value):
                    if method.startswith("test") and callable(getattr(value, method)):
                        yield f"{name}::{method}", getattr(value, method), value
            elif name.startswith("test") and inspect.isfunction(value):
                yield name, value, None

    def _became(self, test, owner, marks, values):
        """What became of one test with one set of values."""
        may_fail, strict = None, False
        for each in marks:
            reason = each.kwargs.get("reason", "")
            holds = all(_holds(condition, self.module) for condition in each.args)
            if each.name == "skip" or (each.name == "skipif" and holds):
                return "skipped", reason or (each.args[0] if each.name == "skip" and each.args else "")
            if each.name == "xfail" and holds:
                may_fail, strict = each.kwargs.get("raises", BaseException), each.kwargs.get("strict", False)
        ended = []

        def body():
            try:
                self._run(test, owner, dict(values))
            except (Skipped, XFailed) as error:
                ended.append(("skipped", str(error)))
            except BaseException as error:
                if may_fail is None or self.end.broken or not isinstance(error, may_fail):
                    raise
                ended.append(("passed", "failed as it may"))

        said = running.became(self.end, body)
        if said[0] != "passed":
            return said
        if may_fail is not None and strict and not ended:
            return "failed", "It was to fail."
        return ended[0] if ended else said

    def _run(self, test, owner, values):
        with contextlib.ExitStack() as stack:
            instance = owner() if owner else None
            given = {}
            asked = [name for each in marks_of(test) if each.name == "usefixtures" for name in each.args]
            for name in [*(each.name for each in self.fixtures.values() if each.autouse), *asked]:
                self._fixture(name, given, values, stack)
            wanted = [name for name in inspect.signature(test).parameters if not (owner and name == "self")]
            arguments = {
                name: values[name] if name in values else self._fixture(name, given, values, stack) for name in wanted
            }
            with _set_up(owner and instance, test, self.module):
                bound = getattr(instance, test.__name__) if owner else test
                bound(**arguments)

    def _fixture(self, name, given, values, stack):
        if name in given:
            return given[name]
        if name in BUILT_IN:
            given[name] = stack.enter_context(BUILT_IN[name]())
            return given[name]
        if name not in self.fixtures:
            raise LookupError(f"There is no fixture {name!r}.")
        found = self.fixtures[name]
        long_lived = found.scope != "function" and found.params is None
        if long_lived and name in self.values:
            return self.values[name]
        arguments = {}
        for wanted in inspect.signature(found.make).parameters:
            if wanted == "request":
                arguments[wanted] = _Request(values.get(f" {name}"))
            else:
                arguments[wanted] = self._fixture(wanted, given, values, stack)
        value = found.make(**arguments)
        if inspect.isgenerator(value):
            made = value
            value = next(made)
            (self.kept if long_lived else stack).callback(lambda: next(made, None))
        if long_lived:
            self.values[name] = value
        given[name] = value
        return value


class _Request:
    def __init__(self, value):
        self.param = value


@contextlib.contextmanager
def _set_up(instance, test, module):
    """The functions that older styles of tests have around each test."""
    owner = instance if instance is not None else module
    before, after = (
        ("setup_method", "teardown_method") if instance is not None else ("setup_function", "teardown_function")
    )
    _around(owner, before, test)
    try:
        yield
    finally:
        _around(owner, after, test)


def _around(owner, name, test):
    found = vars(type(owner)).get(name) or vars(owner).get(name) if hasattr(owner, "__dict__") else None
    if found is not None:
        bound = getattr(owner, name)
        bound(test) if inspect.signature(bound).parameters else bound()


def _holds(condition, module):
    return eval(condition, vars(module)) if isinstance(condition, str) else bool(condition)


def _parametrised(test, marks, varied):
    """(label, marks, values by name) of every run of a test."""
    marks = [*marks, *[each for each in marks_of(test) if each not in marks]]
    sets = list(varied)
    for each in [each for each in marks if each.name == "parametrize"]:
        names, found = each.args[0] if each.args else each.kwargs["argnames"], each.args[1:2]
        names = [name.strip() for name in names.split(",")] if isinstance(names, str) else list(names)
        found = found[0] if found else each.kwargs["argvalues"]
        if each.kwargs.get("indirect"):
            raise LookupError("Fixtures do not get their values from `parametrize` here.")
        sets.append([(names, one) for one in list(found)])
    others = [each for each in marks if each.name != "parametrize"]
    for number, chosen in enumerate(itertools.product(*sets)):
        values, more = {}, []
        for names, one in chosen:
            if isinstance(one, Parameters):
                more += one.marks
                one = one.values if len(names) > 1 else one.values[0]
            values.update(zip(names, one, strict=True) if len(names) > 1 else {names[0]: one})
        yield (f"[{number}]" if sets else ""), [*others, *more], values


def _cases(end, case):
    """The tests of a `unittest` class."""
    import unittest

    results = []
    suite = unittest.defaultTestLoader.loadTestsFromTestCase(case)
    suite.run(running.results_of_unittest(unittest, end, results))
    return results


# ---------------------------------------------------------------------- fixtures of pytest's own


class _Printed:
    def __init__(self, stream):
        self.stream = stream

    def readouterr(self):
        """What was printed since the last time."""
        import collections

        text = self.stream.getvalue()
        self.stream.seek(0)
        self.stream.truncate()
        return collections.namedtuple("CaptureResult", "out err")(text, "")


@contextlib.contextmanager
def _capsys():
    import io

    stream = io.StringIO()
    with contextlib.redirect_stdout(stream):
        yield _Printed(stream)


@contextlib.contextmanager
def _tmp_path():
    import pathlib
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        yield pathlib.Path(folder)


class _Patches:
    def __init__(self, stack):
        self.stack = stack

    def setattr(self, target, name, value=None, raising=True):
        """Sets an attribute until the test ends; `target` may be a dotted path that ends in the attribute's name."""
        if isinstance(target, str):
            path, value = target, name
            target, name = importlib.import_module(path.rpartition(".")[0]), path.rpartition(".")[2]
        there = hasattr(target, name)
        if raising and not there:
            raise AttributeError(name)
        old = getattr(target, name, None)
        setattr(target, name, value)
        self.stack.callback(lambda: setattr(target, name, old) if there else delattr(target, name))

    def setitem(self, target, key, value):
        """Sets an item until the test ends."""
        there, old = key in target, target.get(key)
        target[key] = value
        self.stack.callback(lambda: target.__setitem__(key, old) if there else target.pop(key, None))

    def setenv(self, name, value, prepend=None):
        """Sets a variable of the tests' environment, which is not the program's."""
        self.setitem(os.environ, name, str(value))


@contextlib.contextmanager
def _monkeypatch():
    with contextlib.ExitStack() as stack:
        yield _Patches(stack)


BUILT_IN = {"capsys": _capsys, "tmp_path": _tmp_path, "monkeypatch": _monkeypatch}
