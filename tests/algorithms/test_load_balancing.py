"""The balance loss is the papers' formula of every document, and the bias steps towards an even load."""

from __future__ import annotations

import pytest
import torch

from cascade.algorithms.load_balancing import balance_loss, bias_steps, max_violation, unused_share

EXPERTS, CHOSEN = 5, 2
LENGTHS = (3, 7, 1, 4)  # tokens of the documents
TOTAL = sum(LENGTHS)


def drawn(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Logits, choices, documents and weights of `LENGTHS` documents with two tokens of padding between."""
    generator = torch.Generator().manual_seed(seed)
    documents = [number for number, length in enumerate(LENGTHS) for _ in range(length)]
    documents[5:5] = [-1, -1]
    logits = torch.randn(len(documents), EXPERTS, generator=generator, dtype=torch.float64)
    at = torch.tensor(documents)
    return logits, logits.topk(CHOSEN).indices, at, (at >= 0).double() / TOTAL


def by_hand(scores: torch.Tensor, choices: torch.Tensor, documents: torch.Tensor) -> torch.Tensor:
    """Switch Transformer's eqs. 4 to 6 of one document after the other, in loops."""
    total = scores.new_zeros(())
    for number, length in enumerate(LENGTHS):
        tokens = [t for t in range(len(documents)) if documents[t] == number]
        for expert in range(EXPERTS):
            hits = sum(int(expert in choices[t].tolist()) for t in tokens)
            fraction = hits * EXPERTS / (CHOSEN * length)
            mean = torch.stack([scores[t, expert] / scores[t].sum() for t in tokens]).mean()
            total = total + length / TOTAL * fraction * mean
    return total


@pytest.mark.parametrize("scored", [torch.softmax, lambda logits, dim: logits.sigmoid()], ids=["softmax", "sigmoid"])
def test_value_and_gradient_are_those_of_the_plain_formula(scored: object) -> None:
    logits, choices, documents, weights = drawn()
    ours, theirs = (logits.clone().requires_grad_() for _ in range(2))
    loss = balance_loss(scored(ours, dim=1), choices, documents, weights)  # type: ignore[operator]
    expected = by_hand(scored(theirs, dim=1), choices, documents)  # type: ignore[operator]
    loss.backward()
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    assert ours.grad is not None
    assert theirs.grad is not None
    assert theirs.grad.abs().max() > 1e-3
    torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-7, rtol=1e-5)


def test_the_sum_over_micro_batches_is_the_same_however_documents_are_dealt() -> None:
    logits, choices, documents, weights = drawn()
    scores = logits.softmax(1)
    whole = balance_loss(scores, choices, documents, weights)
    for mine in ([0], [1, 3], [0, 2, 3]):
        at = torch.isin(documents, torch.tensor(mine))
        parts = [balance_loss(scores[p], choices[p], documents[p], weights[p]) for p in (at, ~at)]
        assert sum(parts).item() == pytest.approx(whole.item(), rel=1e-6)  # type: ignore[union-attr]


def test_an_even_load_costs_one_and_a_single_expert_as_many_as_there_are() -> None:
    documents = torch.zeros(4, dtype=torch.int64)
    weights = torch.full((4,), 0.25)
    even = torch.full((4, 4), 0.25)
    assert balance_loss(even, torch.tensor([[0], [1], [2], [3]]), documents, weights).item() == pytest.approx(1.0)
    one = torch.tensor([[1.0, 0.0, 0.0, 0.0]]).expand(4, 4)
    assert balance_loss(one, torch.zeros(4, 1, dtype=torch.int64), documents, weights).item() == pytest.approx(4.0)


def test_padding_changes_nothing_and_rows_of_padding_cost_nothing() -> None:
    logits, choices, documents, weights = drawn()
    scores = logits.softmax(1)
    real = documents >= 0
    alone = balance_loss(scores[real], choices[real], documents[real], weights[real])
    assert balance_loss(scores, choices, documents, weights).item() == pytest.approx(alone.item(), rel=1e-12)
    assert balance_loss(scores[~real], choices[~real], documents[~real], weights[~real]).item() == 0.0


def test_a_bias_moves_by_the_rate_towards_the_mean_load() -> None:
    loads = torch.tensor([[4, 0, 2, 2], [1, 1, 1, 1]])
    steps = bias_steps(loads, 0.001)
    assert steps.dtype == torch.float32
    torch.testing.assert_close(steps, torch.tensor([[-0.001, 0.001, 0.0, 0.0], [0.0] * 4]))


def test_load_statistics() -> None:
    loads = torch.tensor([[4, 0, 2, 2], [8, 0, 0, 0], [2, 2, 2, 2]])
    assert max_violation(loads).tolist() == [2.0, 4.0, 1.0]
    assert unused_share(loads).tolist() == [0.25, 0.75, 0.0]
