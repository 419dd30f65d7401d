"""Agents in the loop of training: what they say is sampled, what tools say is read, and who is masked has no loss."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from cascade.config import RlStage
from cascade.data.rendering import bundled_template
from cascade.environments.swe_agentic import SweAgentic
from cascade.environments.tool_calls import xml_text
from cascade.prompts import Renderer
from cascade.rollout.fresh import SamplingEngine, grown
from cascade.rollouts import sample_groups
from cascade.step import to_sequences
from cascade.types import Group, Rollout, Row, VersionSpan
from cascade.verification.local import LocalVerifiers
from tests.environments.agents import REPAIR, SUBMIT, bash, record, view

SCRIPTS: dict[str, list[str]] = {
    "oracle": [xml_text([view("counting/words.py")]), xml_text([REPAIR]), xml_text([SUBMIT])],
    "no-op": [xml_text([bash("ls"), bash("cat setup.cfg")]), xml_text([SUBMIT])],
    "cut": [xml_text([REPAIR]), xml_text([bash("echo; seq 3000")]), "never sampled"],
    "looper": [xml_text([bash("while true; do :; done")]), *[xml_text([bash("sleep 9")])] * 3],
}
LIMIT = 6000  # tokens of an episode: what `cut` is shown leaves no room


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """A token a byte, and ChatML's two."""
    letters = ["<|im_start|>", "<|im_end|>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    backend = Tokenizer(models.BPE({letter: number for number, letter in enumerate(letters)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(letters[:2])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|im_end|>", pad_token="<|im_end|>")
    tokenizer.chat_template = bundled_template("chatml")
    return tokenizer


class Scripted(SamplingEngine):
    """Rollout i says what the i-th script says, turn by turn."""

    version = 0

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self.tokenizer = tokenizer
        self.said = [0] * len(SCRIPTS)

    def extend(
        self, rollouts: Sequence[Rollout], temperature: float, max_tokens: Sequence[int], seed: int
    ) -> list[Rollout]:
        return [self._turn(rollout, most) for rollout, most in zip(rollouts, max_tokens, strict=True)]

    def _turn(self, rollout: Rollout, most: int) -> Rollout:
        text = list(SCRIPTS.values())[rollout.index][self.said[rollout.index]]
        self.said[rollout.index] += 1
        tokens = [*self.tokenizer.encode(text, add_special_tokens=False), self.tokenizer.eos_token_id]
        assert len(rollout.token_ids) + len(tokens) <= most
        spans = [VersionSpan(0, len(tokens))]
        return grown(rollout, tokens, [-1.0] * len(tokens), spans, "stop", self.tokenizer)


@pytest.fixture(scope="module")
def group(tmp_path_factory: pytest.TempPathFactory) -> Group:
    environment = SweAgentic(
        command_time_s=4.0, episode_time_s=7.0, test_time_s=60.0, memory_mib=256, concurrency=2, shown=20_000
    )
    row = Row("swe/1", "swe", "swe", environment.read(record(tmp_path_factory.mktemp("swe"))))
    tokenizer = byte_tokenizer()
    renderer = Renderer({"swe": environment}, {"swe": False}, tokenizer)
    arguments: dict[str, Any] = {"samples": len(SCRIPTS), "temperature": 1.0, "max_tokens": {"swe": LIMIT}, "seed": 0}
    verifiers = LocalVerifiers({"swe": environment}, {})
    (found,) = sample_groups(Scripted(tokenizer), renderer, verifiers, [renderer.prompt(row)], **arguments)
    assert len(environment._live) == 0
    return found


def named(group: Group) -> dict[str, Rollout]:
    return dict(zip(SCRIPTS, group.rollouts, strict=True))


def test_rewards_masks_and_endings(group: Group) -> None:
    assert not [rollout.failure for rollout in group.rollouts if rollout.failure]
    scores = {name: rollout.score for name, rollout in named(group).items() if rollout.score}
    assert {name: (score.reward, score.masked) for name, score in scores.items()} == {
        "oracle": (1.0, False), "no-op": (0.0, False), "cut": (1.0, True), "looper": (0.0, True),
    }  # fmt: skip
    ended = {
        name: [part for part, value in score.parts.items() if value and "ended" in part]
        for name, score in scores.items()
    }
    assert ended == {
        "oracle": ["ended_submitted"], "no-op": ["ended_submitted"], "cut": ["ended_tokens"],
        "looper": ["ended_wall_clock"],
    }  # fmt: skip
    assert named(group)["cut"].finish_reason == "length"


def test_what_tools_say_is_read_and_not_learnt(group: Group) -> None:
    rollout = named(group)["oracle"]
    assert "def longest(text):" in rollout.text
    assert rollout.sampled_tokens == sum(len(text.encode()) + 1 for text in SCRIPTS["oracle"])
    assert len(rollout.token_ids) > rollout.sampled_tokens + 150
    assert named(group)["no-op"].text.count("<tool_response>") == 2


def test_masked_rollouts_have_no_loss_and_the_others_have_theirs(group: Group) -> None:
    stage = RlStage(mix={"swe": 1.0}, max_steps=1, learning_rate=1e-6)
    sequences = dict(zip(SCRIPTS, to_sequences(group, stage), strict=True))
    assert {name: sequence.loss_tokens > 0 for name, sequence in sequences.items()} == {
        "oracle": True, "no-op": True, "cut": False, "looper": False,
    }  # fmt: skip
    assert sequences["oracle"].advantage > 0 > sequences["no-op"].advantage
    whole = dataclasses.replace(group, rollouts=group.rollouts[:2])
    assert all(sequence.loss_tokens for sequence in to_sequences(whole, stage))
