"""Reading text in five formats: what it means, and what it is refused for."""

from __future__ import annotations

import resource
import time
from typing import Any

import pytest

from cascade.environments.formats import read
from cascade.environments.reading_limits import MAX_CHARACTERS, MAX_DEPTH, MAX_VALUES, UnreadableError


@pytest.fixture(autouse=True)
def little_memory() -> Any:
    """What a text takes in memory is bounded too: a bomb ends in a MemoryError, and not the machine."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (4 << 30, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.mark.parametrize(
    "kind, text, value",
    [
        ("json", ' {"a": [1, 2.5, true, null, "é"]}\n', {"a": [1, 2.5, True, None, "é"]}),
        ("yaml", "a: 1\nb: [x, 2.5, yes, ~]\nc: &c {d: e}\nf: *c", None),
        ("yaml", "- a\n- {b: c}\n", ["a", {"b": "c"}]),
        ("toml", 'a = 1\nb = ["x"]\n[c]\nd = 2.5\n', {"a": 1, "b": ["x"], "c": {"d": 2.5}}),
        ("csv", "a,b\n1,\n\n2\n", [{"a": "1", "b": ""}, {"a": "2", "b": None}]),
        ("xml", "<a> x </a>", {"a": "x"}),
        ("xml", "<a/>", {"a": None}),
        ("xml", "<a><b>1</b><c/><b>2</b><b/></a>", {"a": {"b": ["1", "2", None], "c": None}}),
        ("xml", '<a k="v">x<b/>y</a>', {"a": {"@k": "v", "b": None, "#text": "xy"}}),
        ("xml", '<?xml version="1.0"?><!DOCTYPE a><a><![CDATA[<b>&amp;]]></a>', {"a": "<b>&amp;"}),
    ],
)
def test_texts_mean_what_their_formats_say(kind: str, text: str, value: Any) -> None:
    assert read(text, kind) == (value or {"a": 1, "b": ["x", 2.5, True, None], "c": {"d": "e"}, "f": {"d": "e"}})


REFUSED = {
    "json": [
        '{"a": 1, "a": 2}', '{"a": {"b": 1, "b": 1}}', "NaN", '{"a": Infinity}', "-Infinity", "1e999", "9" * 5000,
        "[" * 100_000, "[" * 100_000 + "]" * 100_000, '{"a":' * 100_000, "[" * 70 + "]" * 70, "```json\n{}\n```",
        "Here: {}", "{} {}", "{'a': 1}", "", "\ufeff{}", "\x00", "\ud800", '"' + "a" * MAX_CHARACTERS + '"',
    ],
    "yaml": [
        "a: 1\na: 2", "{a: 1, a: 1}", "1: a\n1.0: b", "<<: {a: 1}\nb: 2", "a: .nan", "a: -.inf", "a: " + "9" * 5000,
        "a: " + ":".join(["59"] * 3000), "a: 1" + ":1" * 400 + ".5", "[" * 100_000, "- " * 100_000, "&a [*a]",
        "&a {b: *a}", "!!python/object/apply:os.system [ls]", "!!bool x", "!!timestamp x", "!!int ''", "!!omap x",
        "? [a]\n: 1", "---\na\n---\nb", "```yaml\na: 1\n```", "a: 2001-99-99", "a: !!binary x", "\ud800", "a:\tb: c",
        "k0: &k0 [1]\n" + "".join(f"k{n + 1}: &k{n + 1} [{','.join([f'*k{n}'] * 9)}]\n" for n in range(20)),
    ],
    "xml": [
        '<!DOCTYPE a [<!ENTITY x "y">]><a>&x;</a>', '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><a>&x;</a>',
        '<!DOCTYPE a [<!ATTLIST b c CDATA "x">]><a><b/></a>', "<a>&undefined;</a>", "<a>" * 100_000,
        "<a>" * 100_000 + "</a>" * 100_000, "<a><b></a></b>", "<a/><b/>", "", "text", "```xml\n<a/>\n```", "\ud800",
        ' <?xml version="1.0"?><a/>', "<a>\x00</a>", "<a b='1' b='2'/>",
        "<a>" + "<b/>" * (MAX_VALUES // 2) + "</a>" * 2,
    ],
    "toml": [
        "a = 1\na = 2", "[a]\n[a]", "a = nan", "a = inf", "a = 1e999", "a = " + "9" * 5000, "a = " + "[" * 100_000,
        "a." * 100_000 + "b = 1", "[" + "a." * 100_000 + "a]", "a = {b = " * 5000, "```toml\na = 1\n```", "\ud800",
        "a = 1979-99-99",
    ],
    "csv": ["a,a\n1,2", "a,b\n1,2,3", "a\r1", "a\n" + "x" * 200_000, ",".join(map(str, range(1000))) + "\n1" * 100_000],
}  # fmt: skip


@pytest.mark.parametrize(
    "kind, text",
    [(kind, text) for kind, texts in REFUSED.items() for text in texts],
    ids=lambda value: repr(value)[:40],
)
def test_hostile_and_malformed_texts_are_refused_in_little_time_and_memory(kind: str, text: str) -> None:
    started = time.process_time()
    with pytest.raises(UnreadableError):
        read(text, kind)
    assert time.process_time() - started < 2


def test_nesting_is_read_up_to_its_limit() -> None:
    deep = "[" * MAX_DEPTH + "]" * MAX_DEPTH
    assert read(deep, "json") == read(deep, "yaml")
    assert read(deep.replace("[]", "[1]"), "json") == read(deep.replace("[]", "[1]"), "yaml")
    with pytest.raises(UnreadableError, match="deep"):
        read(f"[{deep}]", "json")
    with pytest.raises(UnreadableError, match="deep"):
        read(f"[{deep}]", "yaml")


@pytest.mark.parametrize(
    "text",
    ["a:\tb", "a: [x, y?]", "a: ! b", "a: |# c\n  d", "a: {b:, c: d}", "a: [1:, 2]", "a\tb: c", "a: what?\nb: so!\n"],
)
def test_texts_that_libyaml_reads_otherwise_are_read_as_pyyaml_does(text: str) -> None:
    import yaml

    try:
        expected = yaml.safe_load(text)
    except yaml.YAMLError:
        with pytest.raises(UnreadableError):
            read(text, "yaml")
    else:
        assert read(text, "yaml") == expected
