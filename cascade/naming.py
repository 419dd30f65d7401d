"""Did you mean: the nearest valid name to a wrong one."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

MANY = 12  # valid names; more of them hide the hint


def nearest(name: str, valid: Iterable[str], what: str) -> str:
    """The second sentence of an error about a wrong name."""
    names = sorted(str(option) for option in valid)
    close = closest(name, names)
    hint = f"Did you mean `{close}`?" if close else ""
    if close and len(names) > MANY:
        return hint
    return f"{hint} Valid {what} names: {', '.join(names) or 'none'}.".lstrip()


def closest(name: str, valid: Iterable[str]) -> str | None:
    """The valid name that is most like `name`; None when none is much like it."""
    return next(iter(difflib.get_close_matches(name, [str(option) for option in valid], n=1, cutoff=0.55)), None)
