"""A repository of two modules with an issue, small enough to be made in a test."""

from __future__ import annotations

from pathlib import Path

from cascade.environments.patches import make_diff
from cascade.environments.swe_rows import SweTask

FILES = {
    "pyproject.toml": '[tool.pytest.ini_options]\naddopts = "--strict-markers --cov=basket -p no:nothing"\n',
    "basket/__init__.py": "from basket.prices import total\nfrom basket.words import plural\n",
    "basket/prices.py": (
        "def total(prices, discount=0):\n"
        '    """The sum of prices, less a discount in per cent."""\n'
        "    whole = sum(prices)\n"
        "    return whole - whole * discount // 100\n"
        "\n"
        "\n"
        "def cheapest(prices):\n"
        "    if not prices:\n"
        '        raise ValueError("no prices")\n'
        "    return min(prices)\n"
    ),
    "basket/words.py": "def plural(word, count):\n    return word if count == 1 else word + 's'\n",
    "tests/conftest.py": "import pytest\n\n\n@pytest.fixture\ndef prices():\n    return [100, 250, 50]\n",
    "tests/test_prices.py": (
        "import pytest\n"
        "from basket.prices import cheapest, total\n"
        "\n"
        "\n"
        '@pytest.mark.parametrize("discount,expected", [(10, 360), (50, 200)])\n'
        "def test_discount(prices, discount, expected):\n"
        "    assert total(prices, discount) == expected\n"
        "\n"
        "\n"
        "def test_no_discount(prices):\n"
        "    assert total(prices) == 400\n"
        "\n"
        "\n"
        "def test_cheapest(prices):\n"
        "    assert cheapest(prices) == 50\n"
        "    with pytest.raises(ValueError):\n"
        "        cheapest([])\n"
    ),
    "tests/test_words.py": (
        "import unittest\n"
        "from basket import plural\n"
        "\n"
        "\n"
        "class TestPlural(unittest.TestCase):\n"
        "    def test_many(self):\n"
        "        self.assertEqual(plural('apple', 2), 'apples')\n"
        "\n"
        "    def test_one(self):\n"
        "        self.assertTrue(plural('apple', 1) == 'apple')\n"
    ),
}
SOURCE = "basket/prices.py"
GOOD = FILES[SOURCE]
BAD = GOOD.replace("whole - whole * discount // 100", "whole - discount // 100")
F2P = ("tests/test_prices.py::test_discount[10-360]", "tests/test_prices.py::test_discount[50-200]")
P2P = (
    "tests/test_prices.py::test_no_discount",
    "tests/test_prices.py::test_cheapest",
    "tests/test_words.py::TestPlural::test_many",
    "tests/test_words.py::TestPlural::test_one",
)
ISSUE = "A discount of 10 per cent has no effect: total([100, 250, 50], 10) should be 360."


def write_repository(folder: Path) -> Path:
    """The repository without the bug, in a new folder."""
    for path, text in FILES.items():
        place = folder / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
    return folder


def record() -> dict[str, object]:
    """A row of ours whose repository is the folder `repository` beside the file of rows."""
    good, bad = GOOD.encode(), BAD.encode()
    return {
        "instance_id": "basket-1",
        "repo": "example/basket",
        "base_commit": "0000",
        "problem_statement": ISSUE,
        "patch": make_diff({SOURCE: bad}, {SOURCE: good}),
        "test_patch": "",
        "FAIL_TO_PASS": list(F2P),
        "PASS_TO_PASS": list(P2P),
        "repository": "repository",
        "setup_patch": make_diff({SOURCE: good}, {SOURCE: bad}),
    }


def small_task(folder: Path) -> SweTask:
    """The same as a task; the repository is made in `folder`."""
    row = record()
    write_repository(folder / "repository")
    return SweTask(
        instance_id="basket-1",
        problem_statement=ISSUE,
        patch=str(row["patch"]),
        setup_patch=str(row["setup_patch"]),
        fail_to_pass=F2P,
        pass_to_pass=P2P,
        repository=str(folder / "repository"),
    )
