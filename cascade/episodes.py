"""Rollouts of several turns: what the model sampled, then what its environment answered, and so on to the end.

Turns are taken in step: all episodes of a batch that go on are sampled at once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass

from cascade.data.chat import completion_text
from cascade.data.dialogue import Context, Dialogue, Turn
from cascade.environments.attempts import attempt_at
from cascade.errors import DataError, FailureKind, VerifierFailure
from cascade.ports import Environment, MultiTurn, RolloutEngine, Waits
from cascade.prompts import Renderer
from cascade.rollout.fresh import context, merged
from cascade.seeds import derived_seed
from cascade.types import Attempt, Message, Prompt, Rollout, VersionSpan

Replies = Sequence[Message] | VerifierFailure | None
"""What an environment says to a turn; None: the episode is over."""


@dataclass(frozen=True, slots=True)
class Episode:
    """A rollout, and what there is to know to go on with it."""

    rollout: Rollout
    dialogue: Dialogue
    limit: int  # tokens of the whole episode, the environment's included
    context: Context | None = None  # of the turn being sampled; None: the first
    turns: tuple[Turn, ...] = ()  # those that the environment answered
    texts: tuple[str, ...] = ()  # what the model wrote in all turns
    elsewhere: int = 0  # tokens of the episode that are not in `rollout.token_ids`
    failure: VerifierFailure | None = None

    @property
    def over(self) -> bool:
        """Whether no answer of the environment awaits the model."""
        return self.failure is not None or len(self.texts) > len(self.turns)

    @property
    def attempt(self) -> Attempt:
        """What is judged."""
        finished, opened = self.rollout.finish_reason == "stop", self.rollout.prompt.thinking
        return attempt_at(self.texts, opened, finished, self.rollout.token_ids)


def play(
    engine: RolloutEngine,
    renderer: Renderer,
    rollouts: Sequence[Rollout],
    temperature: float,
    max_tokens: Sequence[int],
    seed: int,
) -> list[Episode]:
    """Goes on with rollouts whose first turn is sampled, until every episode is over.

    An episode ends when its environment says so, after `max_turns` of it, when it has `max_tokens[i]` tokens, those
    of the environment included, or when a call of the engine is aborted. Messages that leave no room for a token
    after them are left out, and the episode has the finish reason `length`. A turn whose context was rewritten is
    sampled with a seed of its own, as positions count from 0 again there. An environment that `Waits` answers as many
    episodes at once as its `concurrency` says, each in a thread.
    """
    opened = {rollout.prompt.row.id: _opened(renderer, rollout.prompt) for rollout in rollouts}
    begun = [
        Episode(rollout, opened[rollout.prompt.row.id], limit)
        for rollout, limit in zip(rollouts, max_tokens, strict=True)
    ]
    played = _answered(engine, renderer, begun)
    while going := [i for i, episode in enumerate(played) if not episode.over]:
        for rewritten in sorted({len(played[i].rollout.earlier) for i in going}):
            chosen = [i for i in going if len(played[i].rollout.earlier) == rewritten]
            extended = engine.extend(
                [played[i].rollout for i in chosen],
                temperature,
                [played[i].limit - played[i].elsewhere for i in chosen],
                derived_seed(seed, "rewritten", rewritten) if rewritten else seed,
            )
            sampled = [
                dataclasses.replace(played[i], rollout=rollout) for i, rollout in zip(chosen, extended, strict=True)
            ]
            for i, episode in zip(chosen, _answered(engine, renderer, sampled), strict=True):
                played[i] = episode
    return [_told_apart(renderer, episode) for episode in played]


def _opened(renderer: Renderer, prompt: Prompt) -> Dialogue:
    row = prompt.row
    messages = renderer.environments[row.environment].messages(row)
    return Dialogue(renderer.tokenizer, messages, prompt.token_ids, renderer.tools_of(row), renderer.thinking_of(row))


def _answered(engine: RolloutEngine, renderer: Renderer, episodes: Sequence[Episode]) -> list[Episode]:
    """Episodes with the turn that was just sampled, and with the environment's messages behind it if they go on."""
    heard = [_heard(renderer, episode) for episode in episodes]
    answered = []
    for before, episode, replies in zip(episodes, heard, _replies(renderer, heard), strict=True):
        own = episode.rollout.token_ids[len(before.rollout.sampled) :]
        try:
            if isinstance(replies, VerifierFailure):
                raise replies
            answered.append(_continued(engine, episode, own, replies) if replies else episode)
        except VerifierFailure as failure:
            answered.append(dataclasses.replace(episode, failure=failure))
    return answered


def _heard(renderer: Renderer, episode: Episode) -> Episode:
    """The episode with the text of the turn that was just sampled."""
    rollout = episode.rollout
    own = rollout.token_ids[len(rollout.sampled) :]
    if rollout.sampled:
        rollout = dataclasses.replace(rollout, sampled=rollout.sampled + (1,) * len(own))
    text = completion_text(renderer.tokenizer, own) if rollout.sampled else rollout.text
    return dataclasses.replace(episode, rollout=rollout, texts=(*episode.texts, text))


def _replies(renderer: Renderer, heard: Sequence[Episode]) -> list[Replies]:
    """What the environments say to the latest turns, in the order of the episodes."""
    asked = {episode.rollout.prompt.row.environment for episode in heard}
    environments = {name: renderer.environments[name] for name in sorted(asked)}
    with ExitStack() as ends:
        threads = {
            name: ends.enter_context(ThreadPoolExecutor(environment.concurrency, thread_name_prefix=f"answer-{name}"))
            for name, environment in environments.items()
            if isinstance(environment, Waits) and isinstance(environment, MultiTurn)
        }
        waited = {
            i: threads[name].submit(_reply, environments[name], episode)
            for i, episode in enumerate(heard)
            if (name := episode.rollout.prompt.row.environment) in threads
        }
        return [
            waited[i].result() if i in waited else _reply(environments[episode.rollout.prompt.row.environment], episode)
            for i, episode in enumerate(heard)
        ]


def _reply(environment: Environment, heard: Episode) -> Replies:
    """What the environment says to the latest turn of one episode."""
    if heard.rollout.finish_reason != "stop":
        return None
    if not isinstance(environment, MultiTurn) or len(heard.texts) >= environment.max_turns:
        return None
    try:
        return environment.respond(heard.rollout.prompt.row, heard.attempt.answers)
    except VerifierFailure as failure:
        return failure


def _continued(engine: RolloutEngine, heard: Episode, own: tuple[int, ...], replies: Sequence[Message]) -> Episode:
    """The episode with the environment's messages; cut for length where no token could follow them.

    Raises `VerifierFailure` for messages that cannot be rendered.
    """
    rollout = heard.rollout
    try:
        latest = heard.dialogue.turn(heard.context or heard.dialogue.start, own, replies)
        following = heard.dialogue.after([*heard.turns, latest])
    except DataError as error:
        raise VerifierFailure(FailureKind.DATA, str(error)) from error
    used = heard.elsewhere + len(rollout.token_ids) + len(following.given_ids)
    if used >= heard.limit:
        return dataclasses.replace(heard, rollout=dataclasses.replace(rollout, finish_reason="length"))
    before = context(rollout)
    if following.token_ids[: len(before)] == before:
        rollout = _appended(rollout, following.token_ids[len(before) :], engine.version)
        return dataclasses.replace(heard, rollout=rollout, context=following, turns=(*heard.turns, latest))
    part = dataclasses.replace(rollout, earlier=())
    prompt = dataclasses.replace(rollout.prompt, token_ids=following.token_ids)
    fresh = Rollout(prompt, rollout.index, (), (), (), "abort", earlier=(*rollout.earlier, part))
    return dataclasses.replace(heard, rollout=fresh, context=following, turns=(*heard.turns, latest), elsewhere=used)


def _appended(rollout: Rollout, token_ids: tuple[int, ...], version: int) -> Rollout:
    """The rollout, to be gone on with behind tokens that nobody sampled."""
    new = len(token_ids)
    return dataclasses.replace(
        rollout,
        token_ids=rollout.token_ids + token_ids,
        sampler_log_probs=rollout.sampler_log_probs + (0.0,) * new,
        versions=merged((*rollout.versions, VersionSpan(version, new))),
        sampled=(rollout.sampled or (1,) * len(rollout.token_ids)) + (0,) * new,
        finish_reason="abort",
    )


def _told_apart(renderer: Renderer, episode: Episode) -> Episode:
    """Texts of several turns with their special tokens, which show where one ends."""
    if not episode.turns:
        return episode

    def shown(rollout: Rollout) -> Rollout:
        text = renderer.tokenizer.decode(list(rollout.token_ids), clean_up_tokenization_spaces=False)
        return dataclasses.replace(rollout, text=text, earlier=tuple(shown(part) for part in rollout.earlier))

    return dataclasses.replace(episode, rollout=shown(episode.rollout))
