"""The text of an issue, written from failed tests: what was done, what came, what should have come.

It says nothing that a failure does not say: no name of a file, no frame below the test.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence

from data.swe_packages import Package
from data.swe_suite import Failure
from data.swe_test_code import Witness, readable, witness

EXAMPLES = 3
SAYS_NO = ("AssertionError", "Failed")  # what a test raises itself
LONG = 800  # characters of a message
WRONG = ("{what} gives a wrong result", "Wrong result of {what}", "{what}: not the result one expects")
RAISES = ("{what} fails with `{error}`", "Unexpected `{error}` from {what}", "`{error}` when using {what}")
ACCEPTS = ("{what} does not raise `{error}` any more", "No `{error}` from {what}", "{what}: `{error}` is missing")
OPENINGS = (
    "With {package} {version}:",
    "I ran into this with {package} {version}.",
    "{package} {version} does not do what it should here:",
    "Steps to reproduce, with {package} {version}:",
)
ALSO = ("It also shows here:", "The same cause seems to be behind this:", "Another case:", "See also:")
CLOSINGS = ("", "", "This worked before.", "I would expect it to behave as documented.", "Can this be corrected?")


def issue_text(
    package: Package, failures: Mapping[str, Failure], read: Callable[[str], str], rng: random.Random
) -> str:
    """An issue in Markdown, in one of several wordings.

    Args:
        failures: how the tests of FAIL_TO_PASS failed, by node id.
        read: the text of a test file by its path.
    """
    (name, failure, first), *others = _examples(package, failures, read, rng)
    opening = rng.choice(OPENINGS).format(package=package.name, version=package.version)
    parts = [f"# {_title(package, name, failure, first, rng)}", opening]
    parts += [_code(first.code), _said(failure, first, rng)] if first.code else [_said(failure, first, rng)]
    if others:
        parts.append(rng.choice(ALSO))
        for _, failure, other in others:
            parts += [_code(other.code), _said(failure, other, rng)] if other.code else [_said(failure, other, rng)]
    parts.append(rng.choice(CLOSINGS))
    return "\n\n".join(part for part in parts if part) + "\n"


def _examples(
    package: Package, failures: Mapping[str, Failure], read: Callable[[str], str], rng: random.Random
) -> list[tuple[str, Failure, Witness]]:
    """Tests that are told of: one a function, those first whose failure says most in the fewest words."""
    functions: dict[str, list[str]] = {}
    for name in sorted(failures):
        functions.setdefault(name.split("[")[0], []).append(name)
    names = [rng.choice(functions[function]) for function in rng.sample(sorted(functions), len(functions))]
    told = [(name, failures[name], _witness(package, failures[name], read)) for name in names]
    told.sort(key=lambda each: (not each[2].code, "# ..." in each[2].code, len(each[1].message) > LONG))
    return told[:EXAMPLES]


def _witness(package: Package, failure: Failure, read: Callable[[str], str]) -> Witness:
    return witness(read(failure.place[0]) if failure.place else "", failure, package.name)


def _title(package: Package, name: str, failure: Failure, seen: Witness, rng: random.Random) -> str:
    words = name.split("[")[0].rpartition("::")[2].removeprefix("test_").removeprefix("test").replace("_", " ").strip()
    what = f"`{seen.called}`" if seen.called else f"{package.name}, {words}" if words else package.name
    if missing := _missing(failure):
        return rng.choice(ACCEPTS).format(what=what, error=missing)
    if failure.error not in SAYS_NO:
        return rng.choice(RAISES).format(what=what, error=failure.error)
    return rng.choice(WRONG).format(what=what)


def _said(failure: Failure, seen: Witness, rng: random.Random) -> str:
    """What came of an example, and what should have come."""
    missing = _missing(failure)
    if missing:
        forms = ("Expected: `{0}`. Actual: nothing is raised.", "Nothing is raised, where `{0}` should be.")
        return rng.choice(forms).format(missing)
    if seen.got and seen.wanted and max(len(seen.got), len(seen.wanted)) < 200 and seen.got != seen.wanted:
        shown = ("Expected `{1}`, got `{0}`.", "I get `{0}`; it should be `{1}`.", "Actual: `{0}`\nExpected: `{1}`")
        return rng.choice(shown).format(readable(seen.got), readable(seen.wanted))
    if failure.error in SAYS_NO:
        where = "" if _is_whole(seen) else f"This does not hold:\n\n{_code(seen.last)}\n\n"
        return where + _quoted(f"{failure.error}: {failure.message}" if failure.message else failure.error)
    return "It ends with\n\n" + _quoted(f"{failure.error}: {failure.message}" if failure.message else failure.error)


def _is_whole(seen: Witness) -> bool:
    """Whether the statement that failed is what ends the code that is shown."""
    return not seen.last or seen.code.endswith(seen.last)


def _missing(failure: Failure) -> str:
    """The exception that a test waited for in vain."""
    if failure.error == "Failed" and failure.message.startswith("DID NOT RAISE"):
        return failure.message.split()[-1].strip("<>'\"").rpartition(".")[2]
    if failure.error == "AssertionError" and failure.message.endswith(" not raised"):
        return failure.message.split()[0]
    return ""


def _code(text: str) -> str:
    return f"```python\n{text}\n```"


def _quoted(text: str) -> str:
    return f"```\n{readable(text)}\n```"


def failures_of(names: Sequence[str], failures: Mapping[str, Failure]) -> dict[str, Failure]:
    """Of those tests that are to be repaired; one that left no trace failed without a word."""
    return {name: failures.get(name, Failure("AssertionError", "", None)) for name in names}
