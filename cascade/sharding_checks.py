"""What must hold between the keys that shard the policy. Checked on any laptop before anything is computed."""

from __future__ import annotations

from cascade.config import PolicyConfig, Recipe, RewardModelStage, SamplingStage
from cascade.errors import ConfigError
from cascade.launch_checks import training_processes
from cascade.origins import Origins


def check_sharding(recipe: Recipe, origins: Origins) -> None:
    """Raises `ConfigError` for the first thing that cannot be."""
    _check_sequence_parallel(recipe, origins)
    _check_expert_parallel(recipe, origins)
    _check_experts(recipe, origins)
    _check_offload(recipe, origins)
    _check_offload_folder(recipe, origins)
    _check_lora(recipe, origins)


def _check_offload(recipe: Recipe, origins: Origins) -> None:
    policy = recipe.policy
    if policy.offload_parameters != "none" and policy.zero_stage != 3:
        raise ConfigError(
            f"`policy.offload_parameters` in {origins.of(['policy', 'offload_parameters'])} needs ZeRO-3, but "
            f"`policy.zero_stage` is {policy.zero_stage}.",
            "Set `policy.zero_stage=3`, or remove it.",
        )
    if policy.offload_optimizer != "none" and policy.zero_stage == 0:
        raise ConfigError(
            f"`policy.offload_optimizer` in {origins.of(['policy', 'offload_optimizer'])} needs ZeRO 1 to 3, but "
            "`policy.zero_stage` is 0.",
            "Set `policy.zero_stage=1`, or remove it.",
        )


def _check_offload_folder(recipe: Recipe, origins: Origins) -> None:
    policy = recipe.policy
    on_disk = "nvme" in (policy.offload_optimizer, policy.offload_parameters)
    if on_disk and policy.offload_folder is None:
        raise ConfigError(
            "Something is offloaded to `nvme`, but `policy.offload_folder` does not say where.",
            "Set it to a folder on a fast local disk of every machine.",
        )
    if policy.offload_folder is not None and not on_disk:
        raise ConfigError(
            f"`policy.offload_folder` in {origins.of(['policy', 'offload_folder'])} has no effect: nothing is "
            "offloaded to `nvme`.",
            "Set `policy.offload_optimizer=nvme`, or remove it.",
        )


def _check_sequence_parallel(recipe: Recipe, origins: Origins) -> None:
    size, where = recipe.policy.sequence_parallel, origins.of(["policy", "sequence_parallel"])
    processes = training_processes(recipe)
    if processes % size:
        raise ConfigError(
            f"`policy.sequence_parallel` is {size} in {where}, which does not divide {processes} processes "
            f"(in {origins.of(['launch', 'processes'])}).",
            f"Choose a divisor of {processes}, or start a multiple of {size} processes.",
        )
    for name, stage in recipe.stages.items():
        if size > 1 and stage.router_aux_loss_coef:
            raise ConfigError(
                f"`stages.{name}.router_aux_loss_coef` in {origins.of(['stages', name, 'router_aux_loss_coef'])} "
                f"balances whole documents, of which every process has a part: `policy.sequence_parallel` is {size} in "
                f"{where}.",
                "Set one of the two off. (`expert_bias_update_rate` counts over all processes.)",
            )


EXPERT_PARALLEL = {"nemotron_h": "n_routed_experts", "qwen3_moe": "num_experts"}
"""Architectures whose experts can be shared out -> the key of their config that counts them."""


def against_expert_parallel(policy: PolicyConfig) -> str | None:
    """The key of the policy that expert parallelism cannot go with; None where there is none or nothing is asked."""
    if policy.expert_parallel == 1:
        return None
    agrees = {
        "zero_stage": policy.zero_stage in (1, 2),
        "lora": policy.lora is None,
        "experts": policy.experts != "batched_mm",
        "offload_optimizer": policy.offload_optimizer != "nvme",
        "offload_parameters": policy.offload_parameters == "none",
    }
    return next((key for key, fits in agrees.items() if not fits), None)


def _check_expert_parallel(recipe: Recipe, origins: Origins) -> None:
    size, where = recipe.policy.expert_parallel, origins.of(["policy", "expert_parallel"])
    if size == 1:
        return
    asked = f"`policy.expert_parallel` is {size} in {where}"
    key = against_expert_parallel(recipe.policy)
    if key:
        raise ConfigError(
            f"{asked}, which cannot go with `policy.{key}={getattr(recipe.policy, key)}` in "
            f"{origins.of(['policy', key])}.",
            "Experts are shared out under ZeRO 1 and 2, without LoRA, `experts=batched_mm`, offload to `nvme` and "
            "offload of parameters; set one of the two otherwise.",
        )
    architecture = recipe.model.architecture
    if architecture and architecture not in EXPERT_PARALLEL:
        raise ConfigError(
            f"{asked}, but `model.architecture` is {architecture}.",
            f"Remove it, or train {' or '.join(EXPERT_PARALLEL)}.",
        )
    experts = recipe.model.config.get(EXPERT_PARALLEL.get(architecture or "", ""), size)
    for number, of in ((training_processes(recipe), "processes"), (experts, "experts in a layer")):
        if number % size:
            raise ConfigError(f"{asked}, which does not divide {number} {of}.", f"Choose a divisor of {number}.")


def _check_experts(recipe: Recipe, origins: Origins) -> None:
    for name, stage in recipe.stages.items():
        where = {key: f"`stages.{name}.{key}` in {origins.of(['stages', name, key])}" for key in vars(stage)}
        if stage.router_aux_loss_coef and stage.freeze_router:
            raise ConfigError(
                f"{where['router_aux_loss_coef']} asks for a loss on the experts' routers, which `freeze_router` keeps "
                "as they are: it would move every other weight instead.",
                f"Set `stages.{name}.freeze_router=false`, or `stages.{name}.router_aux_loss_coef=0`.",
            )
        if stage.router_aux_loss_coef and recipe.policy.lora is not None:
            raise ConfigError(
                f"{where['router_aux_loss_coef']} asks for a loss on the experts' routers, and `policy.lora` in "
                f"{origins.of(['policy', 'lora'])} trains adapters in their place.",
                "Set one of the two off.",
            )
        in_process = recipe.rollout.engine == "vllm_inprocess"
        if isinstance(stage, SamplingStage) and stage.routing_replay and stage.max_staleness > 1 and in_process:
            raise ConfigError(
                f"{where['routing_replay']} needs the experts that every token was sampled with, which "
                f"rollout=vllm_inprocess loses where weights are published in mid-rollout: `max_staleness` is "
                f"{stage.max_staleness}.",
                f"Use rollout=vllm_server, or `stages.{name}.max_staleness=1`.",
            )


def _check_lora(recipe: Recipe, origins: Origins) -> None:
    if recipe.policy.lora is None:
        return
    for name, stage in recipe.stages.items():
        if isinstance(stage, RewardModelStage):
            raise ConfigError(
                f"`stages.{name}` trains a reward model, whose new head no adapter can stand in for, but `policy.lora` "
                f"in {origins.of(['policy', 'lora'])} freezes everything else.",
                "Train the reward model in a recipe of its own, or remove `policy.lora`.",
            )
