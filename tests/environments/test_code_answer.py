"""From completions, as people and models write them, to programs."""

from __future__ import annotations

import time

import pytest

from cascade.environments.code_answer import as_answer, blocks_of, code_in, continued, fenced, files_in

CODE = "import sys\nprint(sum(map(int, sys.stdin.read().split())))"
CPP = "#include <iostream>\nint main() { int a, b; std::cin >> a >> b; std::cout << a + b; }"


@pytest.mark.parametrize(
    "answer",
    [
        CODE,
        f"```python\n{CODE}\n```",
        f"Here:\n\n```Python3\n{CODE}\n```\nIt adds.",
        f"First idea:\n```python\nprint(1)\n```\nBetter:\n```py\n{CODE}\n```",
        f"```python\n{CODE}\n```\nIt prints\n```text\n3\n```\nor in C++\n```cpp\n{CPP}\n```",
        f"```python\n{CODE}\n```\nRun it:\n```\n```",
        f"~~~python\n{CODE}\n~~~",
        f"````python\n{CODE}\n````",
        f"```\n{CODE}\n```",
        f"```python\r\n{CODE}\r\n```\r\n".replace("sys\n", "sys\r\n"),
        f"```python\n{CODE}",
        f"{CODE}\n```",
        f"{CODE}\n```\nThis reads two numbers.",
        '1. Do it:\n\n   ```python title="main.py"\n   ' + CODE.replace("\n", "\n   ") + "\n   ```",
        f"```{{.python}}\n{CODE}\n```",
    ],
)
def test_a_python_program_is_found(answer: str) -> None:
    found = code_in(answer, "python")
    assert found is not None
    assert (found[0].strip(), found[1]) == (CODE, "python")


@pytest.mark.parametrize(
    "answer",
    ["", "  \n", "I do not know.", "```python\n```", "```python\n \n```", f"```cpp\n{CPP}\n```", "```json\n{}\n```",
     "The answer is 42", "x" * (8 * 2**20 + 1), "```python\nx = '" + "x" * 2**20 + "'\n```"],
)  # fmt: skip
def test_no_python_program_is_found(answer: str) -> None:
    assert code_in(answer, "python") is None


def test_the_fence_or_the_text_says_the_language_where_the_row_does_not() -> None:
    assert code_in(f"```cpp\n{CPP}\n```", None) == (CPP, "cpp")
    assert code_in(f"```c++17\n{CPP}\n```", "cpp") == (CPP, "cpp")
    assert code_in(f"```\n{CPP}\n```", None) == (CPP, "cpp")
    assert code_in(CPP, None) == (CPP, "cpp")
    assert code_in(CODE, None) == (CODE, "python")
    assert code_in(f"```cpp\n{CPP}\n```\n```python\n{CODE}\n```", None) == (CODE, "python")
    assert code_in("```\nmain() {}\n```", None, "cpp") == ("main() {}", "cpp")
    assert code_in(f"```python\n{CODE}\n```", "cpp") is None


@pytest.mark.parametrize(
    "answer",
    ["`" * 2**20, "```\n" * 2**18, "(" * 100_000, "```python\n" * 2**17, " " * 2**21, "\n" * 2**21, "a" * 2**21,
     "# " * 2**20, "```python\n" + "(" * 100_000 + "\n```", "```" + "x" * 2**20, "a." * 2**20, "~" * 2**20],
)  # fmt: skip
def test_answers_of_megabytes_are_read_in_linear_time(answer: str) -> None:
    began = time.process_time()
    code_in(answer, None)
    files_in(answer, ["a.py"])
    files_in(answer, ["a.py", "b.py"])
    continued(answer[: 2**20], "def f(x):\n", "f")
    assert time.process_time() - began < 5


PROMPT = (
    'from typing import List\n\n\ndef helper(x):\n    return x\n\n\ndef total(xs: List[int]) -> int:\n    """Adds."""\n'
)
BODY = "    result = 0\n    for x in xs:\n        result += helper(x)\n    return result"


@pytest.mark.parametrize(
    "answer",
    [
        BODY,
        f"\n{BODY}\n\n",
        BODY.strip(),  # what is left of it behind reasoning
        "\n".join(line.removeprefix("    ") for line in BODY.split("\n")),
        f"def total(xs: List[int]) -> int:\n{BODY}",
        f"{PROMPT}{BODY}",
        f"{PROMPT}{BODY}\n\n\nif __name__ == '__main__':\n    total([1])",
        "    if not xs:\n        return 0\n    return helper(xs[0]) + total(xs[1:])",
        "if not xs:\n        return 0\n    return helper(xs[0]) + total(xs[1:])",
        "if not xs:\n    return 0\nreturn helper(xs[0]) + total(xs[1:])",
        "return sum(map(helper, xs))",
        "    def add(a, b):\n        return a + b\n    from functools import reduce\n    return reduce(add, xs, 0)",
        f"from __future__ import annotations\ndef total(xs):\n{BODY.replace('helper(x)', 'x')}",
    ],
)
def test_continuations_bodies_functions_and_files_become_a_file(answer: str) -> None:
    names: dict[str, object] = {}
    exec(continued(answer, PROMPT, "total"), names)
    assert names["total"]([1, 2, 3]) == 6  # type: ignore[operator]


def test_a_prompt_that_ends_within_a_line_is_continued_there() -> None:
    assert continued(" x + 1", "def f(x):\n    return", "f") == "def f(x):\n    return x + 1"


def test_a_method_that_is_asked_for_follows_the_imports_of_the_prompt() -> None:
    text = "class Solution:\n    def add(self, a: int) -> List[int]:\n        return [a]"
    assert continued(text, "from typing import *\n", "Solution().add") == f"from typing import *\n\n\n{text}"


def test_files_are_known_by_their_names() -> None:
    named = "```python a.py\nA = 1\n```\nand `pkg/b.py`:\n```python\nB = 2\n```\n```python\n# c.py\nC = 3\n```\n"
    answer = f"{named}```python\nD\n```"
    names = ["a.py", "pkg/b.py", "c.py", "d.py"]
    assert files_in(answer, names) == {"a.py": "A = 1", "pkg/b.py": "B = 2", "c.py": "# c.py\nC = 3"}
    assert files_in("```python test_a.py\nassert True\n```", ["a.py", "b.py"]) is None
    assert files_in("```python ../a.py\nA\n```", ["a.py", "b.py"]) is None


def test_one_file_needs_no_name_and_no_other_is_taken() -> None:
    assert files_in("```python a_test.py\nA = 1\n```", ["a.py"]) == {"a.py": "A = 1"}
    assert files_in("A = 1", ["a.py"]) == {"a.py": "A = 1"}
    assert files_in("none", ["a.py"]) is None


@pytest.mark.parametrize("text", [CODE, 'x = """\n```python\nf()\n```\n"""', "s = '````'"])
def test_a_fenced_program_is_found_again_whatever_it_holds(text: str) -> None:
    assert code_in(f"So:\n\n{fenced(text)}\n\nDone.", "python") == (text, "python")


def test_a_solution_becomes_an_answer_unless_it_is_one() -> None:
    documented = '"""Adds.\n\n```python\nadd(1, 2)\n```\n"""\ndef add(a, b): return a + b'
    for solution in (CODE, documented):
        assert code_in(as_answer(solution, "python"), "python") == (solution, "python")
    assert as_answer(f"So:\n```python\n{CODE}\n```", "python") == f"So:\n```python\n{CODE}\n```"


def test_blocks_say_whether_they_end() -> None:
    assert [block.closed for block in blocks_of("```\na\n```\n```python\nb")] == [True, False]
