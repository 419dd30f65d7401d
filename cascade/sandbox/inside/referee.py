"""The referee: runs tests in a room of their own, with the program at the other end of a line, and says how they went.

It is told on standard input what to run, and a word that nobody else knows; the verdict is that word and what became of
every test. What tests and program print cannot get there.
"""

import json
import os
import sys

import running
from program_modules import Finder, seeds_both
from seen_by_tests import TestsEnd, compares_plain_values

LINE = 3
MESSAGE = 400  # characters


def main():
    """Runs the tests and ends."""
    verdict, order = take_order()
    end = TestsEnd(LINE, {*order["modules"], running.SPACE})
    run = style(order["style"])
    _prepare(end, order)
    say(verdict, order["word"], run(end, order), end.broken)


def take_order():
    """Where the verdict is to be written, which prints do not reach from now on, and what is to be run."""
    verdict = os.dup(1)
    nowhere = os.open(os.devnull, os.O_RDWR)
    os.dup2(nowhere, 1)
    order = json.loads(sys.stdin.buffer.read())
    os.dup2(nowhere, 0)
    return verdict, order


def say(verdict, word, results, broken):
    """Writes the verdict and ends this process."""
    told = [(name, became, message[:MESSAGE]) for name, became, message in results]
    said = {"tests": told, "broken": broken, "clean": _is_clean()}
    data = memoryview(f"{word} {json.dumps(said)}\n".encode())
    while data:
        data = data[os.write(verdict, data) :]
    os._exit(0)


def style(name):
    """What runs tests of a style."""
    if name == "pytest":
        from pytest_running import run_pytest

        return run_pytest
    return running.STYLES[name]


def _prepare(end, order):
    """Lets tests import the program, `pytest`, and their own modules, whatever these are called."""
    modules = order["modules"]
    sources = "".join((*modules.values(), *order["statements"], order["setup"]))
    pytest = None
    if "pytest" in sources:
        import pytest_subset as pytest
    if "unittest" in sources:
        import unittest

        compares_plain_values(unittest.TestCase)
        running.without_differences(unittest)
    if "random" in sources:
        seeds_both(end)
    for name, module in list(sys.modules.items()):
        if name != "__main__" and (getattr(module, "__file__", None) or "").startswith(sys.path[0]):
            del sys.modules[name]
    del sys.path[0]
    if pytest is not None:
        sys.modules["pytest"] = pytest
    sys.meta_path.insert(0, Finder(end, frozenset(order["program"]) - sys.stdlib_module_names, modules))


def _is_clean():
    """Whether tests have left no file where the next ones would find it."""
    return {*os.listdir("/tmp")} <= {"work", ".warm.py"} and not os.listdir("/tmp/work")


if __name__ == "__main__":
    main()
