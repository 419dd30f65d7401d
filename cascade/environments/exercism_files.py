"""What tests of exercism's Python track import from `test_utils`, where a row does not bring it along."""

from __future__ import annotations

import re
from collections.abc import Iterable

NAME = "test_utils.py"
_IMPORTS = re.compile(r"^\s*from[ \t]+test_utils[ \t]+import[ \t]+FileLike\b", re.MULTILINE)

FILE_LIKE = """
class FileLike:
    def __init__(self, fail_something=True):
        self.is_open = self.was_open = self.did_something = False
        self.fail_something = fail_something

    def open(self):
        self.is_open, self.was_open = True, False

    def close(self):
        self.is_open, self.was_open = False, True

    def __enter__(self):
        self.open()
        return self

    def __exit__(self, *raised):
        self.close()

    def do_something(self):
        self.did_something = True
        if self.fail_something:
            raise Exception("Failed while doing something")
"""
"""Of the exercise error-handling."""


def lacking(tests: Iterable[str], given: Iterable[str]) -> dict[str, str]:
    """path -> text of what tests import and nobody gives."""
    return {NAME: FILE_LIKE} if NAME not in given and any(map(_IMPORTS.search, tests)) else {}
