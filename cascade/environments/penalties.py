"""Penalties for attempts that are written wrongly, whatever they say: no answer, reasoning for an answer, stray tags.

They are those of the later recipes: NeMo-RL's `examples/nemo_gym/nemotron-3-ultra/*.yaml` zero the reward of such
attempts (`penalize_empty_final_answer`, `penalize_duplicated_reasoning`, `penalize_malformed_think_tag`).
"""

from __future__ import annotations

import dataclasses

from cascade.config import PenaltiesConfig
from cascade.reasoning import CLOSE, OPEN
from cascade.types import Attempt, Score


def faults(attempt: Attempt, thinking: bool) -> list[str]:
    """The names of the penalties that an attempt calls for. `thinking`: the prompt opened a block of reasoning."""
    found = {
        "empty_answer": not any(answer.strip() for answer in attempt.answers[-1:]),
        "reasoning_as_answer": any(
            thought.strip() and thought.strip() == answer.strip()
            for thought, answer in zip(attempt.reasoning, attempt.answers, strict=True)
        ),
        "think_tags": not all(tags_as_asked(turn, thinking) for turn in attempt.turns),
    }
    return [name for name, true in found.items() if true]


def tags_as_asked(turn: str, thinking: bool) -> bool:
    """Whether a turn has the tags of one block of reasoning at its start and no other.

    Thinking: one `</think>`, and no `<think>` but at the start, where a template that does not write it leaves it to
    the model. Not thinking: such a block of the model's own, or no tag. Where a tokenizer takes the tags for special
    tokens they are not in the text of an attempt, so this penalty is for tokenizers that do not.
    """
    opened = turn.lstrip().startswith(OPEN)
    if not thinking and not opened:
        return OPEN not in turn and CLOSE not in turn
    return turn.count(CLOSE) == 1 and turn.count(OPEN) == int(opened)


def penalise(score: Score, attempt: Attempt, penalties: PenaltiesConfig, thinking: bool) -> Score:
    """The score less its penalties, each in `parts` as e.g. `penalty/empty_answer`: what it would take on its own.

    They take a reward down to 0 and no further, and leave one that is not above 0 as it is: zeroing must not be a gift.
    """
    amounts = {
        "empty_answer": penalties.empty_answer,
        "reasoning_as_answer": penalties.reasoning_as_answer,
        "think_tags": penalties.think_tags,
    }
    taken = {f"penalty/{name}": amounts[name] for name in faults(attempt, thinking) if amounts[name]}
    if not taken:
        return score
    reward = max(score.reward - sum(taken.values()), 0.0) if score.reward > 0 else score.reward
    return dataclasses.replace(score, reward=reward, parts={**score.parts, **taken})
