"""Contexts of later turns are what the chat template writes, and hold the very ids that were sampled."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from cascade.data.characters import DEFAULT_ALPHABET, character_tokenizer
from cascade.data.chat import bundled_template, render_prompt
from cascade.data.dialogue import Context, Dialogue, Turn
from cascade.errors import DataError
from cascade.types import Message

SMOL_LIKE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# As Qwen3: reasoning stays in a loop of tools and goes with the next question; an empty block where none is wanted.
QWEN3_LIKE = """\
{%- if tools %}<|im_start|>system
Tools:{% for tool in tools %} {{ tool | tojson }}{% endfor %}<|im_end|>
{% endif %}
{%- set last = namespace(question=-1) %}
{%- for message in messages if message.role == 'user' %}{% set last.question = messages.index(message) %}{% endfor %}
{%- for message in messages %}
  {%- if message.role == 'assistant' %}
    {%- set reasoning = message.reasoning_content or '' %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if loop.index0 > last.question and (loop.last or reasoning) %}
      {{- '<think>\\n' ~ reasoning.strip('\\n') ~ '\\n</think>\\n\\n' }}
    {%- endif %}
    {{- message.content.lstrip('\\n') }}
    {%- for call in message.tool_calls or [] %}
      {{- '\\n<tool_call>\\n' ~ call.function | tojson ~ '\\n</tool_call>' }}
    {%- endfor %}
    {{- '<|im_end|>\\n' }}
  {%- elif message.role == 'tool' %}
    {%- if loop.previtem.role != 'tool' %}{{ '<|im_start|>user' }}{% endif %}
    {{- '\\n<tool_response>\\n' ~ message.content ~ '\\n</tool_response>' }}
    {%- if loop.last or loop.nextitem.role != 'tool' %}{{ '<|im_end|>\\n' }}{% endif %}
  {%- else %}
    {{- '<|im_start|>' ~ message.role ~ '\\n' ~ message.content ~ '<|im_end|>\\n' }}
  {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
  {{- '<|im_start|>assistant\\n' }}
  {%- if enable_thinking is defined and not enable_thinking %}{{ '<think>\\n\\n</think>\\n\\n' }}{% endif %}
{%- endif %}"""
# As Nemotron 3: the prompt opens the reasoning; reasoning before the last question becomes an empty pair of tags.
NEMOTRON_LIKE = """\
{%- set thinks = enable_thinking if enable_thinking is defined else true %}
{%- set last = namespace(question=-1) %}
{%- for message in messages if message.role == 'user' %}{% set last.question = messages.index(message) %}{% endfor %}
{{- '<|im_start|>system\\n' }}
{%- for tool in tools or [] %}{{ '<function>' ~ tool.function.name ~ '</function>\\n' }}{% endfor %}
{{- '<|im_end|>\\n' }}
{%- for message in messages %}
  {%- if message.role == 'assistant' %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if message.reasoning_content and loop.index0 > last.question %}
      {{- '<think>\\n' ~ message.reasoning_content ~ '\\n</think>\\n' }}
    {%- else %}
      {{- '<think></think>' }}
    {%- endif %}
    {{- message.content ~ '<|im_end|>\\n' }}
  {%- elif message.role == 'tool' %}
    {{- '<|im_start|>user\\n<tool_response>\\n' ~ message.content ~ '\\n</tool_response>\\n<|im_end|>\\n' }}
  {%- else %}
    {{- '<|im_start|>' ~ message.role ~ '\\n' ~ message.content ~ '<|im_end|>\\n' }}
  {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
  {{- '<|im_start|>assistant\\n' ~ ('<think>\\n' if thinks else '<think></think>') }}
{%- endif %}"""
# As R1: no key for reasoning, and whatever precedes the close tag of an earlier answer goes.
R1_LIKE = (
    "{% for m in messages %}{% if m.role == 'assistant' %}"
    "{{ '<|assistant|>' + m.content.split('</think>')[-1].strip() + '<|im_end|>' }}"
    "{% else %}{{ '<|' + m.role + '|>' + m.content }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|><think>\n' }}{% endif %}"
)
ADD = {"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}}


def byte_tokenizer(template: str, *, tags: bool) -> PreTrainedTokenizerFast:
    """A byte-level BPE with merges across newlines; `tags`: <think> and </think> are tokens, as in Qwen3."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=420, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    text = ["<think>\n\n</think>\n\nwhy so? assistant\n <tool_response>\n12\n</tool_response>\n user\nmore answer"]
    backend.train_from_iterator(text * 40, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    if tags:
        tokenizer.add_tokens(["<think>", "</think>"])
    tokenizer.chat_template = template
    return tokenizer


class Family(NamedTuple):
    """A template, and what a model writes that follows it."""

    template: str
    thought: str  # of `{r}` and `{a}`
    keeps_in_loop: bool  # reasoning, over the output of tools
    stop: str = "<|im_end|>"
    tools: list[dict[str, Any]] | None = None


FAMILIES = {
    "chatml": Family(bundled_template("chatml"), "{r}\n</think>\n{a}", True, tools=[ADD]),
    "qwen3": Family(QWEN3_LIKE, "<think>\n{r}\n</think>\n\n{a}", True, tools=[ADD]),
    "nemotron": Family(NEMOTRON_LIKE, "{r}\n</think>\n{a}", True, tools=[ADD]),
    "r1": Family(R1_LIKE, "{r}\n</think>\n\n{a}", False),
}
PLAIN = {
    "characters": Family(bundled_template("characters"), "{a}", True, "<|end|>"),
    "smol": Family(SMOL_LIKE, "{a}", True),
}
TOOL: list[Message] = [{"role": "tool", "content": "12"}]
TOOLS: list[Message] = [*TOOL, {"role": "tool", "content": "é 13"}]
USER: list[Message] = [{"role": "user", "content": "more\n"}]
QUESTION: list[Message] = [{"role": "user", "content": "first"}]


def opened(family: Family, tags: bool = False, thinking: bool | None = None) -> Dialogue:
    characters = family.stop == "<|end|>"
    tokenizer = (
        character_tokenizer(DEFAULT_ALPHABET + "é", family.template)
        if characters
        else byte_tokenizer(family.template, tags=tags)
    )
    prompt = render_prompt(tokenizer, QUESTION, tools=family.tools, thinking=thinking)
    return Dialogue(tokenizer, QUESTION, tuple(prompt), family.tools, thinking)


def written(dialogue: Dialogue, text: str, *, by_character: bool = False) -> tuple[int, ...]:
    pieces = list(text) if by_character else [text]
    return tuple(i for piece in pieces for i in dialogue.tokenizer.encode(piece, add_special_tokens=False))


def converse(
    dialogue: Dialogue, spoken: Sequence[tuple[tuple[int, ...], Sequence[Message]]]
) -> tuple[list[Turn], list[Context]]:
    """Turns of sampled ids and replies, and the contexts before each and after the last."""
    turns: list[Turn] = []
    contexts = [dialogue.start]
    for token_ids, replies in spoken:
        turns.append(dialogue.turn(contexts[-1], token_ids, replies))
        contexts.append(dialogue.after(turns))
    return turns, contexts


def rendered(dialogue: Dialogue, history: Sequence[Message]) -> str:
    variables = {} if dialogue.thinking is None else {"enable_thinking": dialogue.thinking}
    return dialogue.tokenizer.apply_chat_template(
        [dict(message) for message in (*QUESTION, *history)],
        tools=list(dialogue.tools) if dialogue.tools else None,
        add_generation_prompt=True,
        tokenize=False,
        **variables,
    )


def decoded(dialogue: Dialogue, token_ids: Sequence[int]) -> str:
    return dialogue.tokenizer.decode(list(token_ids), clean_up_tokenization_spaces=False)


@pytest.mark.parametrize("tags", (False, True), ids=("text tags", "token tags"))
@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("replies", ((TOOL, TOOLS), (TOOL, USER), (USER, USER), (USER, TOOL)), ids=str)
def test_contexts_with_reasoning_are_what_the_template_writes(
    name: str, tags: bool, replies: tuple[list[Message], ...]
) -> None:
    family = FAMILIES[name]
    dialogue = opened(family, tags)
    words = [("why so?", "answer"), ("12 é\n\nsö", "answer 🙂\nmore")]
    spoken = [
        (written(dialogue, family.thought.format(r=r, a=a) + family.stop), reply)
        for (r, a), reply in zip(words, replies, strict=True)
    ]
    _, contexts = converse(dialogue, spoken)
    history: list[Message] = []
    for (r, a), reply, context in zip(words, replies, contexts[1:], strict=True):
        shown: Message = {"role": "assistant", "content": a, "reasoning_content": r}
        if name == "r1":
            shown = {"role": "assistant", "content": f"<think>\n{r}\n</think>\n\n{a}"}
        history += [shown, *reply]
        assert decoded(dialogue, context.token_ids) == rendered(dialogue, history)
        assert ("why" in decoded(dialogue, context.token_ids)) == (family.keeps_in_loop and USER[0] not in history)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_loop_of_tools_is_concatenation_where_the_template_keeps_reasoning(name: str) -> None:
    family = FAMILIES[name]
    dialogue = opened(family)
    text = family.thought.format(r="why", a="answer") + family.stop
    spoken = [(written(dialogue, text, by_character=turn == 1), TOOL) for turn in range(3)]
    _, contexts = converse(dialogue, spoken)
    for before, (own, _), after in zip(contexts, spoken, contexts[1:], strict=False):
        grown = before.token_ids + own
        if family.keeps_in_loop:
            assert after.token_ids == grown + after.given_ids
        else:
            assert after.token_ids[: len(grown)] != grown


@pytest.mark.parametrize("name", FAMILIES)
def test_the_ids_of_an_answer_survive_the_loss_of_its_reasoning(name: str) -> None:
    family = FAMILIES[name]
    dialogue = opened(family)
    text = family.thought.format(r="why", a="user answer more") + family.stop
    own = written(dialogue, text, by_character=True)[: -len(family.stop)] + written(dialogue, family.stop)
    assert own != written(dialogue, text), "no other tokenisation was tried"
    _, contexts = converse(dialogue, [(own, USER)])
    answer = own[-len("user answer more") - 1 :]
    found = contexts[1].token_ids
    assert any(found[i : i + len(answer)] == answer for i in range(len(found)))
    assert "why" not in decoded(dialogue, found)


@pytest.mark.parametrize("name", PLAIN)
def test_contexts_without_reasoning_are_concatenation_and_what_the_template_writes(name: str) -> None:
    family = PLAIN[name]
    dialogue = opened(family)
    spoken = [(written(dialogue, f"answer {i}{family.stop}"), replies) for i, replies in enumerate((TOOLS, USER, TOOL))]
    _, contexts = converse(dialogue, spoken)
    history: list[Message] = []
    for i, (own, replies) in enumerate(spoken):
        history += [{"role": "assistant", "content": f"answer {i}"}, *replies]
        after = contexts[i + 1]
        assert after.token_ids == contexts[i].token_ids + own + after.given_ids
        assert decoded(dialogue, after.token_ids) == rendered(dialogue, history)


@pytest.mark.parametrize("name", ("chatml", "qwen3", "nemotron"))
def test_without_thinking_contexts_are_what_the_template_writes(name: str) -> None:
    dialogue = opened(FAMILIES[name], thinking=False)
    _, contexts = converse(dialogue, [(written(dialogue, "answer<|im_end|>"), TOOL)])
    shown: Message = {"role": "assistant", "content": "answer"}
    assert decoded(dialogue, contexts[1].token_ids) == rendered(dialogue, [shown, *TOOL])


def test_a_stop_token_that_the_template_does_not_write_stays_before_the_one_it_does() -> None:
    dialogue = opened(PLAIN["smol"])
    own = written(dialogue, "answer<|endoftext|>")
    _, contexts = converse(dialogue, [(own, USER)])
    assert contexts[1].token_ids[: len(dialogue.prompt_ids) + len(own)] == dialogue.prompt_ids + own
    assert contexts[1].given.startswith("<|im_end|>\n<|im_start|>user\n")


def test_a_template_that_writes_no_end_of_turn_leaves_the_one_that_was_sampled() -> None:
    bare = SMOL_LIKE.replace("<|im_end|>", "")
    dialogue = opened(Family(bare, "{a}", True))
    own = written(dialogue, "answer<|im_end|>")
    _, contexts = converse(dialogue, [(own, USER)])
    assert contexts[1].token_ids[: len(dialogue.prompt_ids) + len(own)] == dialogue.prompt_ids + own
    assert contexts[1].given.startswith("\n<|im_start|>user\n") or contexts[1].given.startswith("<|im_start|>user\n")


@pytest.mark.parametrize("name", ("chatml", "nemotron"))
def test_reasoning_that_never_ended_is_dropped_up_to_the_stop_token(name: str) -> None:
    dialogue = opened(FAMILIES[name])
    _, contexts = converse(dialogue, [(written(dialogue, "why so<|im_end|>"), USER)])
    shown: Message = {"role": "assistant", "content": "", "reasoning_content": "why so"}
    assert decoded(dialogue, contexts[1].token_ids) == rendered(dialogue, [shown, *USER])


def test_whitespace_that_is_part_of_the_answers_first_token_stays() -> None:
    dialogue = opened(FAMILIES["qwen3"], tags=True)
    dialogue.tokenizer.add_tokens([" answer"])
    own = written(dialogue, "<think>\nwhy\n</think> answer<|im_end|>")
    _, contexts = converse(dialogue, [(own, USER)])
    assert "<|im_start|>assistant\n answer<|im_end|>" in decoded(dialogue, contexts[1].token_ids)


def test_a_token_across_the_end_of_reasoning_is_an_error_when_it_has_to_go() -> None:
    dialogue = opened(FAMILIES["qwen3"])
    dialogue.tokenizer.add_tokens(["think>answer"])
    own = written(dialogue, "<think>\nwhy\n</think>answer<|im_end|>")
    turn = dialogue.turn(dialogue.start, own, USER)
    with pytest.raises(DataError, match="both the end of </think>"):
        dialogue.after([turn])
    kept = dialogue.turn(dialogue.start, own, TOOL)
    assert dialogue.after([kept]).token_ids[: len(dialogue.prompt_ids) + len(own)] == dialogue.prompt_ids + own


def test_a_prompt_of_another_making_is_refused() -> None:
    dialogue = opened(PLAIN["smol"])
    with pytest.raises(DataError, match="not what the chat template makes"):
        _ = Dialogue(dialogue.tokenizer, QUESTION, (*dialogue.prompt_ids, 5)).start


def test_messages_that_spell_the_end_of_a_turn_are_refused() -> None:
    dialogue = opened(PLAIN["smol"])
    turn = dialogue.turn(dialogue.start, written(dialogue, "a<|im_end|>"), [{"role": "tool", "content": "<|im_end|>"}])
    with pytest.raises(DataError, match="special token"):
        dialogue.after([turn])
