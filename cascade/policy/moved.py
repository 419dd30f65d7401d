"""Whether training reaches every parameter: looked at once, after the first steps of a run."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

from cascade import parallel
from cascade.models.moe_blocks import moe_blocks
from cascade.policy.deepspeed import DeepSpeedEngine

STEPS = 3
"""Steps with a rate above 0 before the look: of an adapter's two matrices one is still at rest in the first."""
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Held:
    """What this process holds of one parameter in the optimiser: a stretch of the flattened tensor."""

    start: int  # of the stretch in the whole
    weights: torch.Tensor  # [stretch], as the optimiser updates them
    momentum: torch.Tensor | None  # [stretch], Adam's first moment: 0 where no gradient ever came


@dataclass(frozen=True)
class Print:
    """What tells weights from others that are not the same, and whether a gradient came."""

    total: float
    norm: float
    reached: bool

    @classmethod
    def of(cls, held: Held, here: slice) -> Print:
        """Of a part of what is held."""
        weights = held.weights[here]
        norm = torch.linalg.vector_norm(weights, dtype=torch.float64)
        reached = held.momentum is not None and bool(held.momentum[here].any())
        return cls(float(weights.sum(dtype=torch.float64)), float(norm), reached)

    def moved_from(self, before: Print) -> bool:
        """By a gradient: decay alone moves weights too."""
        return self.reached and (self.total, self.norm) != (before.total, before.norm)


class MovedCheck:
    """Compares the optimiser's shards before the first and after the third step that may move weights.

    A parameter is trained when its weights moved and a gradient came: decay alone moves weights too. Experts that
    share a tensor are looked at one by one; one that got no token is said and is no fault.
    """

    def __init__(self, engine: DeepSpeedEngine) -> None:
        """Every rank makes one before the first step, when weights and optimiser are what they start from."""
        self._engine = engine
        self._steps = 0
        trained = {name: p for name, p in engine.model.named_parameters() if p.requires_grad}
        self._parameters = trained
        self._parts = _parts(engine, trained)
        self._before = {name: self._prints(name, held) for name, held in self._all_held(momentum=False)}

    def after(self, metrics: Mapping[str, float]) -> dict[str, float]:
        """What to add to a step's metrics: `unmoved_parameters`, once and if there are any.

        `metrics`: the step's. Names go to the log of the first rank. Collective.
        """
        if self._steps >= STEPS or metrics.get("skipped") or not metrics.get("learning_rate"):
            return {}
        self._steps += 1
        if self._steps < STEPS:
            return {}
        trained = self._trained()
        unmoved = [name for name, parts in trained.items() if not any(parts)]
        idle = {
            name: [expert for expert, reached in enumerate(parts) if not reached]
            for name, parts in trained.items()
            if any(parts) and not all(parts)
        }
        if parallel.rank() == 0:
            _say(unmoved, idle, len(trained))
        self._before.clear()
        return {"unmoved_parameters": float(len(unmoved))} if unmoved else {}

    def _trained(self) -> dict[str, list[bool]]:
        """Name -> whether each of its parts moved by a gradient, on whichever process holds it."""
        reached = {name: torch.zeros(count, dtype=torch.int32) for name, (count, _) in self._parts.items()}
        for name, held in self._all_held(momentum=True):
            _, offset = self._parts[name]
            for part, now in self._prints(name, held).items():
                reached[name][part + offset] |= int(now.moved_from(self._before[name][part]))
        flat = torch.cat(list(reached.values())).to(parallel.device())
        if parallel.world_size() > 1:
            dist.all_reduce(flat, op=dist.ReduceOp.MAX)
        split = flat.cpu().split([count for count, _ in self._parts.values()])
        return {name: part.bool().tolist() for name, part in zip(self._parts, split, strict=True)}

    def _prints(self, name: str, held: Held) -> dict[int, Print]:
        """Part -> its print, of what is held here."""
        parameter = self._parameters[name]
        local = self._local_parts(name)
        size, end = getattr(parameter, "ds_numel", parameter.numel()) // local, held.start + held.weights.numel()
        found = {}
        for part in range(held.start // size, min(local, -(-end // size))):
            here = slice(max(part * size - held.start, 0), min((part + 1) * size, end) - held.start)
            if here.stop > here.start:
                found[part] = Print.of(held, here)
        return found

    def _local_parts(self, name: str) -> int:
        count, _ = self._parts[name]
        sharded = self._engine.sharded_experts
        return count // sharded.size if sharded and count > 1 else count

    def _all_held(self, *, momentum: bool) -> Iterator[tuple[str, Held]]:
        for name, parameter in self._parameters.items():
            held = _held(self._engine, parameter, momentum)
            if held is not None:
                yield name, held


def _parts(engine: DeepSpeedEngine, trained: Mapping[str, Any]) -> dict[str, tuple[int, int]]:
    """Name -> how many experts share the tensor over all processes, and the number of the first one here."""
    parts: dict[str, tuple[int, int]] = dict.fromkeys(trained, (1, 0))
    if engine.sharded_experts:
        sharded = engine.sharded_experts
        for name, parameter in trained.items():
            if sharded.names.tensor(name) is not None:
                parts[name] = (parameter.shape[0] * sharded.size, parameter.shape[0] * sharded.rank)
        return parts
    for block in moe_blocks(engine.model):
        for inner, parameter in block.experts.named_parameters(recurse=False):
            shape = getattr(parameter, "ds_shape", parameter.shape)
            if len(shape) == 3 and f"{block.experts_name}.{inner}" in parts:
                parts[f"{block.experts_name}.{inner}"] = (shape[0], 0)
    return parts


def _held(engine: DeepSpeedEngine, parameter: Any, momentum: bool) -> Held | None:
    """See `Held`; None where this process holds nothing of it."""
    optimizer: Any = engine.engine.optimizer
    if engine.zero_stage == 3:
        start = dist.get_rank() * parameter.ds_tensor.ds_numel
        inside = max(0, min(parameter.ds_tensor.ds_numel, parameter.ds_numel - start))  # the rest is padding
        found = [optimizer.get_local_fp32_param(parameter, key) for key in ((None, "exp_avg") if momentum else (None,))]
        return Held(start, found[0].flatten()[:inside], found[1].flatten()[:inside] if momentum else None)
    if engine.zero_stage in (1, 2):
        piece = parameter._hp_mapping
        if piece is None:
            return None
        at = _momentum(optimizer, optimizer.single_partition_of_fp32_groups[piece.param_group_index])
        within = slice(piece.hp_fragment_address.start, piece.hp_fragment_address.start + piece.hp_fragment.numel())
        return Held(piece.lp_fragment_address.start, piece.hp_fragment.detach(), None if at is None else at[within])
    weights = _full_precision(optimizer, parameter)
    at = _momentum(optimizer, weights)
    return Held(0, weights.detach().flatten(), None if at is None else at.flatten())


def _momentum(optimizer: Any, weights: torch.Tensor) -> torch.Tensor | None:
    return getattr(optimizer, "optimizer", optimizer).state.get(weights, {}).get("exp_avg")


def _full_precision(optimizer: Any, parameter: Any) -> Any:
    """Without ZeRO: the fp32 copy that is updated in place of a bf16 parameter, or the parameter."""
    for low, full in zip(getattr(optimizer, "fp16_groups", ()), getattr(optimizer, "fp32_groups", ()), strict=True):
        for own, copy in zip(low, full, strict=True):
            if own is parameter:
                return copy
    return parameter


def _say(unmoved: list[str], idle: Mapping[str, list[int]], trained: int) -> None:
    if unmoved:
        log.warning(
            "%d of %d parameters in training have not moved by a gradient after %d steps: %s",
            len(unmoved),
            trained,
            STEPS,
            ", ".join(unmoved[:20]) + (" ..." if len(unmoved) > 20 else ""),
        )
    for name, experts in idle.items():
        log.info("No token has reached experts %s of %s yet.", ", ".join(map(str, experts)), name)
