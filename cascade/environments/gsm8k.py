"""math: grade-school word problems (Cobbe et al. 2021), answered by a number after `####`."""

from __future__ import annotations

import gzip
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

from cascade.errors import ConfigError, DataError
from cascade.types import Message, Row, Score, Split

INSTRUCTION = "Solve it step by step, then give the final number on a line of its own as: #### N"
HUB_CONFIG = "main"  # openai/gsm8k also has "socratic", with other reference answers
MAX_DIGITS = 40  # longer is no answer to these questions, and int() is quadratic

_CALCULATOR = re.compile(r"<<[^<>]*>>")
_FINAL = re.compile(r"####[ \t]*(?P<hash>[^\n]*)|\\boxed\{(?P<boxed>[^{}\n]*)\}")
_TOKEN = re.compile(r"[-+0-9.,/]*[0-9][-+0-9.,/]*")
_NUMBER = re.compile(r"(?P<top>[-+]?(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]*)(?:\.[0-9]*)?)(?:/(?P<bottom>0*[1-9][0-9]*))?")


@dataclass(frozen=True, kw_only=True)
class Gsm8k:
    """Rows with `question` and `answer` from two sources, each a path to `.jsonl` or `.jsonl.gz`, or a hub id.

    Validation is cut from train by a hash of the question, so it is the same for every seed; a train question that
    is also a test question is dropped. `seed` chooses which rows stay when `train_rows` keeps fewer than there are.
    """

    domain: ClassVar[str] = "math"
    name: str = "gsm8k"
    seed: int = 0
    train: str = "openai/gsm8k"
    test: str = "openai/gsm8k"
    validation_rows: int = 256
    train_rows: int | None = None  # None: all
    test_rows: int | None = None

    def __post_init__(self) -> None:
        for key, value in (("train_rows", self.train_rows), ("test_rows", self.test_rows)):
            if value is not None and value < 1:
                raise ConfigError(f"{self.name}.{key} is {value}.", "Give a number of rows, or null for all of them.")
        if self.validation_rows < 1:
            raise ConfigError(f"{self.name}.validation_rows is {self.validation_rows}.", "Cut off at least one row.")

    def rows(self, split: Split) -> Sequence[Row]:
        """Distinct rows of a split in a fixed order. Raises `DataError` when a source is unreadable or too small."""
        test = _read(self.test, "test")
        if split == "test":
            return self._rows(_keep(test, self.test_rows, "test"))
        pool = {key: row for key, row in _read(self.train, "train").items() if key not in test}
        validation = _keep(pool, self.validation_rows, "validation")
        train = {key: row for key, row in pool.items() if key not in validation}
        if not train:
            raise DataError(
                f"{self.train} has {len(pool)} rows and validation_rows takes {self.validation_rows} of them.",
                "Lower validation_rows, or bring more rows.",
            )
        return self._rows(validation if split == "validation" else _keep(train, self.train_rows, f"train/{self.seed}"))

    def messages(self, row: Row) -> list[Message]:
        """The question, and how to end the answer."""
        return [{"role": "user", "content": f"{row.data['question']}\n\n{INSTRUCTION}"}]

    def gold(self, row: Row) -> str:
        """The reference solution without its calculator annotations `<<48/2=24>>`."""
        return _CALCULATOR.sub("", row.data["answer"])

    def score(self, row: Row, answer: str) -> Score:
        """1 when the last `#### N` or `\\boxed{N}` is the reference number; `format`: there was a number to read."""
        found, expected = final_number(answer), final_number(row.data["answer"])
        correct = float(found is not None and found == expected)
        return Score(correct, {"correct": correct, "format": float(found is not None)})

    def _rows(self, rows: Mapping[str, Mapping[str, Any]]) -> Sequence[Row]:
        return tuple(Row(f"{self.name}/{key}", self.domain, self.name, data) for key, data in rows.items())


def final_number(text: str) -> Fraction | None:
    """The number after the last `####` or in the last `\\boxed{}`, e.g. `#### $1,250.00.` -> 1250; None without one."""
    marks = list(_FINAL.finditer(text))
    if not marks:
        return None
    last = marks[-1]
    token = _TOKEN.search((last["hash"] if last["hash"] is not None else last["boxed"]).replace("\u2212", "-"))
    if token is None or len(token[0]) > MAX_DIGITS:
        return None
    number = _NUMBER.fullmatch(token[0].rstrip(".,/"))
    if number is None or not re.search("[0-9]", number["top"]):
        return None
    return Fraction(number["top"].replace(",", "").rstrip(".")) / int(number["bottom"] or 1)


def _keep(rows: Mapping[str, Mapping[str, Any]], count: int | None, salt: str) -> Mapping[str, Mapping[str, Any]]:
    """The `count` rows with the smallest salted hash, in the order they came."""
    if count is None or count >= len(rows):
        return rows
    chosen = set(sorted(rows, key=lambda key: hashlib.sha256(f"{salt}/{key}".encode()).digest())[:count])
    return {key: row for key, row in rows.items() if key in chosen}


@lru_cache(maxsize=8)
def _read(source: str, split: str) -> Mapping[str, Mapping[str, Any]]:
    """Content hash -> row, the first of equal questions only."""
    if Path(source).suffix in (".jsonl", ".gz", ".json") or Path(source).exists():
        records = _read_file(Path(source))
    else:
        records = _read_hub(source, split)
    rows: dict[str, Mapping[str, Any]] = {}
    for number, record in enumerate(records, 1):
        question, answer = record.get("question"), record.get("answer")
        if not isinstance(question, str) or not isinstance(answer, str) or final_number(answer) is None:
            raise DataError(
                f"Row {number} of {source} has no `question` or no `answer` that ends in `#### N`.",
                "Give every row both, as strings, like the rows of openai/gsm8k.",
            )
        key = hashlib.sha256(question.encode(errors="surrogatepass")).hexdigest()[:16]
        rows.setdefault(key, {"question": question, "answer": answer})
    return rows


def _read_file(path: Path) -> list[Mapping[str, Any]]:
    try:
        raw = path.read_bytes()
        lines = (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode().split("\n")
        records = [json.loads(line) for line in lines if line.strip()]
    except FileNotFoundError:
        raise DataError(
            f"GSM8K is not at {path}.",
            "Copy train.jsonl and test.jsonl of github.com/openai/grade-school-math there, or say openai/gsm8k.",
        ) from None
    except (OSError, EOFError, ValueError) as error:
        raise DataError(
            f"{path} cannot be read: {error}.", "Give JSON lines, one row a line, plain or gzipped."
        ) from error
    if not all(isinstance(record, dict) for record in records):
        raise DataError(f"{path} has lines that are not JSON objects.", "Give one object a line.")
    return records


def _read_hub(source: str, split: str) -> list[Mapping[str, Any]]:
    # Here and not at the top: it takes a second to import, and files need none of it.
    from datasets import load_dataset

    try:
        return [dict(record) for record in load_dataset(source, HUB_CONFIG, split=split)]
    except (OSError, ValueError) as error:
        raise DataError(
            f"{source} ({HUB_CONFIG}, {split}) is neither a file nor a data set the hub can load: {error}.",
            "Give the path of a .jsonl or .jsonl.gz file, or a hub id such as openai/gsm8k while online.",
        ) from error
