"""The files of a task that a prompt shows, wherever its code is: in a repository here, or in the row itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from cascade.environments.patches import Files
from cascade.environments.swe_repository import prepare
from cascade.environments.swe_retrieval import gold_files, retrieved_files
from cascade.environments.swe_rows import SweTask


@dataclass(frozen=True, slots=True)
class Localised:
    """What is shown of a task's code, and how to read all of it."""

    read: Files
    texts: Mapping[str, str]  # path -> text, best first
    share: float  # of the files that the oracle changes, how many are shown


def localise(task: SweTask, how: Literal["gold", "retrieved"] = "gold", top: int = 5) -> Localised:
    """The files that the oracle changes, or the `top` that an issue's words lead to.

    A task whose code is in an image shows the files that its row brings. Raises `DataError` for a repository that
    cannot be read.
    """
    wanted = gold_files(task)
    if not task.repository:
        known = {path: text.encode("utf-8", "surrogatepass") for path, text in task.shown_files}
        return Localised(known.get, dict(task.shown_files), _share(wanted, known))
    prepared = prepare(task)
    paths = wanted if how == "gold" and wanted else retrieved_files(task, prepared, top)
    texts = {path: text.decode("utf-8", "replace") for path in paths if (text := prepared.read(path)) is not None}
    return Localised(prepared.read, texts, _share([p for p in wanted if prepared.read(p) is not None], texts))


def _share(wanted: list[str] | tuple[str, ...], shown: Mapping[str, object]) -> float:
    return sum(path in shown for path in wanted) / len(wanted) if wanted else 0.0
