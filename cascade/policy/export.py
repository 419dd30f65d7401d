"""The policy as a Hugging Face folder: what transformers, vLLM and TRL load without conversion."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cascade import parallel
from cascade.atomic import commit_folder, write_json
from cascade.models.stop_tokens import stop_ids
from cascade.policy.deepspeed import DeepSpeedEngine

CARD = "cascade.json"
"""What the folder is: identity, stage and step."""


def export_policy(policy: DeepSpeedEngine, folder: Path, tokenizer: Any, card: dict[str, Any]) -> None:
    """Writes weights under their published names, config, generation config, tokenizer and template. Collective."""
    tensors = {}
    for name, tensor in policy.weights():
        if parallel.rank() == 0:
            tensors[name] = tensor.cpu().clone().contiguous()
    adapters = {}  # beside the merged weights, for who wants them alone
    for name, tensor in policy.adapters.tensors(policy.gathered) if policy.adapters else ():
        adapters[name] = tensor.cpu().clone().contiguous()
    if parallel.rank() == 0:
        more = functools.partial(policy.adapters.save, tensors=adapters) if policy.adapters else None
        save_folder(policy.model, folder, tokenizer, card, tensors, more)
    parallel.barrier()


def save_folder(
    model: Any,
    folder: Path,
    tokenizer: Any,
    card: dict[str, Any],
    tensors: dict[str, Any] | None,
    more: Callable[[Path], None] | None = None,
) -> None:
    """Writes `folder` atomically; `tensors` default to the model's own, and `more` adds files."""
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    if model.can_generate():  # a reward model does not
        ends = stop_ids(model, tokenizer)
        model.generation_config.eos_token_id = ends if len(ends) > 1 else ends[0]
        model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(temporary, state_dict=tensors)
    tokenizer.save_pretrained(temporary)
    write_json(temporary / CARD, card)
    if more:
        more(temporary)
    usual = (temporary / CARD).stat().st_mode  # safetensors makes its files readable by their owner only
    for file in temporary.rglob("*.safetensors"):
        file.chmod(usual)
    commit_folder(temporary, folder)
