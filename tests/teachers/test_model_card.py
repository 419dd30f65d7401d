"""The model card says where a checkpoint comes from and how it scores."""

from __future__ import annotations

from dataclasses import replace

import yaml

from cascade.teachers.model_card import model_card
from cascade.types import Checkpoint, SplitScore

TIME = "2026-11-21T10:00:00+00:00"
BASE = Checkpoint("base0", "base", 0, "base", None, "HuggingFaceTB/SmolLM2", "c", "d", "0" * 64, {}, TIME)
TUNED = Checkpoint("tuned1", "mopd|1", 60, "mopd", "base0", "m", "cfg", "data", "1" * 64, {"torch": "2.13.0"}, TIME)


def front_matter(card: str) -> dict[str, object]:
    return yaml.safe_load(card.split("---")[1])


def test_the_card_has_front_matter_lineage_scores_and_versions() -> None:
    scores = {
        "test": {"math": SplitScore(0.612, 0.028, 300, 0.8, 4)},
        "validation": {"math": SplitScore(0.6, 0.03, 200)},
    }
    card = model_card(TUNED, [BASE, TUNED], scores)
    assert front_matter(card)["base_model"] == "HuggingFaceTB/SmolLM2"
    assert front_matter(card)["tags"] == ["cascade-rl", "mopd"]
    assert "| math | 0.612 | 0.028 | 300 | 0.800 ± 0.045 (k=4) |" in card
    assert "| math | 0.600 | 0.030 | 200 |" in card
    assert "| torch version | 2.13.0 |" in card
    lines = card.splitlines()
    assert lines.index(next(x for x in lines if x.startswith("| base |"))) < lines.index(
        next(x for x in lines if x.startswith("| mopd\\|1 |"))
    )


def test_a_base_in_a_folder_is_not_given_as_a_hub_name() -> None:
    card = model_card(TUNED, [replace(BASE, path="/models/base")], {})
    assert "base_model" not in front_matter(card)
    assert "/models" not in card
    assert "Not evaluated." in card


def test_a_reward_model_is_loaded_as_a_classifier() -> None:
    card = model_card(replace(TUNED, kind="reward_model"), [BASE], {})
    assert front_matter(card)["pipeline_tag"] == "text-classification"
    assert "AutoModelForSequenceClassification" in card
