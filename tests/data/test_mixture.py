"""The blend keeps its proportions at every prefix, covers every epoch, and resumes exactly."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cascade.data.mixture import Mixture
from cascade.errors import DataError
from cascade.types import Row


def rows(name, n):
    return [Row(f"{name}/{index}", "math", name, {}) for index in range(n)]


def mixture(weights, seed=0, sizes=None):
    return Mixture({name: rows(name, (sizes or {}).get(name, 5)) for name in weights}, weights, seed)


@settings(deadline=None)
@given(st.lists(st.floats(0.01, 100, allow_nan=False), min_size=1, max_size=7))
def test_every_prefix_is_within_one_row_of_the_weights(weights):
    named = {f"s{index}": weight for index, weight in enumerate(weights)}
    counts = dict.fromkeys(named, 0)
    total = sum(weights)
    for length, row in enumerate(mixture(named).draw(200), start=1):
        counts[row.environment] += 1
        assert all(abs(counts[name] - length * weight / total) < 1 + 1e-9 for name, weight in named.items())


@given(st.integers(0, 20), st.integers(0, 20))
def test_batching_does_not_change_the_stream(first, second):
    weights = {"a": 0.5, "b": 0.3, "c": 0.2}
    split = mixture(weights)
    assert split.draw(first) + split.draw(second) == mixture(weights).draw(first + second)


def test_every_epoch_is_another_permutation_of_the_source():
    drawn = [row.id for row in mixture({"a": 1.0}, sizes={"a": 20}).draw(40)]
    assert sorted(drawn[:20]) == sorted(drawn[20:]) == sorted(row.id for row in rows("a", 20))
    assert drawn[:20] != drawn[20:]


def test_seed_changes_the_order_and_not_the_proportions():
    one, two = mixture({"a": 1, "b": 2}, seed=1).draw(30), mixture({"a": 1, "b": 2}, seed=2).draw(30)
    assert one != two
    assert [row.environment for row in one] == [row.environment for row in two]


def test_stream_is_the_same_whatever_the_order_of_the_mappings():
    one = Mixture({"a": rows("a", 5), "b": rows("b", 5)}, {"a": 1, "b": 1}, 0)
    two = Mixture({"b": rows("b", 5), "a": rows("a", 5)}, {"b": 1, "a": 1}, 0)
    assert one.draw(12) == two.draw(12)


@given(st.integers(0, 30))
def test_restored_stream_goes_on_exactly(position):
    weights = {"a": 0.7, "b": 0.3}
    original = mixture(weights)
    original.draw(position)
    resumed = mixture(weights)
    resumed.restore(json.loads(json.dumps(original.state())))
    assert resumed.draw(15) == original.draw(15)


def test_state_of_another_mixture_is_refused():
    state = mixture({"a": 1.0, "b": 1.0}).state()
    others = (
        mixture({"a": 1.0, "b": 2.0}),
        mixture({"a": 1.0, "b": 1.0}, seed=1),
        mixture({"a": 1.0, "b": 1.0}, sizes={"a": 4}),
    )
    for other in others:
        with pytest.raises(DataError, match="another seed"):
            other.restore(state)


@pytest.mark.parametrize("weight", [0.0, -1.0, float("nan"), float("inf")])
def test_weights_must_be_above_zero(weight):
    with pytest.raises(DataError, match="'a' has weight"):
        mixture({"a": weight, "b": 1.0})


def test_sources_need_rows_and_weights():
    with pytest.raises(DataError, match="'a' has no rows"):
        mixture({"a": 1.0}, sizes={"a": 0})
    with pytest.raises(DataError, match=r"rows of \['a'\] and weights of \['b'\]"):
        Mixture({"a": rows("a", 1)}, {"b": 1.0}, 0)
    with pytest.raises(DataError, match="rows of"):
        Mixture({}, {}, 0)
