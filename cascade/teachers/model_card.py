"""The README.md of an exported checkpoint: what it is, what it came from, how it scores, what made it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence

from cascade.types import DOMAINS, Checkpoint, PairScore, PairScores, Scores, SplitScore

METHODS = {
    "sft": "supervised fine-tuning",
    "rl": "reinforcement learning (GRPO)",
    "mopd": "multi-domain on-policy distillation",
    "reward_model": "reward modelling",
    "base": "no training",
}
REWARD_MODEL = (
    "A reward model: a sequence classifier with one class, whose logit says how much people would like the last answer "
    "of a chat. It writes no text. Only differences between answers to one prompt mean something: a pair is preferred "
    "with probability sigmoid(r_1 - r_2) (Bradley & Terry 1952). Render whole chats with the tokenizer's template; the "
    "reward is read at the last token that is not the pad token."
)
HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


def model_card(
    checkpoint: Checkpoint, lineage: Sequence[Checkpoint], scores: Scores, pairs: PairScores | None = None
) -> str:
    """Markdown with YAML front matter.

    `lineage`: root first, the checkpoint last; `scores`: split -> domain -> score; `pairs`: those of a reward model.
    """
    pairs = pairs or {}
    method = METHODS.get(checkpoint.kind, checkpoint.kind)
    parts = [
        _front_matter(checkpoint, lineage),
        f"# {checkpoint.stage}, step {checkpoint.step}",
        f"Trained by {method} with Cascade; checkpoint `{checkpoint.identity}` of {checkpoint.created_at}.",
        *([REWARD_MODEL] if checkpoint.kind == "reward_model" else []),
        "## Use\n\n" + _usage(checkpoint.kind),
        "## Lineage\n\n" + _lineage_table(lineage),
        *(f"## Scores, {split} split\n\n{_score_table(scores, split)}" for split in sorted(scores) if scores[split]),
        *(f"## Preference pairs, {split} split\n\n{_pair_table(pairs[split])}" for split in sorted(pairs)),
        *([] if any(scores.values()) or pairs else ["## Scores\n\nNot evaluated."]),
        "## Provenance\n\n" + _provenance(checkpoint),
    ]
    return "\n\n".join(parts) + "\n"


def _front_matter(checkpoint: Checkpoint, lineage: Sequence[Checkpoint]) -> str:
    task = "text-classification" if checkpoint.kind == "reward_model" else "text-generation"
    lines = ["library_name: transformers", f"pipeline_tag: {task}"]
    if lineage and HUB_NAME.fullmatch(lineage[0].path):  # the hub refuses a card whose base_model is a folder
        lines.append(f"base_model: {json.dumps(lineage[0].path)}")
    lines += ["tags:", "- cascade-rl", f"- {json.dumps(checkpoint.kind)}"]
    return "\n".join(["---", *lines, "---"])


def _usage(kind: str) -> str:
    rewards = kind == "reward_model"
    model = "AutoModelForSequenceClassification" if rewards else "AutoModelForCausalLM"
    lines = [
        f"from transformers import {model}, AutoTokenizer",
        "",
        f'model = {model}.from_pretrained("PATH")',
        'tokenizer = AutoTokenizer.from_pretrained("PATH")',
    ]
    if rewards:
        lines += [
            'chat = tokenizer.apply_chat_template(messages, return_tensors="pt", return_dict=True)',
            'reward = model(chat["input_ids"]).logits[0, 0]',
        ]
    return "\n".join(["```python", *lines, "```"])


def _lineage_table(lineage: Sequence[Checkpoint]) -> str:
    rows = [
        [c.stage, c.kind, str(c.step), f"`{c.identity[:12]}`", f"`{c.weights_sha256[:12]}`", c.created_at]
        for c in lineage
    ]
    return _table(["stage", "kind", "step", "identity", "weights SHA-256", "made"], rows)


def _score_table(scores: Scores, split: str) -> str:
    by_domain = scores[split]
    ordered = [d for d in DOMAINS if d in by_domain] + [d for d in by_domain if d not in DOMAINS]
    sampled = any(by_domain[d].k > 1 for d in ordered)
    rows = []
    for domain in ordered:
        score = by_domain[domain]
        row = [domain, f"{score.mean:.3f}", f"{score.stderr:.3f}", str(score.n)]
        if sampled:
            row.append(
                ""
                if score.pass_at_k is None
                else f"{score.pass_at_k:.3f} ± {score.pass_at_k_interval:.3f} (k={score.k})"
            )
        rows.append(row)
    return _table(["domain", "mean", "standard error", "n", *(["pass@k"] if sampled else [])], rows)


def _pair_table(by_domain: Mapping[str, PairScore]) -> str:
    header = ["domain", "right", "by length alone", "above length", "pairs"]
    rows = [
        [domain, _measured(s.accuracy), f"{_measured(s.length_only)} ({s.prefers})", _measured(s.above_length)]
        for domain, s in by_domain.items()
    ]
    return _table(header, [[*row, str(s.accuracy.n)] for row, s in zip(rows, by_domain.values(), strict=True)])


def _measured(score: SplitScore) -> str:
    return f"{score.mean:.3f} ± {score.stderr:.3f}"


def _provenance(checkpoint: Checkpoint) -> str:
    facts = {
        "configuration hash": f"`{checkpoint.config_hash}`",
        "data fingerprint": f"`{checkpoint.data_fingerprint}`",
        "weights SHA-256": f"`{checkpoint.weights_sha256}`",
    }
    versions = {f"{name} version": version for name, version in sorted(checkpoint.versions.items())}
    return _table(["what", "value"], [[name, value] for name, value in {**facts, **versions}.items()])


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
