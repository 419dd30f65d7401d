"""Chunked log-probabilities are the plain ones, in value and in gradient, without [T, V] ever existing at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import (
    CohereConfig,
    FalconH1Config,
    Gemma2Config,
    GraniteConfig,
    LlamaForCausalLM,
    OPTConfig,
    PhiConfig,
)

from cascade.errors import EngineError
from cascade.models.logit_transform import LogitTransform, logit_transform
from cascade.models.logprobs import ChunkedLogProbs, LogProbHead, LogProbModel, TokenScores
from tests.models.tiny import VOCABULARY, LocalPolicy, build, llama, nemotron_h, qwen3_moe, tied_llama

TOKENS, WIDTH, ENTRIES = 23, 8, 37
TINY: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
MODELS = [llama, tied_llama, qwen3_moe, nemotron_h]


def falcon_h1(**more: Any) -> FalconH1Config:
    mamba = {"mamba_d_ssm": 64, "mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 8, "mamba_chunk_size": 8}
    return FalconH1Config(**TINY, **mamba, **more)


def naive(
    hidden: torch.Tensor, weight: torch.Tensor, ids: torch.Tensor, temperature: float
) -> tuple[torch.Tensor, torch.Tensor]:
    every = torch.log_softmax(hidden @ weight.t() / temperature, -1)
    return every.gather(1, ids), -(every.exp() * every).sum(1)


def case(k: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(k)
    hidden = torch.randn(TOKENS, WIDTH, generator=generator, requires_grad=True)
    weight = torch.randn(ENTRIES, WIDTH, generator=generator, requires_grad=True)
    ids = torch.randint(0, ENTRIES, (TOKENS, k), generator=generator)
    ids[0] = ids[0, 0]  # the same token several times among the candidates
    return hidden, weight, ids, torch.randn(TOKENS, k, generator=generator)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("chunk", [1, 4, TOKENS, 1000])
@pytest.mark.parametrize("k", [1, 3])
def test_values_entropy_and_gradients_equal_the_naive_ones(k: int, chunk: int, temperature: float) -> None:
    hidden, weight, ids, upstream = case(k)
    log_probs, entropy, _, _ = ChunkedLogProbs.apply(hidden, weight, ids, temperature, chunk)
    expected, expected_entropy = naive(hidden, weight, ids, temperature)
    torch.testing.assert_close(log_probs, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(entropy, expected_entropy, rtol=1e-5, atol=1e-5)
    assert not entropy.requires_grad
    got = torch.autograd.grad((log_probs * upstream).sum(), (hidden, weight))
    wanted = torch.autograd.grad((expected * upstream).sum(), (hidden, weight))
    for mine, other in zip(got, wanted, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-5)


def test_a_lower_temperature_is_a_sharper_distribution() -> None:
    # Two entries with logits 0 and 1: log pi(1) = -log(1 + exp(-1 / T)).
    hidden, weight = torch.ones(1, 1), torch.tensor([[0.0], [1.0]])
    for temperature in (0.5, 1.0, 2.0):
        value, *_ = ChunkedLogProbs.apply(hidden, weight, torch.tensor([[1]]), temperature, 4)
        assert float(value) == pytest.approx(-float(torch.tensor(-1 / temperature).exp().log1p()), rel=1e-6)


def test_bfloat16_inputs_give_float32_log_probs_and_gradients_of_their_own_type() -> None:
    hidden, weight, ids, upstream = case(1)
    low, heavy = (t.detach().bfloat16().requires_grad_() for t in (hidden, weight))
    log_probs, entropy, _, _ = ChunkedLogProbs.apply(low, heavy, ids, 1.0, 4)
    assert (log_probs.dtype, entropy.dtype) == (torch.float32, torch.float32)
    (log_probs * upstream).sum().backward()
    assert low.grad is not None
    assert heavy.grad is not None
    assert (low.grad.dtype, heavy.grad.dtype) == (torch.bfloat16, torch.bfloat16)
    expected = torch.autograd.grad((naive(hidden, weight, ids, 1.0)[0] * upstream).sum(), hidden)[0]
    assert float((low.grad.float() - expected).norm() / expected.norm()) < 0.02


class Largest(TorchDispatchMode):
    """The number of elements of the largest tensor that any operation returns, in the forward and backward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(value, torch.Tensor):
                self.elements = max(self.elements, value.numel())
        return result


def largest(function: Callable[..., Any], k: int, *more: Any) -> int:
    hidden, weight, ids, upstream = case(k)
    with Largest() as seen:
        log_probs, *_ = function(hidden, weight, ids, 0.7, *more)
        (log_probs * upstream).sum().backward()
    return seen.elements


@pytest.mark.parametrize("k", [1, 3])
def test_the_logits_of_all_tokens_never_exist_at_once(k: int) -> None:
    assert largest(naive, k) == TOKENS * ENTRIES, "the probe sees what the naive way makes"
    for chunk in (1, 4, 10):
        assert largest(ChunkedLogProbs.apply, k, chunk) == max(chunk * ENTRIES, ENTRIES * WIDTH)


def test_top_k_gives_the_likeliest_ids_with_their_log_probs() -> None:
    hidden, weight, _, _ = case(1)
    head = LogProbHead(torch.nn.Linear(WIDTH, ENTRIES, bias=False), chunk=4)
    head.weight.data.copy_(weight.detach())
    ids, values = head.top_k(hidden.detach(), 5, 0.7)
    expected = torch.log_softmax(hidden @ weight.t() / 0.7, -1).topk(5)
    assert torch.equal(ids, expected.indices)
    torch.testing.assert_close(values, expected.values, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("top_k", [0, 4])
@pytest.mark.parametrize("transform", [LogitTransform(), LogitTransform(0.5), LogitTransform(1.5, cap=3.0)])
@pytest.mark.parametrize("tokens", [0, 5])
def test_gradients_are_those_of_finite_differences(tokens: int, transform: LogitTransform, top_k: int) -> None:
    generator = torch.Generator().manual_seed(1)
    hidden, weight = (
        torch.randn(rows, 3, generator=generator, dtype=torch.float64, requires_grad=True) for rows in (tokens, 7)
    )
    ids = torch.tensor([[0, 6], [2, 2], [6, 6], [1, 0], [3, 5]])[:tokens]  # candidates, some repeated

    def log_probs(hidden: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return ChunkedLogProbs.apply(hidden, weight, ids, 0.7, 2, top_k, transform)[0]

    assert torch.autograd.gradcheck(log_probs, (hidden, weight))


@pytest.mark.parametrize("transform", [LogitTransform(), LogitTransform(0.25), LogitTransform(2.0, cap=5.0)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_one_pass_gives_what_log_softmax_gather_and_topk_give(dtype: torch.dtype, transform: LogitTransform) -> None:
    hidden, weight, ids, _ = case(3)
    hidden, weight = hidden.detach().to(dtype), weight.detach().to(dtype)
    scores = TokenScores(*ChunkedLogProbs.apply(hidden, weight, ids, 0.7, 4, 5, transform))
    every = torch.log_softmax(transform.apply_((hidden @ weight.t()).float()) / 0.7, -1)
    top = every.topk(5)
    assert torch.equal(scores.top_ids, top.indices)
    expected = TokenScores(every.gather(1, ids), -(every.exp() * every).sum(1), top.indices, top.values)
    for mine, other in zip(scores, expected, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-6, atol=1e-6)


def test_bfloat16_gradients_are_as_near_to_the_true_ones_as_the_naive_ones_are() -> None:
    def gradients(function: Callable[..., Any], dtype: torch.dtype, *more: Any) -> list[torch.Tensor]:
        hidden, weight, ids, upstream = case(2)
        inputs = [tensor.detach().bfloat16().to(dtype).requires_grad_() for tensor in (hidden, weight)]
        (function(*inputs, ids, 0.7, *more)[0] * upstream).sum().backward()
        return [tensor.grad.double() for tensor in inputs]  # type: ignore[union-attr]

    truth = gradients(naive, torch.float64)
    mine, others = gradients(ChunkedLogProbs.apply, torch.bfloat16, 4), gradients(naive, torch.bfloat16)
    for true, own, other in zip(truth, mine, others, strict=True):
        assert float((own - true).norm()) <= 1.1 * float((other - true).norm())


def test_float32_gradients_are_the_naive_ones_within_rounding() -> None:
    hidden, weight, ids, upstream = case(2)
    got = torch.autograd.grad(
        (ChunkedLogProbs.apply(hidden, weight, ids, 0.7, 4)[0] * upstream).sum(), (hidden, weight)
    )
    wanted = torch.autograd.grad((naive(hidden, weight, ids, 0.7)[0] * upstream).sum(), (hidden, weight))
    for mine, other in zip(got, wanted, strict=True):
        assert float((mine - other).norm() / other.norm()) < 1e-6


def test_a_frozen_head_or_a_frozen_body_costs_no_gradient_of_it() -> None:
    hidden, weight, ids, upstream = case(1)
    for frozen, shape in ((weight, (ENTRIES, WIDTH)), (hidden, (TOKENS, WIDTH))):
        inputs = [tensor.detach().requires_grad_(tensor is not frozen) for tensor in (hidden, weight)]
        with Shapes() as seen:
            (ChunkedLogProbs.apply(*inputs, ids, 0.7, 4)[0] * upstream).sum().backward()
        assert [tensor.grad is None for tensor in inputs] == [tensor is frozen for tensor in (hidden, weight)]
        assert shape not in seen.made
        assert {(TOKENS, WIDTH), (ENTRIES, WIDTH)} - {shape} <= seen.made, "the other's is made"


class Shapes(TorchDispatchMode):
    """Shapes of the tensors that operations make in the backward pass; detaching and viewing makes none."""

    def __init__(self) -> None:
        super().__init__()
        self.made: set[tuple[int, ...]] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor) and not func.is_view:
            self.made.add(tuple(result.shape))
        return result


@pytest.mark.parametrize("chunk", [3, 50])
def test_prompt_tokens_never_meet_the_lm_head(chunk: int) -> None:
    model = build(llama())
    policy = LogProbModel(model, chunk)
    ids, positions, mask = inputs()
    seen: list[int] = []
    policy.head.register_forward_pre_hook(lambda _, arguments: seen.append(len(arguments[0])))
    policy(ids, positions, mask)
    assert seen == [int(mask.sum())]


TRANSFORMED: dict[str, tuple[Callable[[], Any], LogitTransform]] = {
    "gemma2": (lambda: Gemma2Config(**TINY, head_dim=8, final_logit_softcapping=3.0), LogitTransform(1.0, 3.0)),
    "granite": (lambda: GraniteConfig(**TINY, logits_scaling=8.0), LogitTransform(1 / 8.0)),
    "cohere": (lambda: CohereConfig(**TINY, logit_scale=0.25), LogitTransform(0.25)),
    "falcon_h1": (lambda: falcon_h1(lm_head_multiplier=0.5), LogitTransform(0.5)),
}


@pytest.mark.parametrize("kind", TRANSFORMED)
def test_a_models_own_scaling_and_capping_of_logits_is_found_and_applied(kind: str) -> None:
    config, expected = TRANSFORMED[kind]
    model = build(config())
    transform = logit_transform(model)
    assert transform.cap == expected.cap
    assert transform.scale == pytest.approx(expected.scale, rel=1e-6)
    check_against_the_models_own_logits(model, 0.7)


def test_asking_for_the_transform_leaves_the_model_as_it_was() -> None:
    model = build(llama())
    ids, *_ = inputs()
    before = model(input_ids=ids).logits
    logit_transform(model)
    assert torch.equal(model(input_ids=ids).logits, before)
    assert all("forward" not in vars(module) for module in model.modules())


def test_a_head_with_a_bias_and_an_unknown_transformation_are_refused() -> None:
    with pytest.raises(EngineError, match="LM head with a bias"):
        LogProbModel(build(PhiConfig(**TINY)), 4)

    class Squared(LlamaForCausalLM):
        def forward(self, *arguments: Any, **keywords: Any) -> Any:
            output = super().forward(*arguments, **keywords)
            output.logits = output.logits.square()  # type: ignore[union-attr]
            return output

    with pytest.raises(EngineError, match="Squared makes its logits in a way that is not supported"):
        LogProbModel(Squared(llama()), 4)
    with pytest.raises(EngineError, match="OPTForCausalLM makes its logits"):  # its forward pass skips its base model
        LogProbModel(build(OPTConfig(**TINY, ffn_dim=48, word_embed_proj_dim=16)), 4)


def inputs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Two documents a row of 13 tokens for attention alone would pack; here one document a row, part of it masked."""
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(0, VOCABULARY, (2, 13), generator=generator)
    mask = (torch.rand(2, 13, generator=generator) < 0.6).float()
    mask[:, 0] = 0
    return ids, torch.arange(13).expand(2, -1), mask


@pytest.mark.parametrize("config", MODELS)
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_log_probs_are_those_of_the_models_own_logits(config: Callable[[], Any], temperature: float) -> None:
    check_against_the_models_own_logits(build(config()), temperature)


def check_against_the_models_own_logits(model: Any, temperature: float) -> None:
    """Values, entropies and gradients of every parameter."""
    ids, positions, mask = inputs()
    policy = LogProbModel(model, chunk=4)
    log_probs, entropy = policy(ids, positions, mask, temperature)
    logits = model(input_ids=ids, position_ids=positions, use_cache=False).logits
    every = torch.log_softmax(logits[:, :-1].float() / temperature, -1)  # position t-1 speaks of token t
    expected = torch.nn.functional.pad(every.gather(-1, ids[:, 1:, None]).squeeze(-1), (1, 0)) * mask
    expected_entropy = torch.nn.functional.pad(-(every.exp() * every).sum(-1), (1, 0)) * mask
    torch.testing.assert_close(log_probs, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(entropy, expected_entropy, rtol=1e-5, atol=1e-5)

    upstream = torch.randn(2, 13, generator=torch.Generator().manual_seed(4))
    names, parameters = zip(*model.named_parameters(), strict=True)
    got = torch.autograd.grad((log_probs * upstream).sum(), parameters, materialize_grads=True)
    wanted = torch.autograd.grad((expected * upstream).sum(), parameters, materialize_grads=True)
    for name, mine, other in zip(names, got, wanted, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")


def test_candidates_are_scored_where_the_mask_is_one() -> None:
    model = build(llama())
    ids, positions, mask = inputs()
    candidates = torch.randint(0, VOCABULARY, (2, 13, 3), generator=torch.Generator().manual_seed(5))
    log_probs, _ = LogProbModel(model, chunk=4)(ids, positions, mask, 0.7, candidates)
    logits = model(input_ids=ids, position_ids=positions, use_cache=False).logits
    every = torch.log_softmax(logits[:, :-1] / 0.7, -1).gather(-1, candidates[:, 1:])
    expected = torch.nn.functional.pad(every, (0, 0, 1, 0)) * mask.unsqueeze(-1)
    torch.testing.assert_close(log_probs, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("config", MODELS)
def test_a_batch_without_loss_tokens_touches_every_parameter_with_zero_gradient(config: Callable[[], Any]) -> None:
    policy = LocalPolicy(build(config()))
    ids, positions, mask = inputs()
    log_probs, entropy = policy.module(ids, positions, torch.zeros_like(mask))
    log_probs.sum().backward()
    assert (float(log_probs.detach().abs().sum()), float(entropy.sum())) == (0.0, 0.0)
    gradients = policy.gradients()  # asserts that none is missing
    assert all(bool((gradient == 0).all()) for gradient in gradients.values())
