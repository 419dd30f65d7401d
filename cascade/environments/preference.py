"""preference: answers of a group compared in pairs by a generative reward model; rewards of RLHF.

Nemotron-Cascade 2 (arXiv 2603.19220, section 4.5) compares all pairs of a prompt's rollouts, Nemotron 3 Nano
(arXiv 2512.20848, section 3.3.2) circular neighbours in both orders; the rows are those of NeMo-Gym's `genrm_compare`.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cascade.environments.length_control import LengthControl, adjust
from cascade.environments.pairwise import NEUTRAL, Comparison, Pairing, base_scores, pairs, parse_comparison, won
from cascade.environments.pairwise_prompts import PromptStyle, question
from cascade.environments.preference_pairs import PreferencePairs
from cascade.environments.records import chat_message
from cascade.environments.row_source import RowEnvironment
from cascade.errors import ConfigError, DataError, FailureKind, VerifierFailure
from cascade.judging.client import Judge, judge_of
from cascade.judging.config import JudgeConfig
from cascade.judging.quoting import MAX_CHARS
from cascade.types import Attempt, Message, Row, Score

Judged = Comparison | VerifierFailure


@dataclass(frozen=True, kw_only=True)
class Preference(RowEnvironment):
    """Conversations to be answered; of `reference`, or of `chosen` and `rejected`, a row may have either or none.

    Attempts at one row are judged against each other: the reward is the mean of what a judge gives each answer over
    its comparisons, from 1 to 5 with a tie-break of up to 2.5, and what `LengthControl` makes of it. One attempt alone
    is judged against the row's own answer, and rewarded with the share of comparisons that it wins. Only answers are
    shown to the judge, never reasoning.
    """

    name: str = "preference"
    domain: str = "preference"
    judge: JudgeConfig
    prompt_style: PromptStyle = "genrm"
    principle: str | None = None  # what to judge by, where a row has no `principle` of its own
    pairing: Pairing = "all"
    both_orders: bool = True  # half the calls where false, and a judge's taste for the first answer is noise
    judges_per_pair: int = 1  # replies asked for on each pair and order
    max_answer_chars: int = MAX_CHARS  # of an answer, and of a message before it, that the judge is shown
    parse_retries: int = 3  # further replies asked for where one has no verdict; none at temperature 0
    reasoning_bonus: float = 0.5
    answer_bonus: float = 0.5
    top_percentile: float = 0.2
    group_reasoning_length_penalty_coeff: float = 0.5
    group_answer_length_penalty_coeff: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        for key in LengthControl.__dataclass_fields__:
            if not 0 <= getattr(self, key) < float("inf"):
                raise ConfigError(f"{key} is {getattr(self, key)}.", "Give 0 or more.")
        if self.top_percentile > 1:
            raise ConfigError(f"top_percentile is {self.top_percentile}.", "Give a share, e.g. 0.2.")
        for key, least in (("judges_per_pair", 1), ("parse_retries", 0), ("max_answer_chars", 1)):
            if getattr(self, key) < least:
                raise ConfigError(f"{key} is {getattr(self, key)}.", f"Choose at least {least}.")

    @property
    def concurrency(self) -> int:
        """As many groups at once as the judge takes questions, so that the end of one leaves no gap."""
        return self.judge.concurrency

    def fields(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """`chosen`, `reference` and `principle` where the row has them; `messages` where its pair holds the prompt."""
        found: dict[str, Any] = {}
        if record.get("chosen") is not None and record.get("rejected") is not None:
            whole = PreferencePairs().fields(record)["chosen"]
            if isinstance(whole, str):
                raise DataError("The row is text without a prompt.", "Give it a `prompt`.")
            found = {"messages": whole[:-1], "chosen": whole[-1]["content"]}
        elif record.get("chosen") is not None:
            found["chosen"] = _answer(record["chosen"], "chosen")
        if record.get("reference") is not None:
            found["reference"] = _answer(record["reference"], "reference")
        if (principle := record.get("principle")) is not None:
            if not isinstance(principle, str):
                raise DataError(f"`principle` is {type(principle).__name__}.", "Give text.")
            found["principle"] = principle
        return found

    def read(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """Raises `DataError` for a row that has no prompt: nothing can be judged without."""
        data = super().read(record)
        if not data.get("messages"):
            raise DataError("The row has no prompt.", "Give it a `prompt`, or NeMo-Gym's `responses_create_params`.")
        return data

    def gold(self, row: Row) -> str:
        """The answer that people prefer."""
        known = row.data.get("chosen", row.data.get("reference"))
        if known is None:
            raise DataError(f"{row.id} has no answer of its own.", "Give it `chosen`, if its gold is needed.")
        return known

    def score(self, row: Row, answer: str) -> Score:
        """The share of comparisons with the row's own answer that this one wins. Raises `VerifierFailure`."""
        return self._against_own(row, answer)

    def score_group(self, row: Row, attempts: Sequence[Attempt]) -> Sequence[Score | VerifierFailure]:
        """The reward of every attempt, or why it has none: the judge answered in none of its comparisons."""
        answers = [attempt.answers[-1] if attempt.answers else "" for attempt in attempts]
        if len(attempts) == 1:
            return [self._against_own(row, answers[0])]
        played = pairs(self.pairing, len(attempts), self.both_orders) * self.judges_per_pair
        judged = self._compare(row, [(answers[i], answers[j]) for i, j in played])
        matches = [(pair, found) for pair, found in zip(played, judged, strict=True) if isinstance(found, Comparison)]
        base = base_scores(len(attempts), matches)
        kept = [place for place, score in enumerate(base) if score is not None]
        adjusted = adjust(
            [score for score in base if score is not None],
            ["".join(attempts[place].reasoning) for place in kept],
            [answers[place] for place in kept],
            self._length_control,
        )
        scores: list[Score | VerifierFailure] = [_failure(place, played, judged) for place in range(len(attempts))]
        for place, reward in zip(kept, adjusted, strict=True):
            own = [comparison for pair, comparison in matches if place in pair]
            scores[place] = Score(
                reward.reward,
                {
                    "base": base[place] or 0.0,
                    "reasoning_bonus": reward.reasoning_bonus,
                    "answer_bonus": reward.answer_bonus,
                    "reasoning_length": reward.reasoning_length,
                    "answer_length": reward.answer_length,
                    "comparisons": float(len(own)),
                    "without_verdict": float(sum(not comparison.parsed for comparison in own)),
                },
            )
        return scores

    def metrics(self) -> dict[str, float]:
        """What the judge was asked in this process, and what it cost, e.g. `judge/requests`."""
        return self._judge.metrics()

    @property
    def _judge(self) -> Judge:
        return judge_of(self.judge)

    @property
    def _length_control(self) -> LengthControl:
        return LengthControl(**{key: getattr(self, key) for key in LengthControl.__dataclass_fields__})

    def _against_own(self, row: Row, answer: str) -> Score:
        known = row.data.get("reference", row.data.get("chosen"))
        if known is None:
            said = f"{row.id} has no `reference` and no `chosen` to judge one attempt against"
            raise VerifierFailure(FailureKind.DATA, said)
        if answer.strip() in (known.strip(), row.data.get("chosen", known).strip()):
            return Score(1.0, {"identical": 1.0})
        judged = self._compare(row, [(answer, known), (known, answer)] * self.judges_per_pair)
        found = [(i % 2, one) for i, one in enumerate(judged) if isinstance(one, Comparison) and one.parsed]
        if not found:
            failed = next((one for one in judged if isinstance(one, VerifierFailure)), None)
            said = f"the judge {self.judge.model} replied without a verdict"
            raise failed or VerifierFailure(FailureKind.INFRASTRUCTURE, said)
        share = sum(won(comparison, place) for place, comparison in found) / len(found)
        return Score(share, {"comparisons": float(len(found)), "identical": 0.0})

    def _compare(self, row: Row, answers: Sequence[tuple[str, str]]) -> list[Judged]:
        """What the judge says of every two answers; asked again where it gives no verdict, then `NEUTRAL`.

        `answers` holds what is to be judged `judges_per_pair` times as often, one round after the other.
        """
        principle, messages = row.data.get("principle", self.principle), self.messages(row)
        ask = functools.partial(question, self.prompt_style, messages, principle, self.max_answer_chars)
        asked, a_round = [ask(*two) for two in answers], len(answers) // self.judges_per_pair
        judged: list[Judged] = [NEUTRAL] * len(answers)
        left = list(range(len(answers)))
        for again in range(1 + (self.parse_retries if self.judge.temperature > 0 else 0)):
            # An equal question with another sample number is asked again, not answered from the cache.
            replies = self._judge.ask_all((asked[i], i // a_round + again * self.judges_per_pair) for i in left)
            for i, reply in zip(left, replies, strict=True):
                judged[i] = reply if isinstance(reply, VerifierFailure) else parse_comparison(reply.text) or NEUTRAL
            left = [i for i in left if judged[i] is NEUTRAL]
            if not left:
                break
        return judged


def _failure(place: int, played: Sequence[tuple[int, int]], judged: Sequence[Judged]) -> VerifierFailure:
    """Why an attempt has no reward: the first of its comparisons that failed."""
    failed = (found for pair, found in zip(played, judged, strict=True) if place in pair)
    nothing = VerifierFailure(FailureKind.INFRASTRUCTURE, "no comparison was asked for")
    return next((found for found in failed if isinstance(found, VerifierFailure)), nothing)


def _answer(value: Any, name: str) -> str:
    """An answer given as text, or as messages of which the last is the assistant's. Raises `DataError`."""
    if isinstance(value, str):
        return value
    if not isinstance(value, Sequence) or not value:
        raise DataError(f"`{name}` is {type(value).__name__}.", "Give text, or messages.")
    last: Message = chat_message(value[-1])
    if last.get("role") != "assistant":
        raise DataError(f"`{name}` does not end with an assistant turn.", "Give a whole answer.")
    return last.get("content", "")
