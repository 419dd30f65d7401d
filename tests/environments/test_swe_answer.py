"""Blocks and diffs are found in what models write, and applied exactly or not at all."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cascade.environments.patches import PatchError, make_diff
from cascade.environments.search_replace import apply_blocks, as_blocks, parse_blocks
from cascade.environments.swe_answer import changes_of

TREE = {
    "pkg/a.py": b"def f(x):\n    return x - 1\n\n\ndef g(x):\n    return x\n",
    "crlf.py": b"one\r\ntwo\r\n",
    "heading.rst": b"Title\n=======\n\ntext\n",
    "last.py": b"first\nlast",
    "empty.py": b"",
}
BLOCK = "### pkg/a.py\n<<<<<<< SEARCH\n    return x - 1\n=======\n    return x + 1\n>>>>>>> REPLACE"
AFTER = {"pkg/a.py": TREE["pkg/a.py"].replace(b"x - 1", b"x + 1")}
DIFF = make_diff({"pkg/a.py": TREE["pkg/a.py"]}, AFTER)


@pytest.mark.parametrize(
    "answer",
    [
        BLOCK,
        f"I think so.\n<solution>\n{BLOCK}\n</solution>\nDone.",
        f"<solution>\n```python\n{BLOCK}\n```\n</solution>",
        f"<solution>nothing</solution> or rather <solution>\n{BLOCK}\n</solution>",
        f"<solution>\n{BLOCK}",
        BLOCK.replace("### pkg/a.py", "### `pkg/a.py`"),
        BLOCK.replace("### pkg/a.py", "### File: pkg/a.py"),
        BLOCK.replace("### pkg/a.py", "### ./pkg/a.py"),
        DIFF,
        f"Here it is:\n\n{DIFF}\nThat is all.",
        f"<solution>\n{DIFF}</solution>",
        f"```diff\n{DIFF}```",
        f"Run this:\n```sh\nls\n```\nand\n```diff\n{DIFF}```\n",
        DIFF.removesuffix("\n"),
    ],
)
def test_an_answer_in_many_forms_means_one_change(answer: str) -> None:
    assert changes_of(answer, TREE.get) == AFTER


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "I do not know.",
        BLOCK.replace("    return x - 1", "return x - 1"),
        BLOCK.replace("return x - 1", "return"),
        BLOCK.replace("=======", "======"),
        BLOCK.replace(">>>>>>> REPLACE", ""),
        BLOCK.replace("### pkg/a.py\n", ""),
        BLOCK.replace("pkg/a.py", "pkg/b.py"),
        BLOCK.replace("pkg/a.py", "../a.py"),
        BLOCK.replace("pkg/a.py", "/etc/passwd"),
        BLOCK.replace("<<<<<<< SEARCH", "<<<<<<< SEARCH\n<<<<<<< SEARCH"),
        BLOCK.replace("    return x - 1", ""),
        f"{BLOCK}\n{BLOCK}",
        f"<solution>{BLOCK}\n</solution><solution></solution>",
        "x" * 1_000_001,
    ],
)
def test_what_means_nothing_or_does_not_fit_is_refused(answer: str) -> None:
    with pytest.raises(PatchError):
        changes_of(answer, TREE.get)


def test_what_is_searched_for_twice_is_refused() -> None:
    tree = {"m.py": b"a\nb\na\nb\n"}
    with pytest.raises(PatchError, match="exactly once"):
        changes_of("### m.py\n<<<<<<< SEARCH\na\n=======\nc\n>>>>>>> REPLACE", tree.get)
    assert changes_of("### m.py\n<<<<<<< SEARCH\nb\na\n=======\nc\n>>>>>>> REPLACE", tree.get) == {"m.py": b"a\nc\nb\n"}


def test_a_change_of_nothing_is_told_from_one_that_does_not_fit() -> None:
    assert changes_of(BLOCK.replace("x + 1", "x - 1"), TREE.get) == {}


def test_blocks_follow_each_other_and_a_path_stays_in_force() -> None:
    second = "<<<<<<< SEARCH\n    return x + 1\n=======\n    return x + 2\n>>>>>>> REPLACE"
    assert changes_of(f"{BLOCK}\n{second}", TREE.get)["pkg/a.py"] == TREE["pkg/a.py"].replace(b"x - 1", b"x + 2")


def test_a_block_with_an_empty_search_makes_or_fills_a_file() -> None:
    made = "### {}\n<<<<<<< SEARCH\n=======\nx = 1\n>>>>>>> REPLACE"
    assert changes_of(made.format("pkg/new.py"), TREE.get) == {"pkg/new.py": b"x = 1\n"}
    assert changes_of(made.format("empty.py"), TREE.get) == {"empty.py": b"x = 1\n"}


def test_lines_end_as_they_do_in_the_file() -> None:
    block = "### crlf.py\n<<<<<<< SEARCH\none\n=======\nuno\nmore\n>>>>>>> REPLACE"
    assert changes_of(block, TREE.get) == {"crlf.py": b"uno\r\nmore\r\ntwo\r\n"}
    block = "### last.py\n<<<<<<< SEARCH\nlast\n=======\nend\n>>>>>>> REPLACE"
    assert changes_of(block, TREE.get) == {"last.py": b"first\nend"}


def test_a_line_that_looks_like_a_divider_may_be_searched_for() -> None:
    block = "### heading.rst\n<<<<<<< SEARCH\nTitle\n=======\n\ntext\n=======\nTitle\n=======\n\nmore\n>>>>>>> REPLACE"
    assert changes_of(block, TREE.get) == {"heading.rst": b"Title\n=======\n\nmore\n"}


LINE = st.sampled_from(["a", "b", "c", "", "x = 1", "    y", "=======", "### z.py", "é", "```"])
TEXT = st.builds(lambda lines: "".join(f"{line}\n" for line in lines).encode(), st.lists(LINE, max_size=25))


@settings(max_examples=300, deadline=None)
@given(TEXT, TEXT)
def test_a_diff_as_blocks_does_the_same(before: bytes, after: bytes) -> None:
    read = {"m.py": before}.get
    diff = make_diff({"m.py": before}, {"m.py": after})
    if diff:
        try:
            text = as_blocks(diff, read)
        except PatchError:
            assert not before or not after or b"=======" in before + after
            return
        assert apply_blocks(parse_blocks(text), read) == {"m.py": after}


def test_a_file_that_is_deleted_or_moved_has_no_blocks() -> None:
    with pytest.raises(PatchError):
        as_blocks(make_diff({"crlf.py": TREE["crlf.py"]}, {}), TREE.get)
