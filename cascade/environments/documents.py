"""Paragraphs of question-answering rows, and prompts of many of them that are as long as asked for."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from cascade.errors import ConfigError, DataError

CHARS_A_TOKEN = 4  # of English text, about
MISSES = 20  # paragraphs in a row that do not fit, after which a prompt counts as full


class Paragraph(NamedTuple):
    """E.g. `Paragraph("Ed Wood", "Edward Davis Wood Jr. was an American filmmaker.")`."""

    title: str
    text: str


class Paragraphs(NamedTuple):
    """What a row brings: the paragraphs that hold its answer, and its own distractors."""

    gold: tuple[Paragraph, ...]
    others: tuple[Paragraph, ...] = ()


def paragraphs_of(record: Mapping[str, Any]) -> Paragraphs:
    """The paragraphs of a row of HotpotQA, as its authors or the hub have it, or of SQuAD. Raises `DataError`.

    HotpotQA's `context` is a list of [title, sentences] or an object of `title` and `sentences`; the paragraphs that
    `supporting_facts` names are gold, all of them where it names none. SQuAD's is one paragraph as text.
    """
    context = record.get("context")
    if context is None:
        return Paragraphs(())
    if isinstance(context, str) and context.strip():
        return Paragraphs((Paragraph(str(record.get("title") or ""), context),))
    try:
        pairs = _pairs(context, "sentences")
        facts = _pairs(record.get("supporting_facts") or [], "sent_id")
        every = tuple(Paragraph(title, "".join(sentences)) for title, sentences in pairs)
        named = {title for title, _ in facts}
    except (TypeError, ValueError, KeyError):
        raise DataError("`context` is no list of paragraphs.", "Give text, or [title, [sentence, ...]] each.") from None
    if not every or not all(isinstance(paragraph.title, str) and paragraph.text for paragraph in every):
        raise DataError("`context` has paragraphs without title or text.", "Give both as text.")
    gold = tuple(paragraph for paragraph in every if paragraph.title in named) or every
    return Paragraphs(gold, tuple(paragraph for paragraph in every if paragraph not in gold))


def filled(
    paragraphs: Paragraphs,
    pool: Sequence[Paragraph],
    rng: random.Random,
    tokens: float,
    limit: int | None,
    count: Callable[[str], float],
) -> list[Paragraph]:
    """The gold paragraphs among distractors, in random order: the row's own first, then drawn from the pool.

    Distractors are added while all of them together have at most `tokens` tokens by `count` and there are at most
    `limit` of them; a pool that is too small leaves fewer. The gold ones are always there.
    """
    chosen = list(paragraphs.gold)
    taken = {paragraph.text for paragraph in chosen}
    left = tokens - sum(count(shown(paragraph, len(chosen))) for paragraph in chosen)
    misses = 0
    for paragraph in _candidates(paragraphs.others, pool, rng):
        if misses >= MISSES or (limit is not None and len(chosen) - len(paragraphs.gold) >= limit):
            break
        if paragraph.text in taken:
            continue
        size = count(shown(paragraph, len(chosen)))
        if size > left:
            misses += 1
            continue
        misses, left = 0, left - size
        chosen.append(paragraph)
        taken.add(paragraph.text)
    rng.shuffle(chosen)
    return chosen


def shown(paragraph: Paragraph, number: int) -> str:
    """A paragraph in a prompt, e.g. `Document 3: Ed Wood` and its text below."""
    heading = f"Document {number}: {paragraph.title}".rstrip(": ")
    return f"{heading}\n{paragraph.text.strip()}\n\n"


def counter(tokenizer: str | None) -> Callable[[str], float]:
    """What counts the tokens of a text: a tokenizer by the path of its folder or hub id; None: four characters each.

    Raises `ConfigError` for a tokenizer that cannot be loaded.
    """
    return _counter(tokenizer) if tokenizer else _about


def _about(text: str) -> float:
    return len(text) / CHARS_A_TOKEN


@functools.cache
def _counter(tokenizer: str) -> Callable[[str], float]:
    from tokenizers import Tokenizer  # the fast tokenizers alone: transformers would bring torch

    path = Path(tokenizer).expanduser()
    try:
        if path.exists():
            loaded = Tokenizer.from_file(str(path / "tokenizer.json" if path.is_dir() else path))
        else:
            loaded = Tokenizer.from_pretrained(tokenizer)
    except Exception as error:  # noqa: BLE001  `tokenizers` raises bare exceptions
        raise ConfigError(f"The tokenizer {tokenizer} cannot be loaded: {error}.", "Name a folder or hub id.") from None

    @functools.lru_cache(maxsize=200_000)
    def count(text: str) -> int:
        return len(loaded.encode(text, add_special_tokens=False).ids)

    return count


def _candidates(own: Sequence[Paragraph], pool: Sequence[Paragraph], rng: random.Random) -> Iterable[Paragraph]:
    yield from rng.sample(own, len(own))
    if len(pool) < 200:
        yield from rng.sample(pool, len(pool))
        return
    for _ in range(4 * len(pool)):  # enough to meet nearly all of them, without shuffling a pool for every prompt
        yield pool[rng.randrange(len(pool))]


def _pairs(value: Any, second: str) -> list[tuple[Any, Any]]:
    """[title, what] pairs, also where they are columns: `{"title": [...], second: [...]}`."""
    if isinstance(value, Mapping):
        return list(zip(value["title"], value[second], strict=True))
    return [(title, what) for title, what in value]
