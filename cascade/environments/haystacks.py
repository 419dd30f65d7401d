"""Haystacks: needles hidden in sentences, and key-value stores, drawn from a seed and as long as asked for."""

from __future__ import annotations

import functools
import itertools
import json
import random
import re
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from cascade.environments.documents import counter, paragraphs_of
from cascade.environments.procedural import at_least
from cascade.errors import ConfigError, DataError

Kind = Literal["needle", "key_value"]
FILLER = (
    "The grass on the hill is short and dry.", "A train left the station before noon.", "Nobody had opened the window.",
    "The baker sweeps the floor in the evening.", "Two boats lay in the harbour.", "It rained for most of the week.",
    "The letter was written in blue ink.", "She put the lamp back on the shelf.", "The road turns left at the mill.",
    "A dog slept under the wooden bench.", "They counted the chairs and went home.", "The clock in the hall is slow.",
    "He kept the old maps in a drawer.", "The market opens when the bell rings.", "Snow covered the roof of the barn.",
    "The kettle was still warm.", "A child drew a house with three doors.", "The bridge was painted last spring.",
)  # fmt: skip
FIRST = "amber ancient bitter bold brave bright calm clever cold crimson curious dusty eager early fair fierce gentle"
FIRST += " golden green happy heavy hidden hollow humble icy jolly keen kind lazy light little lively lonely loud lucky"
FIRST += (
    " mellow merry mighty misty narrow noble odd old pale patient plain proud quick quiet rapid rare rough royal rusty"
)
SECOND = (
    "anchor apple arrow badge barrel basket beacon bell bottle bridge bucket button cabin camera candle canyon carpet"
)
SECOND += (
    " castle cedar cherry circle cloud copper corner cotton cradle crystal desert drum eagle engine falcon feather"
)
SECOND += " fence forest fountain garden hammer harbor island jacket kettle ladder lantern lemon magnet meadow mirror"
ADJECTIVES, NOUNS = FIRST.split(), SECOND.split()
NUMBER_DIGITS = 7


class Haystack(NamedTuple):
    """What is hidden: every key with its values, and which keys are asked for."""

    pairs: dict[str, list[str]]
    asked: list[str]

    @property
    def expected(self) -> list[str]:
        return [value for key in self.asked for value in self.pairs[key]]


@dataclass(frozen=True, kw_only=True)
class Haystacks:
    """What `Recall` draws; its arguments are explained there. Raises `ConfigError` for what cannot be drawn."""

    task: Kind
    target_tokens: int
    keys: int
    queries: int
    values: int
    filler: str | None
    tokenizer: str | None

    def __post_init__(self) -> None:
        at_least("queries", self.queries, 1)
        at_least("values", self.values, 1)
        at_least("keys", self.keys, self.queries, len(ADJECTIVES) * len(NOUNS) // 2)
        needed = counter(None)(self._text(self.drawn("least"), []))
        if needed > self.target_tokens:
            said = f"target_tokens is {self.target_tokens}, and the needles alone have about {needed:.0f}."
            raise ConfigError(said, "Ask for more, or fewer keys.")

    def drawn(self, seed: str) -> Haystack:
        """Keys and values of a seed, all different; of `key_value` those that are asked for."""
        rng = random.Random(seed)
        if self.task == "key_value":
            names = [_uuid(rng) for _ in range(self.queries)]
            return Haystack({name: [_uuid(rng) for _ in range(self.values)] for name in names}, names)
        spots = rng.sample(range(len(ADJECTIVES) * len(NOUNS)), self.keys)
        names = [f"{ADJECTIVES[spot // len(NOUNS)]}-{NOUNS[spot % len(NOUNS)]}" for spot in spots]
        first = 10 ** (NUMBER_DIGITS - 1)
        numbers = iter(rng.sample(range(first, 10 * first), self.keys * self.values))
        pairs = {name: [str(next(numbers)) for _ in range(self.values)] for name in names}
        return Haystack(pairs, names[: self.queries])

    def prompt(self, seed: str) -> str:
        """The prompt of a seed, with as much around the needles as fits."""
        hidden, rng, count = self.drawn(seed), random.Random(f"{seed}/filler"), counter(self.tokenizer)
        separator = ",\n" if self.task == "key_value" else " "
        left = self.target_tokens - count(self._text(hidden, []))
        more: list[str] = []
        for piece in self._pieces(rng):
            left -= count(piece + separator)
            if left < 0:
                break
            more.append(piece)
        return self._text(hidden, more, rng)

    def _pieces(self, rng: random.Random) -> Iterator[str]:
        """Endless filler: sentences, or further lines of the store."""
        if self.task == "key_value":
            while True:
                yield _line(_uuid(rng), [_uuid(rng) for _ in range(self.values)])
        sentences = self._sentences
        at = rng.randrange(len(sentences))
        for place in itertools.count(at):  # real text in its own order from anywhere, ours at random
            yield sentences[place % len(sentences)] if self.filler else rng.choice(sentences)

    def _text(self, hidden: Haystack, more: Sequence[str], rng: random.Random | None = None) -> str:
        several = len(hidden.expected) > 1
        asked = _listed(hidden.asked)
        if self.task == "key_value":
            hay = [_line(key, values) for key, values in hidden.pairs.items()]
            text = "{\n" + ",\n".join(_mixed(hay, more, rng)) + "\n}"
            return (
                f"Below is a JSON object of keys and {'lists of ' * (self.values > 1)}values.\n\n{text}\n\n"
                f"Give the value{'s' * several} of {asked}, and nothing else."
            )
        hay = [f"The magic number of {key} is {value}." for key, values in hidden.pairs.items() for value in values]
        text = " ".join(_mixed(hay, more, rng))
        what = "all the magic numbers" if several else "the magic number"
        return f"Some magic numbers are hidden in this text.\n\n{text}\n\nGive {what} of {asked}, and nothing else."

    @functools.cached_property
    def _sentences(self) -> Sequence[str]:
        """The sentences of the filler, without those that could pass for a needle."""
        if not self.filler:
            return FILLER
        from cascade.data.datasets import load_rows

        texts: dict[str, None] = {}
        for record in load_rows(self.filler):
            text = record.get("text")
            found = [text] if isinstance(text, str) else [p.text for group in paragraphs_of(record) for p in group]
            texts.update(dict.fromkeys(found))
        sentences = [sentence for text in texts for sentence in re.split(r"(?<=[.!?])\s+", text) if sentence.strip()]
        sentences = [sentence for sentence in sentences if "magic number" not in sentence.lower()]
        if not sentences:
            raise DataError(f"{self.filler} has no text.", "Give rows with `text` or `context`.")
        return sentences


def _mixed(hay: Sequence[str], more: Sequence[str], rng: random.Random | None) -> list[str]:
    """The needles, in random order, at random places of what surrounds them, which keeps its order."""
    if rng is None:
        return [*hay, *more]
    places = sorted(rng.choices(range(len(more) + 1), k=len(hay)))
    needles = iter(rng.sample(hay, len(hay)))
    mixed, at = [], 0
    for place in places:
        mixed += [*more[at:place], next(needles)]
        at = place
    return [*mixed, *more[at:]]


def _line(key: str, values: Sequence[str]) -> str:
    return f"  {json.dumps(key)}: {json.dumps(values[0] if len(values) == 1 else list(values))}"


def _listed(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def _uuid(rng: random.Random) -> str:
    return str(uuid.UUID(int=rng.getrandbits(128), version=4))
