"""The DeepSpeed JSON of a stage: ours, or the user's own with its `auto` values filled in."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cascade.config import PolicyConfig
from cascade.errors import ConfigError
from cascade.policy.offload import offload_sections


def engine_config(policy: PolicyConfig) -> dict[str, Any]:
    """What `deepspeed.initialize` is given.

    The caller owns the accumulation boundary (`managed_gradient_accumulation: false`): micro-batch counts vary from
    step to step, and the loss is already divided by the tokens of the whole step.

    Raises `ConfigError` when the user's file contradicts the recipe, or sets what the recipe decides.
    """
    whole, offload = offload_sections(policy)
    ours: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": policy.rows_per_micro_batch,
        "gradient_accumulation_steps": 1,
        "managed_gradient_accumulation": False,
        "gradient_clipping": policy.max_grad_norm,
        "zero_optimization": {"stage": policy.zero_stage, **offload},
        "bf16": {"enabled": policy.dtype == "bf16"},
        "fp16": {"enabled": False},
        "zero_allow_untrusted_optimizer": True,
        "steps_per_print": None,
        **whole,
    }
    if policy.deepspeed is None:
        return ours
    file = Path(policy.deepspeed)
    if not file.is_file():
        raise ConfigError(f"`policy.deepspeed` names {file}, which does not exist.", "Correct the path.")
    try:
        theirs = json.loads(file.read_text())
    except json.JSONDecodeError as error:
        raise ConfigError(f"{file} is not JSON: {error}.", "Correct the file.") from None
    if not isinstance(theirs, dict):
        raise ConfigError(f"{file} is not a JSON object.", "Correct the file.")
    for section in ("optimizer", "scheduler"):
        if section in theirs and theirs[section] != "auto":
            raise ConfigError(
                f"{file} sets `{section}`, which the stages of the recipe decide.",
                f"Remove `{section}` and set learning_rate, lr_schedule, warmup_steps and adam_* of the stages.",
            )
        theirs.pop(section, None)
    if "expert_parallel" in theirs:
        raise ConfigError(
            f"{file} sets `expert_parallel`, which the recipe decides.",
            "Remove it from the file and set `policy.expert_parallel`.",
        )
    for section in ("offload_optimizer", "offload_param"):  # offload that they ask for and the recipe does not
        if isinstance(theirs.get("zero_optimization"), dict) and section in theirs["zero_optimization"]:
            ours["zero_optimization"].setdefault(section, {"device": "none"})
    theirs.pop("train_batch_size", None) if theirs.get("train_batch_size") == "auto" else None
    return _merge(ours, theirs, str(file), "")


def _merge(ours: Mapping[str, Any], theirs: Mapping[str, Any], file: str, at: str) -> dict[str, Any]:
    """Their keys over ours; `auto` takes ours, and a value that contradicts ours is an error, not a choice."""
    merged = dict(ours)
    for name, value in theirs.items():
        path = f"{at}{name}"
        if isinstance(value, dict):
            merged[name] = _merge(ours.get(name, {}), value, file, f"{path}.")
        elif value != "auto":
            if name in ours and ours[name] is not None and ours[name] != value:
                raise ConfigError(
                    f"{file} sets `{path}` to {value!r}, but the recipe makes it {ours[name]!r}.",
                    'Set it to "auto" in the file, or change the recipe.',
                )
            merged[name] = value
        elif name not in ours:
            raise ConfigError(f'{file} sets `{path}` to "auto", which the recipe does not decide.', "Give it a value.")
    return merged
