"""What the test files of QuixBugs find beside them: its loader of cases, its node, and that bugs are to be found."""

from __future__ import annotations

import re

MODULE = re.compile(r"^\s*from[ \t]+python_programs\.(\w+)[ \t]+import\b", re.MULTILINE)

_CONFTEST = """
import pytest

pytest.use_correct = False
pytest.run_slow = False
"""

_LOADER = """
import json

CASES = {cases!r}


def load_json_testcases(name):
    cases = [json.loads(line) for line in CASES.splitlines() if line.strip()]
    return [(given if isinstance(given, list) else [given], right) for given, right in cases]
"""

_NODE = """
class Node:
    def __init__(self, value=None, successor=None, successors=None, predecessors=None, incoming_nodes=None,
                 outgoing_nodes=None):
        self.value = value
        self.successor = successor
        self.successors = successors or []
        self.predecessors = predecessors or []
        self.incoming_nodes = incoming_nodes or []
        self.outgoing_nodes = outgoing_nodes or []
"""


def beside(cases: str) -> dict[str, str]:
    """path -> text. `cases`: arguments and value, a line of JSON each."""
    return {"conftest.py": _CONFTEST, "load_testdata.py": _LOADER.format(cases=cases), "node.py": _NODE}
