"""Did you mean: the nearest valid name to a wrong one."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest(name: str, valid: Iterable[str], what: str) -> str:
    """The second sentence of an error about a wrong name."""
    names = sorted(valid)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"Did you mean `{close[0]}`? " if close else ""
    return f"{hint}Valid {what} names: {', '.join(names) or 'none'}."
