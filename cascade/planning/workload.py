"""What a step of a stage has to do: how many sequences, how long they are, what judging them costs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from statistics import NormalDist

from cascade.config import EnvironmentConfig, MopdStage, Recipe, RewardModelStage, RlStage, SamplingStage
from cascade.planning.flops import Documents


@dataclass(frozen=True)
class Usual:
    """What is assumed of a kind of environment where the recipe's `planning` says nothing."""

    prompt: int = 512  # tokens, mean
    demonstration: int = 0  # tokens of a conversation to learn from; 0: a prompt and its answer
    verdict_s: float = 0.01  # of a worker


# Prompts as long as those of the public data that the kind reads; `code`: 427.2 s on 384 cores for 2,048 programs
# (Nemotron-Cascade 2, section 4.7). Made-up environments have prompts of a line.
KINDS: Mapping[str, Usual] = {
    "conversations": Usual(demonstration=4096),
    "code": Usual(prompt=700, verdict_s=80.0),
    "gsm8k": Usual(prompt=120),
    "gsm8k_program": Usual(prompt=200, verdict_s=0.3),
    "gsm8k_repair": Usual(prompt=250, verdict_s=0.3),
    "instruction_following": Usual(prompt=300, verdict_s=0.02),
    "maths": Usual(prompt=150, verdict_s=0.02),
    "multi_document_qa": Usual(prompt=16_384, verdict_s=2.0),
    "multiple_choice": Usual(prompt=300, verdict_s=0.001),
    "preference": Usual(prompt=1000, verdict_s=20.0),
    "preference_pairs": Usual(prompt=1000),
    "structured_output": Usual(prompt=800, verdict_s=0.02),
    "swe_agentic": Usual(prompt=4096, verdict_s=120.0),
    "swe_agentless": Usual(prompt=16_384, verdict_s=20.0),
    "workplace": Usual(prompt=2500, verdict_s=0.02),
}
SMALL = Usual(prompt=40, verdict_s=0.001)
"""Kinds that are made up here (`addition`, `word_operations`, ...)."""

UNKNOWN = Usual()
"""An environment of the user's own."""

QUANTILES = 24
"""Lengths that stand for the distribution of an environment's answers."""

TRAINED_OF_DEMONSTRATION = 0.75
"""Share of a conversation that the assistant wrote, and that is learnt."""


@dataclass(frozen=True)
class Answers:
    """Answers of one environment in a step: log-normal, cut at their limit."""

    environment: str
    count: float  # a step
    mean: float  # tokens, after the cut
    sigma: float  # of the log
    limit: int  # tokens
    prompt: float  # tokens, mean
    verdict_s: float
    judges: int  # verdicts that a judge works on at once; 0: workers of this machine judge

    @cached_property
    def _median(self) -> float:
        """Of the log-normal before the cut whose mean after it is `mean`; far above a limit that is the mean."""
        highest = self.limit * math.exp(5 * self.sigma)
        if not self.sigma or self.mean >= self.limit:
            return highest if self.mean >= self.limit else self.mean
        low, high = self.mean * math.exp(-(self.sigma**2)), highest
        for _ in range(50):
            middle = math.sqrt(low * high)
            low, high = (middle, high) if self._mean_of(middle) < self.mean else (low, middle)
        return high

    def quantile(self, share: float) -> float:
        """Tokens that this share of the answers does not exceed."""
        return self._at(self._median, share)

    def lengths(self) -> list[tuple[float, float]]:
        """(tokens, how many) for equal parts of the answers."""
        shares = [(part + 0.5) / QUANTILES for part in range(QUANTILES)]
        return [(self.quantile(share), self.count / QUANTILES) for share in shares]

    @property
    def longest(self) -> float:
        """Tokens of the longest of them: its median."""
        return self.quantile(0.5 ** (1 / max(1.0, self.count)))

    def _at(self, median: float, share: float) -> float:
        return min(float(self.limit), median * math.exp(self.sigma * NormalDist().inv_cdf(share)))

    def _mean_of(self, median: float) -> float:
        return sum(self._at(median, (part + 0.5) / 200) for part in range(200)) / 200


@dataclass(frozen=True)
class StageWork:
    """One step of a stage."""

    documents: Documents  # that are trained on, each with its prompt
    sequences: int  # how many they are
    loss_tokens: float
    prompt_tokens: float
    completion_tokens: float  # sampled, or learnt from demonstrations
    prompts: int = 0  # different ones that are sampled from; 0: nothing is sampled
    answers: tuple[Answers, ...] = ()

    @property
    def tokens(self) -> float:
        """Read in training."""
        return self.documents.tokens

    @property
    def longest(self) -> float:
        """Tokens of the longest answer of a step."""
        return max((answers.longest for answers in self.answers), default=0.0)


def usual(environment: EnvironmentConfig) -> Usual:
    """What is assumed of an environment of this kind."""
    if environment.kind in KINDS:
        return KINDS[environment.kind]
    return UNKNOWN if "." in environment.kind else SMALL


def stage_work(recipe: Recipe, name: str) -> StageWork:
    """What one step of the stage has to do, as far as the recipe and its `planning` tell."""
    stage = recipe.stages[name]
    total = sum(stage.mix.values())
    shares = {environment: weight / total for environment, weight in stage.mix.items()}
    if isinstance(stage, SamplingStage):
        return _sampled(recipe, stage, shares)
    sides = 2 if isinstance(stage, RewardModelStage) else 1
    return _demonstrated(recipe, stage.batch_size * sides, shares, sides)


def _sampled(recipe: Recipe, stage: RlStage | MopdStage, shares: Mapping[str, float]) -> StageWork:
    sequences = stage.prompts_per_step * stage.num_generations
    answers = tuple(_answers(recipe, stage, environment, share * sequences) for environment, share in shares.items())
    lengths = [(tokens + each.prompt, count) for each in answers for tokens, count in each.lengths()]
    sampled = sum(tokens * count for each in answers for tokens, count in each.lengths())
    prompts = sum(each.prompt * each.count for each in answers)
    return StageWork(Documents(tuple(lengths)), sequences, sampled, prompts, sampled, stage.prompts_per_step, answers)


def _answers(recipe: Recipe, stage: RlStage | MopdStage, name: str, count: float) -> Answers:
    environment, planning = recipe.environments[name], recipe.planning
    limit = min(environment.max_completion_length, stage.max_completion_length or environment.max_completion_length)
    mean = planning.completion_tokens.get(name, planning.mean_completion_share * limit)
    judge = environment.params.get("judge") or {}
    return Answers(
        environment=name,
        count=count,
        mean=max(1.0, min(float(mean), float(limit))),
        sigma=planning.length_sigma,
        limit=limit,
        prompt=prompt_tokens(recipe, name, limit),
        verdict_s=planning.verdict_s.get(name, usual(environment).verdict_s),
        judges=int(judge.get("concurrency", 32)) if judge else 0,
    )


def prompt_tokens(recipe: Recipe, name: str, limit: int) -> float:
    """Mean tokens of an environment's prompts: as planned, else those of its kind as far as a row has room."""
    planned = recipe.planning.prompt_tokens.get(name)
    row = recipe.policy.row_tokens
    environment = recipe.environments[name]
    asked = environment.params.get("target_tokens") or usual(environment).prompt
    return float(planned or max(1, min(int(asked), row // 4, row - limit)))


def _demonstrated(recipe: Recipe, count: int, shares: Mapping[str, float], sides: int) -> StageWork:
    lengths: list[tuple[float, float]] = []
    learnt = 0.0
    for name, share in shares.items():
        environment, number = recipe.environments[name], share * count
        limit = environment.max_completion_length
        whole = recipe.planning.demonstration_tokens.get(name) or usual(environment).demonstration
        if whole:
            mean, answer = float(whole), whole * TRAINED_OF_DEMONSTRATION
        else:
            answer = max(1.0, recipe.planning.mean_completion_share * limit)
            mean = prompt_tokens(recipe, name, limit) + answer
        row = recipe.policy.row_tokens
        spread = Answers(name, number, min(mean, row), recipe.planning.length_sigma, row, 0.0, 0.0, 0)
        lengths += spread.lengths()
        learnt += (number / 2 if sides == 2 else number * answer) if mean else 0.0  # a pair is scored, not predicted
    documents = Documents(tuple(lengths))
    learnt = min(learnt, documents.tokens)
    return StageWork(documents, count, learnt, documents.tokens - learnt, learnt)
