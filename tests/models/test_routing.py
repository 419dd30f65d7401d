"""Routers are watched in one model only, counted once, and replaced with their own weights and gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, DeepseekV3Config, MixtralConfig

from cascade.errors import EngineError
from cascade.models.load_balance import selection_biases
from cascade.models.router_hooks import routed_layers, watch
from cascade.models.routing import TrainingRouting
from tests.models.tiny import VOCABULARY, build, llama, nemotron_h, qwen3_moe

ROWS, TOKENS = 2, 9


def mixtral() -> Any:
    return MixtralConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_local_experts=4,
        num_experts_per_tok=2,
    )


def deepseek_v3() -> Any:
    """With groups of experts, of which one of two is chosen first."""
    return DeepseekV3Config(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        moe_intermediate_size=16,
        num_hidden_layers=3,
        first_k_dense_replace=1,
        num_attention_heads=4,
        num_key_value_heads=4,
        n_routed_experts=8,
        num_experts_per_tok=2,
        n_group=2,
        topk_group=1,
        q_lora_rank=8,
        kv_lora_rank=8,
        qk_rope_head_dim=8,
        qk_nope_head_dim=8,
        v_head_dim=8,
    )


CONFIGS: dict[str, Callable[[], Any]] = {
    "qwen3_moe": qwen3_moe,
    "nemotron_h": nemotron_h,
    "mixtral": mixtral,
    "deepseek_v3": deepseek_v3,
}
each_kind = pytest.mark.parametrize("kind", CONFIGS)


def tokens(seed: int = 0) -> torch.Tensor:
    return torch.randint(0, VOCABULARY, (ROWS, TOKENS), generator=torch.Generator().manual_seed(seed))


def run(model: Any, ids: torch.Tensor) -> torch.Tensor:
    return model(input_ids=ids, use_cache=False).logits


def watched(kind: str, **keys: Any) -> tuple[Any, TrainingRouting]:
    model = build(CONFIGS[kind]()).train()
    return model, TrainingRouting(routed_layers(model), **{"keep_scores": False, **keys})


ALL = torch.ones(ROWS, TOKENS, dtype=torch.bool)


def choices(routing: TrainingRouting) -> torch.Tensor:
    """Of the latest pass, [N, L, K]."""
    assert routing.latest is not None
    return torch.stack([taken for taken in routing.latest.taken if taken is not None], 1)


@each_kind
def test_a_watched_model_computes_what_it_did_and_another_of_its_class_is_not_watched(kind: str) -> None:
    plain, (model, routing) = build(CONFIGS[kind]()).train(), watched(kind)
    with routing.forward_pass(ALL, None):
        assert torch.equal(run(model, tokens()), run(plain, tokens()))
        run(plain, tokens(1))
    assert int(routing.loads.sum()) == len(routing.layers) * ROWS * TOKENS * 2
    assert all("forward" not in vars(module) for module in plain.modules())


@each_kind
def test_loads_are_the_tokens_of_every_expert_without_padding(kind: str) -> None:
    model, routing = watched(kind)
    real = ALL.clone()
    real[1, 5:] = False
    with routing.forward_pass(real, None):
        run(model, tokens())
    chosen = choices(routing)[real.flatten()]
    for number, layer in enumerate(routing.layers):
        assert routing.loads[number].tolist() == chosen[:, number].flatten().bincount(minlength=layer.experts).tolist()


@each_kind
def test_layers_that_are_computed_again_are_counted_once_and_replay_the_same(kind: str) -> None:
    grads, loads = {}, {}
    replayed = recorded(kind, seed=3)
    for again in (False, True):
        model, routing = watched(kind, keep_scores=True)
        if again:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        with routing.forward_pass(ALL, replayed):
            logits = run(model, tokens())
        assert routing.latest is not None
        scores = sum(one.square().sum() for one in routing.latest.scores if one is not None)
        (logits.square().mean() + scores).backward()
        grads[again] = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        loads[again] = routing.loads
    assert torch.equal(loads[True], loads[False])
    for name, grad in grads[False].items():
        torch.testing.assert_close(grads[True][name], grad, msg=name)


def recorded(kind: str, seed: int) -> torch.Tensor:
    """The choices of a model with other weights, [B, T, L, K]."""
    other = build(CONFIGS[kind](), seed=seed).train()
    routing = TrainingRouting(routed_layers(other), keep_scores=False)
    with routing.forward_pass(ALL, None):
        run(other, tokens())
    return choices(routing).unflatten(0, (ROWS, TOKENS)).to(torch.int16)


@each_kind
def test_replay_takes_the_recorded_experts_and_the_live_ones_where_nothing_is_recorded(kind: str) -> None:
    model, routing = watched(kind)
    with routing.forward_pass(ALL, None), torch.no_grad():
        plain = run(model, tokens())
    other = recorded(kind, seed=3)
    other[0, 4:] = -1
    with routing.forward_pass(ALL, other), torch.no_grad():
        replayed = run(model, tokens())
    taken, wanted = choices(routing).unflatten(0, (ROWS, TOKENS)), other.long()
    assert torch.equal(taken[wanted >= 0], wanted[wanted >= 0])
    assert (plain - replayed).abs().max() > 1e-2
    assert routing.latest is not None
    assert int(routing.latest.changed) > 0


def test_replayed_experts_are_weighed_by_the_architectures_own_rule() -> None:
    hidden = torch.randn(6, 32, generator=torch.Generator().manual_seed(1))
    told = torch.tensor([[3, 0], [1, 2], [0, 1], [2, 3], [3, 1], [0, 2]])
    rules: dict[str, Callable[[torch.Tensor, Any], torch.Tensor]] = {
        "qwen3_moe": lambda logits, gate: logits.softmax(1).gather(1, told),  # norm_topk_prob is off
        "nemotron_h": lambda logits, gate: _normed(logits.sigmoid().gather(1, told)) * gate.routed_scaling_factor,
        "mixtral": lambda logits, gate: _normed(logits.softmax(1).gather(1, told)),
    }
    for kind, rule in rules.items():
        layer = routed_layers(build(CONFIGS[kind]()))[0]
        watch(layer, lambda choice: told)
        logits, weights, taken = layer.router(hidden)
        assert torch.equal(taken, told)
        torch.testing.assert_close(weights, rule(logits, layer.router), msg=kind)


def _normed(weights: torch.Tensor) -> torch.Tensor:
    return weights / weights.sum(1, keepdim=True)


@each_kind
def test_replaying_the_live_choices_gives_the_plain_gradients(kind: str) -> None:
    grads: list[dict[str, torch.Tensor]] = []
    live = None
    for _ in range(2):
        model, routing = watched(kind)
        with routing.forward_pass(ALL, live):
            loss = run(model, tokens()).square().mean()
        loss.backward()
        grads.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
        live = choices(routing).unflatten(0, (ROWS, TOKENS)).to(torch.int16)
    router = next(name for name in grads[0] if name.endswith("gate.weight"))
    assert grads[0][router].abs().max() > 0
    assert all(torch.equal(grads[0][name], grads[1][name]) for name in grads[0])


def test_a_record_of_another_model_is_refused() -> None:
    model, routing = watched("qwen3_moe")
    for layers, chosen, expert in ((3, 2, 0), (2, 1, 0), (2, 2, 4)):
        wrong = torch.full((ROWS, TOKENS, layers, chosen), expert, dtype=torch.int16)
        with pytest.raises(EngineError, match="were recorded for"), routing.forward_pass(ALL, wrong):
            run(model, tokens())


def test_a_pass_over_other_tokens_than_were_announced_is_refused() -> None:
    model, routing = watched("qwen3_moe")
    said = pytest.raises(EngineError, match="got 18 tokens of a micro-batch of 16")
    with said, routing.forward_pass(ALL[:, :8], None):
        run(model, tokens())


def test_a_dense_model_has_no_routed_layers() -> None:
    assert routed_layers(build(llama())) == []


def test_a_router_that_does_not_choose_by_top_k_is_refused_in_words() -> None:
    layer = routed_layers(build(qwen3_moe()))[0]
    layer.router.forward = lambda hidden: (hidden, hidden, hidden)  # type: ignore[method-assign]
    layer.block.forward = lambda hidden: hidden  # type: ignore[method-assign]
    assert layer.chooser is None
    with pytest.raises(EngineError, match="its choice cannot be seen"):
        watch(layer, lambda choice: None)


@pytest.mark.parametrize("architecture", ["olmoe", "glm4_moe", "minimax_m2", "gpt_oss", "qwen2_moe", "ernie4_5_moe"])
def test_choices_of_further_architectures_are_seen(architecture: str) -> None:
    from transformers import CONFIG_MAPPING

    config = CONFIG_MAPPING[architecture]()
    config.num_hidden_layers = 3
    if hasattr(config, "layer_types"):
        config.layer_types = (config.layer_types or ["full_attention"])[:3]
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    layers = routed_layers(model)
    assert layers
    assert all(layer.chooser is not None for layer in layers)
    assert all(layer.scores_all == (architecture != "gpt_oss") for layer in layers)  # it scores those it has chosen


@pytest.mark.parametrize(("kind", "layers"), [("nemotron_h", 2), ("deepseek_v3", 2)])
def test_selection_biases_are_the_models_own_buffers(kind: str, layers: int) -> None:
    model = build(CONFIGS[kind]())
    found = selection_biases(routed_layers(model))
    assert len(found) == layers
    found[0].move(torch.full_like(found[0].value, 0.5))
    changed = [name for name, buffer in model.named_buffers() if name.endswith("bias") and (buffer == 0.5).all()]
    assert len(changed) == 1


def test_a_missing_or_coarse_selection_bias_is_refused() -> None:
    with pytest.raises(EngineError, match="no selection bias to update"):
        selection_biases(routed_layers(build(qwen3_moe())))
    model = build(nemotron_h()).to(torch.bfloat16)
    with pytest.raises(EngineError, match="small updates would be lost"):
        selection_biases(routed_layers(model))
