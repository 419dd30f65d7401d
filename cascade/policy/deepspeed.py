"""A model in training as a DeepSpeed engine, the policy first of all: ZeRO 0 to 3, on GPUs or CPUs with gloo."""

from __future__ import annotations

import gc
import io
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext, redirect_stdout
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cascade import parallel
from cascade.config import PolicyConfig, StageBase
from cascade.errors import EngineError
from cascade.locations import extensions_dir
from cascade.models.document_leaks import require_documents_apart
from cascade.models.experts import freeze_routers
from cascade.models.loading import DTYPES, load_model
from cascade.models.moe_blocks import whole_shape
from cascade.policy.checks import check_engine
from cascade.policy.engine_config import engine_config
from cascade.policy.expert_parallel import check_experts, check_folder, expert_groups, shard_experts
from cascade.policy.expert_training import ExpertTraining
from cascade.policy.offload import require_offload
from cascade.policy.sequence_parallel import log_prob_model, require_same_in_slices
from cascade.policy.zero import arriving_in_shards, mark_leaves
from cascade.types import PackedBatch


class DeepSpeedEngine:
    """Implements `ports.Trainee`. Every rank constructs it and makes the same calls in the same order."""

    def __init__(
        self, model: Any, module: nn.Module, config: PolicyConfig, stage: StageBase, *, freeze_router: bool
    ) -> None:
        """Shards a transformers model and the module around it. Raises `EngineError` for what cannot be trained."""
        parallel.start()
        deepspeed = _import_deepspeed()
        self.frozen = freeze_routers(model) if freeze_router else []
        self.experts = ExpertTraining(model, stage, config)  # of transformers' routers, which expert parallelism keeps
        self.sharded_experts = shard_experts(model, config)
        if config.activation_checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        model.train()
        self.model = model
        self.zero_stage = config.zero_stage
        self.leaves = mark_leaves(model) if config.zero_stage == 3 else []
        self.adapters = _adapters(model, config)
        asked = [name for name, _ in model.named_parameters() if name not in set(self.frozen)]
        asked = self.adapters.names if self.adapters else asked
        groups = _decayed_groups(model, stage.weight_decay)
        self.engine_config = engine_config(config)
        self.engine, *_ = deepspeed.initialize(
            model=module.to(parallel.device()),
            optimizer=torch.optim.AdamW(
                expert_groups(groups) if self.sharded_experts else groups,
                lr=stage.learning_rate,
                betas=(stage.adam_beta1, stage.adam_beta2),
                eps=stage.adam_epsilon,
                fused=True if config.offload_optimizer != "none" else None,  # on a CPU several times as fast
            ),
            config=self.engine_config,
        )
        self._clipped_norm = float("nan")
        if config.zero_stage == 0 and config.dtype == "fp32":  # the engine clips here but does not tell the norm
            self.engine.clip_fp32_gradients = self._clip
        check_engine(self.engine, model, config, None if self.sharded_experts else asked, self.leaves)
        if self.sharded_experts:
            check_experts(self.sharded_experts, model, self.engine.optimizer)

    def backward(self, loss: torch.Tensor) -> None:
        """See `ports.Policy`. DeepSpeed averages over ranks; the loss is a sum over them."""
        self.engine.backward(loss * parallel.world_size())

    def step(self, learning_rate: float) -> Mapping[str, float]:
        """See `ports.Policy`."""
        for group in self.engine.optimizer.param_groups:
            group["lr"] = learning_rate
        self.engine.step()
        norm = self.engine.get_global_grad_norm()
        experts = self.experts.after_step(moved=learning_rate > 0)
        norm = float(self._clipped_norm if norm is None else norm)
        return {"grad_norm": norm, "learning_rate": learning_rate, **experts}

    def balance_losses(self) -> torch.Tensor:
        """See `ports.Trainee`."""
        return self.experts.balance_losses()

    def weights(self) -> Iterator[tuple[str, torch.Tensor]]:
        """See `ports.Policy`. Under ZeRO-3 one parameter is gathered at a time."""
        if self.sharded_experts:
            yield from self.sharded_experts.weights(self.model)
            return
        if self.adapters:
            yield from self.adapters.weights(self.gathered)
            return
        persistent = set(self.model.state_dict(keep_vars=True))
        for name, parameter in self.model.named_parameters():
            with self.gathered([parameter]):
                yield name, parameter.detach()
        for name, buffer in self.model.named_buffers():
            if name in persistent:
                yield name, buffer.detach()

    def save(self, folder: Path, state: Mapping[str, Any]) -> None:
        """See `ports.Policy`."""
        frozen = bool(self.adapters)  # weights of the parent checkpoint are not saved again
        self.engine.save_checkpoint(
            str(folder), tag="engine", client_state={"cascade": dict(state)}, exclude_frozen_parameters=frozen
        )

    def load(self, folder: Path) -> Mapping[str, Any]:
        """See `ports.Policy`. Raises `EngineError` when the folder holds no engine state."""
        if not (folder / "engine").is_dir():
            raise EngineError(f"{folder} holds no engine state.", "Delete the folder to go on from an earlier one.")
        _, state = self.engine.load_checkpoint(str(folder), tag="engine", load_module_strict=not self.adapters)
        return state["cascade"]

    def close(self) -> None:
        """Frees the engine; the next stage builds its own."""
        self.engine.destroy()
        del self.engine, self.model
        gc.collect()

    def _clip(self) -> None:
        parameters = [parameter for parameter in self.model.parameters() if parameter.grad is not None]
        self._clipped_norm = float(torch.nn.utils.clip_grad_norm_(parameters, self.engine.gradient_clipping()))

    def gathered(self, parameters: list[nn.Parameter]) -> Any:
        """A context in which these parameters are whole. Collective."""
        if self.zero_stage < 3:
            return nullcontext()
        import deepspeed

        return deepspeed.zero.GatheredParameters(parameters)


class DeepSpeedPolicy(DeepSpeedEngine):
    """Implements `ports.Policy`. Every rank constructs it and makes the same calls in the same order."""

    def __init__(self, path: str | Path, config: PolicyConfig, stage: StageBase, *, freeze_router: bool) -> None:
        """Loads the checkpoint at `path` and shards it. Raises `EngineError` for what cannot be trained rightly."""
        check_folder(path, config)
        model = loaded(lambda: load_model(path, config), config)
        module = log_prob_model(model, config)
        super().__init__(model, module, config, stage, freeze_router=freeze_router)
        require_same_in_slices(self.engine, module)
        if config.packing:
            require_documents_apart(self.engine, model)

    def log_probs(
        self, batch: PackedBatch, temperature: float = 1.0, candidates: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """See `ports.Policy`."""
        with self.experts.forward_pass(batch):
            return self.engine(batch.input_ids, batch.position_ids, batch.loss_mask, temperature, candidates)


def loaded(load: Callable[[], Any], config: PolicyConfig) -> Any:
    """The model that `load` returns, under ZeRO-3 in shards from the first. What fails on a rank fails on all."""
    parallel.start()
    _import_deepspeed()
    require_offload(config)
    cut = config.zero_stage == 3
    with arriving_in_shards(engine_config(config), DTYPES[config.dtype]) if cut else nullcontext():
        return parallel.everywhere(load)


def _adapters(model: Any, config: PolicyConfig) -> Any:
    if config.lora is None:
        return None
    from cascade.policy.lora import add_adapters  # peft takes seconds to import

    return add_adapters(model, config)


def _decayed_groups(model: Any, weight_decay: float) -> list[dict[str, Any]]:
    """Weight decay on matrices; none on norms, biases and other vectors."""
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trainable if len(whole_shape(p)) >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trainable if len(whole_shape(p)) < 2], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def _import_deepspeed() -> Any:
    """DeepSpeed, joined to the process group. It prints what it built on stdout, and only its warnings are wanted."""
    os.environ.setdefault("TORCH_EXTENSIONS_DIR", str(extensions_dir()))
    if parallel.world_size() == 1:
        os.environ.setdefault("LOCAL_RANK", "0")  # asked for even where no launcher was
    # DeepSpeed calls collectives by the names they had before torch 2.13.
    old_names = "`torch.distributed.(all_gather_into_tensor|reduce_scatter_tensor)` is deprecated"
    warnings.filterwarnings("ignore", message=old_names, category=FutureWarning)
    with redirect_stdout(io.StringIO()):
        import deepspeed
        import deepspeed.utils.logging as logging

        logging.set_log_level_from_string("warning")
        if not deepspeed.comm.is_initialized():
            deepspeed.init_distributed(dist_backend="nccl" if torch.cuda.is_available() else "gloo", verbose=False)
    return deepspeed
