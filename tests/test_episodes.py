"""Episodes of several turns, sampled by a real engine: what is trained is what was sampled, with the rest masked."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedTokenizerBase

from cascade.config import RlStage, RolloutConfig
from cascade.data.characters import DEFAULT_ALPHABET, character_tokenizer
from cascade.data.chat import render_conversation
from cascade.data.rendering import bundled_template
from cascade.environments.calculator import REFUSAL, Calculator
from cascade.errors import FailureKind, VerifierFailure
from cascade.models.loading import build_model
from cascade.policy.export import save_folder
from cascade.ports import Environment
from cascade.prompts import Renderer
from cascade.rollout.hf import HfRolloutEngine
from cascade.rollouts import sample_groups
from cascade.step import to_sequences
from cascade.types import Group, Message, Rollout, Row, Score, Split
from cascade.verification.local import LocalVerifiers
from tests.tiny_models import KEYS, policy_config

# The prompt opens reasoning, which the template keeps over the output of tools and drops after another question.
REASONING = """\
{%- set last = namespace(question=-1) %}
{%- for message in messages if message.role == 'user' %}{% set last.question = messages.index(message) %}{% endfor %}
{%- for message in messages %}
  {{- '<|' ~ message.role ~ '|>' }}
  {%- if message.role == 'assistant' and message.reasoning_content and loop.index0 > last.question %}
    {{- '<think>\\n' ~ message.reasoning_content ~ '</think>\\n' }}
  {%- endif %}
  {{- message.content ~ '<|end|>' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|assistant|>' ~ ('<think>\\n' if enable_thinking else '') }}{% endif %}"""
PLAIN = character_tokenizer(DEFAULT_ALPHABET, bundled_template("characters"))
THINKING = character_tokenizer("\n </>abhiknt", REASONING)
THINKING.add_tokens(["</think>"])
LIMIT = 60


class Talk:
    """Answers everything, until an answer's length says that it is over."""

    domain = "tool_use"
    max_turns = 4

    def __init__(self, *roles: str) -> None:
        self.roles = roles  # of its messages, in turn

    def rows(self, split: Split) -> list[Row]:
        return [Row(f"talk/{word}", "tool_use", "talk", {"word": word}) for word in ("a", "bat", "ink in a hat", "tin")]

    def messages(self, row: Row) -> list[Message]:
        return [{"role": "user", "content": row.data["word"]}]

    def respond(self, row: Row, answers: Sequence[str]) -> list[Message] | None:
        if len(answers[-1]) % 5 == 1:
            return None
        role = self.roles[(len(answers) - 1) % len(self.roles)]
        return [{"role": role, "content": f"at{'ab'[len(answers[-1]) % 2]}"}]

    def gold(self, row: Row) -> str:
        return "a"

    def score(self, row: Row, answer: str) -> Score:
        return Score(float(len(answer)))

    def score_episode(self, row: Row, answers: Sequence[str]) -> Score:
        return Score(float(len(answers)), {f"turn{i}": float(len(answer)) for i, answer in enumerate(answers)})


class Recording(HfRolloutEngine):
    """Says of every call which tokens of which rollouts it sampled, and calls its weights newer after each."""

    calls: dict[tuple[str, int, int], list[tuple[tuple[int, ...], tuple[int, ...]]]]  # contexts and what followed
    seeds: dict[int, set[int]]  # by how often the context was rewritten

    def extend(
        self, rollouts: Sequence[Rollout], temperature: float, max_tokens: Sequence[int], seed: int
    ) -> list[Rollout]:
        extended = super().extend(rollouts, temperature, max_tokens, seed)
        for before, after in zip(rollouts, extended, strict=True):
            name = (after.prompt.row.id, after.index, len(after.earlier))
            fresh = after.token_ids[len(before.token_ids) :]
            self.calls.setdefault(name, []).append((before.prompt.token_ids + before.token_ids, fresh))
            self.seeds.setdefault(len(after.earlier), set()).add(seed)
        self._version += 1
        return extended


def write(folder: Path, tokenizer: PreTrainedTokenizerBase) -> Path:
    """An untrained model that speaks the tokenizer's language."""
    special = {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": None}
    save_folder(build_model("llama", KEYS["llama"], 3, len(tokenizer), special), folder, tokenizer, {}, None)
    return folder


def engine_of(folder: Path, tokenizer: PreTrainedTokenizerBase) -> Recording:
    engine = Recording(policy_config("llama"), RolloutConfig(), tokenizer)
    engine.calls, engine.seeds = {}, {}
    engine.load(folder)
    return engine


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Mapping[bool, Path]:
    """Whether it reasons -> a model's folder."""
    root = tmp_path_factory.mktemp("models")
    return {False: write(root / "plain", PLAIN), True: write(root / "thinking", THINKING)}


@dataclasses.dataclass
class World:
    """An engine, an environment and the renderer between them."""

    engine: Recording
    renderer: Renderer
    environment: Environment

    def sample(
        self, rows: Sequence[Row], samples: int = 6, limit: int = LIMIT, temperature: float = 1.3
    ) -> list[Group]:
        prompts = [self.renderer.prompt(row) for row in rows]
        return sample_groups(
            self.engine,
            self.renderer,
            LocalVerifiers(self.renderer.environments, {}),
            prompts,
            samples=samples,
            temperature=temperature,
            max_tokens={"talk": limit, "calculator": limit},
            seed=7,
        )


def world(folders: Mapping[bool, Path], environment: Any, *, reasons: bool = True) -> World:
    tokenizer = THINKING if reasons else PLAIN
    renderer = Renderer({"talk": environment}, {"talk": reasons or None}, tokenizer)
    return World(engine_of(folders[reasons], tokenizer), renderer, environment)


def every(groups: Sequence[Group]) -> list[Rollout]:
    return [rollout for group in groups for rollout in group.rollouts]


def turns_of(rollout: Rollout) -> int:
    return len(rollout.score.parts) if rollout.score else 0


ROLES = [("tool",), ("user",), ("tool", "user"), ("user", "tool", "tool")]


@pytest.mark.parametrize("roles", ROLES, ids=str)
def test_what_is_trained_is_what_was_sampled_and_nothing_else(
    folders: Mapping[bool, Path], roles: tuple[str, ...]
) -> None:
    talk = world(folders, Talk(*roles))
    groups = talk.sample(talk.environment.rows("train"))
    stage = RlStage(mix={"talk": 1.0}, max_steps=1, learning_rate=1e-3)
    for rollout in every(groups):
        for number, part in enumerate(rollout.parts):
            calls = talk.engine.calls[(rollout.prompt.row.id, rollout.index, number)]
            whole = part.prompt.token_ids + part.token_ids
            shown = [0] * len(whole)
            for before, fresh in calls:
                assert whole[: len(before) + len(fresh)] == before + fresh
                shown[len(before) : len(before) + len(fresh)] = [1] * len(fresh)
            assert shown == [0] * len(part.prompt.token_ids) + list(part.sampled or [1] * len(part.token_ids))
            assert len(part.sampled) in (0, len(part.token_ids))
            assert len(part.sampler_log_probs) == len(part.token_ids)
            assert part.sampled != (1,) * len(part.token_ids)
            assert sum(span.tokens for span in part.versions) == len(part.token_ids)
        assert rollout.policy_version == 0
    for group in groups:
        sequences = iter(to_sequences(group, stage))
        for rollout in group.rollouts:
            mine = [next(sequences) for _ in rollout.parts]
            assert sum(sequence.loss_tokens for sequence in mine) == rollout.sampled_tokens
            assert len({sequence.advantage for sequence in mine}) == 1
            for part, sequence in zip(rollout.parts, mine, strict=True):
                assert sequence.token_ids == part.prompt.token_ids + part.token_ids
                assert all(
                    mask or not value
                    for mask, value in zip(sequence.loss_mask, sequence.sampler_log_probs, strict=True)
                )
    drops = sum(len(rollout.earlier) for rollout in every(groups))
    assert (drops > 0) == ("user" in roles)
    assert len({turns_of(rollout) for rollout in groups[0].rollouts}) > 1, "all of a group took as many turns"


@pytest.mark.parametrize("roles", ROLES, ids=str)
def test_log_probs_of_every_part_are_those_of_one_forward_pass(
    folders: Mapping[bool, Path], roles: tuple[str, ...]
) -> None:
    talk = world(folders, Talk(*roles))
    model = AutoModelForCausalLM.from_pretrained(folders[True], dtype=torch.float32)
    compared = 0
    for rollout in every(talk.sample(talk.environment.rows("train")[:2])):
        for part in rollout.parts:
            ids = torch.tensor([part.prompt.token_ids + part.token_ids])
            with torch.no_grad():
                log_probs = (model(ids).logits[0, :-1] / 1.3).log_softmax(1)
            chosen = log_probs.gather(1, ids[0, 1:, None])[len(part.prompt.token_ids) - 1 :, 0]
            sampled = torch.tensor(part.sampled or [1] * len(part.token_ids))
            assert torch.allclose(chosen * sampled, torch.tensor(part.sampler_log_probs), atol=1e-5, rtol=0)
            compared += int(sampled.sum())
    assert compared > 100


def test_reasoning_goes_with_the_next_question_and_the_ids_of_the_answer_stay(folders: Mapping[bool, Path]) -> None:
    talk = world(folders, Talk("user"))
    closed, compared = THINKING.convert_tokens_to_ids("</think>"), 0
    for rollout in every(talk.sample(talk.environment.rows("train"), samples=20)):
        for before, after in zip(rollout.parts, rollout.parts[1:], strict=False):
            assert before.token_ids[-1] == THINKING.eos_token_id
            text = THINKING.decode(list(after.prompt.token_ids))
            assert text.count("<think>\n") == 1
            assert text.endswith("<|assistant|><think>\n")
            assert closed not in after.prompt.token_ids
            if closed in before.token_ids:
                last = len(before.token_ids) - before.token_ids[::-1].index(closed)
                answer = THINKING.decode(list(before.token_ids[last:])).lstrip()
                assert f"<|assistant|>{answer}<|user|>" in text
                compared += 1
    assert compared > 5


def test_episodes_do_not_depend_on_what_is_sampled_beside_them(folders: Mapping[bool, Path]) -> None:
    talk = world(folders, Talk("tool", "user"))
    rows = talk.environment.rows("train")
    together = {r.prompt.row.id: [] for r in every(talk.sample(rows, samples=1, limit=20))}
    for rollout in every(talk.sample(rows)):
        together[rollout.prompt.row.id].append([part.token_ids for part in rollout.parts])
    for row in rows[:2]:
        alone = [[part.token_ids for part in rollout.parts] for rollout in every(talk.sample([row]))]
        assert alone == together[row.id]


def test_a_rewritten_context_is_sampled_with_noise_of_its_own(folders: Mapping[bool, Path]) -> None:
    talk = world(folders, Talk("user"))
    talk.sample(talk.environment.rows("train"))
    assert len(talk.engine.seeds) > 2
    assert all(len(seeds) == 1 for seeds in talk.engine.seeds.values())
    assert len(set.union(*talk.engine.seeds.values())) == len(talk.engine.seeds)


def test_appended_tokens_are_of_the_weights_that_were_current(folders: Mapping[bool, Path]) -> None:
    talk = world(folders, Talk("tool"))
    rollouts = [rollout for rollout in every(talk.sample(talk.environment.rows("train"))) if turns_of(rollout) > 1]
    for rollout in rollouts:
        first = rollout.sampled.index(0)
        assert rollout.versions[0].tokens == first
        assert [span.version for span in rollout.versions] == list(range(turns_of(rollout)))
    assert rollouts


@pytest.mark.parametrize("limit", (8, 21, 40))
@pytest.mark.parametrize("roles", ROLES[:3], ids=str)
def test_an_episode_has_no_more_tokens_than_its_limit(
    folders: Mapping[bool, Path], roles: tuple[str, ...], limit: int
) -> None:
    talk = world(folders, Talk(*roles))
    cut_by_the_environment = 0
    for rollout in every(talk.sample(talk.environment.rows("train"), limit=limit)):
        appended = [part.token_ids[i] for part in rollout.parts for i, own in enumerate(part.sampled) if not own]
        assert rollout.sampled_tokens + len(appended) <= limit
        for part in rollout.parts:
            assert part.token_ids[-1] == 1 or rollout.finish_reason == "length"
            assert not part.sampled or part.sampled[-1], "nothing was sampled after the environment's last message"
        cut_by_the_environment += rollout.finish_reason == "length" and rollout.token_ids[-1] == 1
        assert rollout.score is not None
    assert cut_by_the_environment or limit > 8


def test_an_episode_ends_after_its_turns(folders: Mapping[bool, Path]) -> None:
    class Short(Talk):
        max_turns = 2

        def respond(self, row: Row, answers: Sequence[str]) -> list[Message] | None:
            assert len(answers) < self.max_turns
            return [{"role": "tool", "content": "a"}]

    talk = world(folders, Short())
    turns = {
        (turns_of(rollout), rollout.finish_reason) for rollout in every(talk.sample(talk.environment.rows("train")))
    }
    assert (2, "stop") in turns
    assert max(turns)[0] == 2


@pytest.mark.parametrize("kind", list(FailureKind))
def test_a_failure_of_the_environment_ends_one_episode_only(folders: Mapping[bool, Path], kind: FailureKind) -> None:
    class Broken(Talk):
        def respond(self, row: Row, answers: Sequence[str]) -> list[Message] | None:
            if row.id == "talk/a":
                raise VerifierFailure(kind, "no tool")
            return super().respond(row, answers)

    talk = world(folders, Broken("tool"))
    broken, *others = talk.sample(talk.environment.rows("train"))
    stopped = [rollout for rollout in broken.rollouts if rollout.finish_reason == "stop"]
    assert stopped
    for rollout in stopped:
        if kind is FailureKind.TASK:
            assert rollout.reward == 0.0
        else:
            assert rollout.score is None
            assert "no tool" in str(rollout.failure)
    assert all(rollout.score is not None for rollout in every(others))


def test_messages_that_cannot_be_rendered_are_a_failure_of_their_row(folders: Mapping[bool, Path]) -> None:
    class Foreign(Talk):
        def respond(self, row: Row, answers: Sequence[str]) -> list[Message] | None:
            return [{"role": "tool", "content": "Z" if row.id == "talk/a" else "a"}]

    talk = world(folders, Foreign())
    broken, *others = talk.sample(talk.environment.rows("train"))
    stopped = [rollout for rollout in broken.rollouts if rollout.finish_reason == "stop"]
    assert stopped
    assert all("no token for 'Z'" in str(rollout.failure) for rollout in stopped)
    assert all(rollout.score is not None for rollout in every(others))


def test_an_environment_that_waits_answers_many_episodes_at_once_and_to_the_same_end(
    folders: Mapping[bool, Path],
) -> None:
    class Slow(Talk):
        def __init__(self, *roles: str) -> None:
            super().__init__(*roles)
            self.lock, self.here, self.most = threading.Lock(), 0, 0
            self.threads: set[str] = set()

        def respond(self, row: Row, answers: Sequence[str]) -> list[Message] | None:
            with self.lock:
                self.here += 1
                self.most = max(self.most, self.here)
                self.threads.add(threading.current_thread().name)
            time.sleep(0.002 * (len(answers[-1]) % 3))  # so that they end in another order than they began
            with self.lock:
                self.here -= 1
            if row.id == "talk/tin" and len(answers) == 2:
                raise VerifierFailure(FailureKind.DATA, "no more")
            return super().respond(row, answers)

    class Waiting(Slow):
        concurrency = 3

    slow, waiting = Slow("tool", "user"), Waiting("tool", "user")
    waits, lonely = world(folders, waiting), world(folders, slow)
    rows = waits.environment.rows("train")
    together, alone = waits.sample(rows), lonely.sample(rows)
    assert [[part.token_ids for part in r.parts] for r in every(together)] == [
        [part.token_ids for part in r.parts] for r in every(alone)
    ]
    assert [(r.score, r.failure) for r in every(together)] == [(r.score, r.failure) for r in every(alone)]
    assert any(r.failure for r in every(together))
    assert waiting.most == 3
    assert not any(thread.is_alive() and thread.name.startswith("answer-") for thread in threading.enumerate())
    assert slow.most == 1
    assert slow.threads == {threading.current_thread().name}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[World, list[list[Message]]]:
    """A model that has learnt two episodes by heart: one as it should be, one with a call that is refused."""
    calculator = Calculator(name="calculator", train_rows=20)
    rows = [row for row in calculator.rows("train") if len(calculator.demonstration(row)["messages"]) == 6][:2]
    shown: list[list[Message]] = [calculator.demonstration(row)["messages"] for row in rows]
    shown[1][1:1] = [{"role": "assistant", "content": "calc 3"}, {"role": "tool", "content": REFUSAL}]
    folder = write(tmp_path_factory.mktemp("trained") / "model", PLAIN)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2)
    documents = [render_conversation(PLAIN, messages) for messages in shown]
    longest = max(len(ids) for ids, _ in documents)
    ids = torch.tensor([tokens + [0] * (longest - len(tokens)) for tokens, _ in documents])
    masks = torch.tensor([mask + [0] * (longest - len(mask)) for _, mask in documents])[:, 1:].bool()
    for _ in range(300):
        loss = torch.nn.functional.cross_entropy(model(ids).logits[:, :-1][masks], ids[:, 1:][masks])
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        if loss < 1e-3:
            break
    save_folder(model, folder, PLAIN, {}, None)
    renderer = Renderer({"calculator": calculator}, {"calculator": None}, PLAIN)
    return World(engine_of(folder, PLAIN), renderer, calculator), shown


def test_an_episode_has_the_tokens_and_the_mask_of_its_demonstration(
    trained: tuple[World, list[list[Message]]],
) -> None:
    calculator, shown = trained
    rows = {row.data["question"]: row for row in calculator.environment.rows("train")}
    asked = [rows[messages[0].get("content", "")] for messages in shown]
    groups = calculator.sample(asked, samples=1, limit=200, temperature=0.0)
    stage = RlStage(mix={"talk": 1.0}, max_steps=1, learning_rate=1e-3, num_generations=2)
    for group, messages, refused in zip(groups, shown, (0.0, 1.0), strict=True):
        (rollout,), (sequence,) = group.rollouts, to_sequences(group, stage)
        token_ids, loss_mask = render_conversation(PLAIN, messages)
        assert list(sequence.token_ids) == token_ids
        assert list(sequence.loss_mask) == loss_mask
        assert rollout.score == Score(1.0, {"correct": 1.0, "calls": 2.0 + refused, "refused": refused})
        assert rollout.text.count("<|tool|>") == 2 + refused
