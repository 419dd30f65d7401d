"""instruction_following: constraints of IFEval on few words, e.g. `have cat dog,3+ words,quoted` -> `"cat dog so"`.

The checkers are those of `instruction_following`; the prompts say in a word what its prompts say in a sentence.
"""

from __future__ import annotations

import functools
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from cascade.environments.constraints import Check, constraint, follows
from cascade.environments.procedural import ProceduralEnvironment, Task, at_least
from cascade.environments.word_operations import WORDS
from cascade.types import Row, Score

FILLER = "so"
KINDS = ("have", "times", "words", "slots", "end", "quoted")
MAX_CHARACTERS = 4096  # an answer is a few dozen; longer ones are not worth checking

_FORMS: Mapping[str, str] = {
    "keywords:existence": r"have (?P<keywords>[a-z ]+)",
    "keywords:frequency": r"(?P<frequency>\d) (?P<keyword>[a-z]+)",
    "length_constraints:number_words": r"(?P<num_words>\d)\+ words",
    "detectable_content:number_placeholders": r"(?P<num_placeholders>\d) \[\]",
    "startend:end_checker": r"end (?P<end_phrase>[a-z]+)",
    "startend:quotation": r"quoted",
}
"""What stands for an instruction of IFEval in a prompt; named groups are its arguments."""


@dataclass(frozen=True, kw_only=True)
class WordConstraints(ProceduralEnvironment):
    """`min_constraints` to `max_constraints` of six kinds; any answer that meets them all is right."""

    domain: ClassVar[str] = "instruction_following"
    name: str = "word_constraints"
    min_constraints: int = 2
    max_constraints: int = 4
    most: int = 4  # words asked for, at least

    def __post_init__(self) -> None:
        at_least("min_constraints", self.min_constraints, 1)
        at_least("max_constraints", self.max_constraints, self.min_constraints, len(KINDS))
        at_least("most", self.most, 2, 9)

    def draw(self, rng: random.Random) -> Task:
        kinds = set(rng.sample(KINDS, rng.randint(self.min_constraints, self.max_constraints)))
        one, two, often, last = rng.sample(WORDS, 4)
        said, words = [], []
        if "have" in kinds:
            words += [one, two]
            said.append(f"have {one} {two}")
        if "times" in kinds:
            words += [often] * 2
            said.append(f"2 {often}")
        if "words" in kinds:
            count = rng.randint(2, self.most)
            words += [FILLER] * (count - len(words))
            said.append(f"{count}+ words")
        if "slots" in kinds:
            slots = rng.randint(1, 2)
            words += [FILLER] * (slots - len(words))
            words = [f"[{word}]" for word in words[:slots]] + words[slots:]
            said.append(f"{slots} []")
        if "end" in kinds:
            words.append(last)
            said.append(f"end {last}")
        rng.shuffle(said)
        text = " ".join(words or [FILLER])
        return Task(",".join([*said, *["quoted"] * ("quoted" in kinds)]), f'"{text}"' if "quoted" in kinds else text)

    def score(self, row: Row, answer: str) -> Score:
        """1 when all constraints hold; `share` of them that do."""
        if len(answer) > MAX_CHARACTERS:
            return Score(0.0, {"share": 0.0})
        held = [follows(kind, check, answer) for kind, check in checks_of(row.data["question"])]
        return Score(float(all(held)), {"share": sum(held) / len(held)})


@functools.lru_cache(maxsize=20_000)
def checks_of(question: str) -> Sequence[tuple[str, Check]]:
    """The instructions of a prompt with their checks."""
    return tuple((kind, constraint(kind, arguments)) for kind, arguments in map(_instruction, question.split(",")))


def _instruction(said: str) -> tuple[str, dict[str, Any]]:
    """`end sky` -> `("startend:end_checker", {"end_phrase": "sky"})`."""
    for kind, form in _FORMS.items():
        if found := re.fullmatch(form, said):
            arguments: dict[str, Any] = {key: int(v) if v.isdigit() else v for key, v in found.groupdict().items()}
            if "keywords" in arguments:
                arguments["keywords"] = arguments["keywords"].split()
            if kind in ("keywords:frequency", "length_constraints:number_words"):
                arguments["relation"] = "at least"
            return kind, arguments
    raise ValueError(f"{said!r} is no constraint")
