"""The report: complete, self-contained, and deaf to what models write."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

import pytest

from cascade.errors import ConfigError
from cascade.run_folder import RunFolder, write_json
from cascade.tracking.report import write_report

VOID = {"meta", "br", "img", "link", "input", "hr"}


class Page(HTMLParser):
    """Tags and text of a page; fails on a tag that is not closed in order."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture
def page(run: RunFolder) -> Page:
    path = write_report(run.path)
    assert path == run.report
    return Page(path.read_text())


def test_it_needs_nothing_from_elsewhere_and_runs_nothing(page: Page) -> None:
    assert not {tag for tag, _ in page.tags} & {"script", "link", "img", "iframe", "object"}
    attributes = {(name, value) for _, attrs in page.tags for name, value in attrs.items()}
    assert not [name for name, _ in attributes if name in ("src", "href") or name.startswith("on")]
    assert not [value for _, value in attributes if "http" in (value or "") or "url(h" in (value or "")]


def test_hostile_rollouts_are_shown_as_text(page: Page) -> None:
    assert "</pre><script src='http://evil.example/x.js'>alert(1)</script>" in page.text
    assert "\x1b" not in page.text
    assert "\u202e" not in page.text


def test_it_says_what_happened(page: Page) -> None:
    words = " ".join(page.text.split())
    for expected in (
        "quick<run>",
        "Recipe quickstart;",
        "8 checkpoints",
        "1 gate failed",
        "best; rose 31.0 points",
        "0.610 ± 0.028",
        "fell 14.0 points",
        "FAILED: max_drop on instruction_following, 0.14 against a threshold of 0.05; the run went on with a warning.",
        "mopd_1 learns instruction_following from if_rl (id-if_rl-20)",
        "mopd_1 learns math from math_rl (id-math_rl)",
        "reward of if_rl, steps 1 to 40",
        "if_rl, step 40",
        "2.13.0",
        "name: quickstart",
        "pending",
    ):
        assert expected in words
    assert "loss of if_rl" not in words  # never a number


def test_it_can_be_read_without_seeing_it(page: Page) -> None:
    assert ("html", {"lang": "en"}) in page.tags
    assert all(attrs.get("scope") in ("row", "col") for tag, attrs in page.tags if tag == "th")
    drawings = [tag for tag, attrs in page.tags if tag == "svg" and attrs.get("role") == "img"]
    titles = [tag for tag, _ in page.tags if tag == "title"]
    assert len(titles) == len(drawings) + 1


def test_a_run_that_has_only_begun_has_a_report(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "begun")
    write_json(folder.stages_file, [{"name": "sft", "kind": "sft", "parent": None}])
    text = Page(write_report(folder.path).read_text()).text
    for expected in ("No stage has a score", "No stage has recorded metrics", "No stage has recorded rollouts"):
        assert expected in text


def test_a_rollout_file_that_cannot_be_read_is_left_out(run: RunFolder) -> None:
    (run.rollouts("sft") / "step_000041.parquet").write_text("not parquet")
    assert "sft, step 4" not in Page(write_report(run.path).read_text()).text


def test_a_folder_that_is_no_run_has_no_report(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is not a run"):
        write_report(tmp_path)
