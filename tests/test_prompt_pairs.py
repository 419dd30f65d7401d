"""Pairs become whole chats as the template writes them, with their rewards read at the end."""

from __future__ import annotations

from pathlib import Path

import pytest

from cascade.config import EnvironmentConfig
from cascade.data.characters import DEFAULT_ALPHABET, character_tokenizer
from cascade.data.mixture import Mixture
from cascade.data.rendering import bundled_template
from cascade.environments.catalogue import build_environments
from cascade.errors import DataError
from cascade.prompts import PromptSource, Renderer
from tests.preferences import write_pairs

TOKENIZER = character_tokenizer(DEFAULT_ALPHABET, bundled_template("characters"))
KINDS = {
    "pairs": EnvironmentConfig("preference_pairs", "preference", params={"validation_rows": 5, "test_rows": 5}),
    "math": EnvironmentConfig("addition", "math", params={"train_rows": 50, "validation_rows": 5, "test_rows": 5}),
}


def source(name: str, tmp_path: Path, longest: int = 64) -> PromptSource:
    KINDS["pairs"].params["train"] = str(write_pairs(tmp_path / "pairs.jsonl", 40))
    environments = build_environments({name: KINDS[name]}, seed=0)
    renderer = Renderer(environments, {name: None}, TOKENIZER)
    return PromptSource(renderer, Mixture({name: environments[name].rows("train")}, {name: 1.0}, 0), longest)


def test_a_side_is_the_ids_of_apply_chat_template_and_its_last_token_is_marked(tmp_path: Path) -> None:
    drawn = source("pairs", tmp_path)
    (row,) = drawn.mixture.draw(1)
    for side, name in zip(drawn.renderer.pair(row), ("chosen", "rejected"), strict=True):
        whole = TOKENIZER.apply_chat_template(row.data[name], tokenize=True, return_dict=False)
        assert list(side.token_ids) == whole
        assert side.loss_mask == (0,) * (len(whole) - 1) + (1,)
        assert (side.token_ids[-1], side.domain) == (TOKENIZER.eos_token_id, "preference")


def test_text_without_a_chat_ends_with_the_end_token(tmp_path: Path) -> None:
    drawn = source("pairs", tmp_path)
    document = drawn.renderer.document(drawn.mixture.draw(1)[0], "plain text")
    assert TOKENIZER.decode(list(document.token_ids)) == "plain text<|end|>"


def test_pairs_come_in_the_order_of_the_mixture_whatever_they_are_drawn_by(tmp_path: Path) -> None:
    one, other = source("pairs", tmp_path), source("pairs", tmp_path)
    assert one.pairs(3) + one.pairs(5) == other.pairs(8)


def test_a_pair_that_no_row_holds_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"A side of the pair pairs/\w+ has \d+ tokens, more than `policy.row_tokens`"):
        source("pairs", tmp_path, longest=8).pairs(1)


def test_an_environment_without_pairs_gives_none(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="math gives no preference pairs"):
        source("math", tmp_path).pairs(1)


def test_supervised_fine_tuning_learns_the_chosen_answer_and_nothing_of_the_prompt(tmp_path: Path) -> None:
    drawn = source("pairs", tmp_path)
    (row,) = drawn.mixture.draw(1)
    shown = drawn.renderer.demonstration(row)
    trained = [token for token, flag in zip(shown.token_ids, shown.loss_mask, strict=True) if flag]
    assert TOKENIZER.decode(trained) == f"{row.data['chosen'][-1]['content']}<|end|>"
