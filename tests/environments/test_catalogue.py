"""From names to environments: every built-in kind, NeMo-Gym's names, and classes of one's own."""

from __future__ import annotations

import pytest

from cascade.environments.catalogue import ALSO_CALLED, BUILT_IN, environment_alone
from cascade.errors import ConfigError
from cascade.ports import ReadsRecords
from cascade.types import DOMAINS

NEEDED = {
    "conversations": {"train": "none.jsonl"},
    "preference": {"judge": {"urls": ["http://127.0.0.1:1"], "model": "m"}},
    "reasoning_gym": {"tasks": {"gcd": {}}},
    "reward_functions": {"functions": ["math.fsum"]},
}


PACKAGES = {"bfcl": "bfcl_eval", "reasoning_gym": "reasoning_gym"}


@pytest.mark.parametrize("kind", sorted(BUILT_IN))
def test_every_kind_can_be_made_alone_and_reads_rows(kind: str) -> None:
    if kind in PACKAGES:
        pytest.importorskip(PACKAGES[kind])
    config, environment = environment_alone(kind, NEEDED.get(kind, {}))
    assert environment.domain == config.domain
    assert environment.domain in DOMAINS or kind == "conversations"
    assert isinstance(environment, ReadsRecords) or kind == "conversations"


def test_the_names_of_nemo_gyms_servers_are_understood() -> None:
    for name, kind in ALSO_CALLED.items():
        assert name not in BUILT_IN
        assert kind in BUILT_IN
    _, environment = environment_alone("mcqa", {})
    assert type(environment).__name__ == "MultipleChoice"


def test_a_name_that_is_none_is_answered_by_the_nearest() -> None:
    with pytest.raises(ConfigError, match="Did you mean `multiple_choice`"):
        environment_alone("multiple_choices", {})
