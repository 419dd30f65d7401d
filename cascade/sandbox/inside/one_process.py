"""Tests and program in one process, for tests that reach into the program. It can cheat, if it goes looking.

Only for tests that ask for it by name. They lie in no file, exit codes and prints mean nothing, and a test after which
`unittest` or the built-in functions are not what they were has not passed; but the word that makes a verdict lies in
the memory of the process that the program runs in.
"""

import builtins
import os
import sys

from program_modules import Finder
from referee import say, style, take_order


class NoLine:
    """What `running` asks of the other end, where there is none."""

    def __init__(self):
        import unittest

        self._watched = [vars(each) for each in (builtins, unittest.case, unittest.TestCase, unittest.TestResult)]
        self._before = [dict(each) for each in self._watched]
        self._broken = ""

    @property
    def broken(self):
        """Why no test passes any more."""
        for now, before in zip(self._watched, self._before, strict=True):
            if any(now.get(name) is not value for name, value in before.items()):
                self._broken = "The program has changed what judges it."
        return self._broken


def main():
    """Runs the tests and ends."""
    verdict, order = take_order()
    end, run, word = NoLine(), style(order["style"]), order.pop("word")
    pytest = None
    if order["style"] == "pytest" or any("pytest" in source for source in order["modules"].values()):
        import pytest_subset as pytest
    for name, module in list(sys.modules.items()):
        if name != "__main__" and (getattr(module, "__file__", None) or "").startswith(sys.path[0]):
            del sys.modules[name]
    sys.path[0] = os.getcwd()
    if pytest is not None:
        sys.modules["pytest"] = pytest
    sys.meta_path.insert(0, Finder(None, frozenset(), order["modules"]))
    say(verdict, word, run(end, order), end.broken)


if __name__ == "__main__":
    main()
