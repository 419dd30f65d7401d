"""Every key of every recipe: type, unit, default and meaning. A key that is not here is an error.

`compose.py` reads YAML and the command line into a mapping; `Recipe` below is what that mapping must be.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

CLOSED = ConfigDict(extra="forbid")

Positive = Annotated[int, Field(ge=1, strict=True)]
NonNegative = Annotated[int, Field(ge=0, strict=True)]
Share = Annotated[float, Field(ge=0.0, le=1.0, strict=True)]
PositiveFloat = Annotated[float, Field(gt=0.0, strict=True, allow_inf_nan=False)]
NonNegativeFloat = Annotated[float, Field(ge=0.0, strict=True, allow_inf_nan=False)]
Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Switch = Annotated[bool, Field(strict=True)]


def key(default: Any, doc: str, **more: Any) -> Any:
    """A documented key with a default."""
    factory = default if callable(default) else None
    return (
        Field(default_factory=factory, description=doc, **more) if factory else Field(default, description=doc, **more)
    )


def required(doc: str, **more: Any) -> Any:
    """A documented key that every recipe must give."""
    return Field(description=doc, **more)


@dataclass(config=CLOSED)
class ModelConfig:
    """The base model: loaded from a folder or hub id, or built from scratch from an architecture's own config.

    With both, `path` is loaded, and `architecture` and `config` declare its shape: it can be planned with where it is
    not, and what is loaded must have that shape.
    """

    path: str | None = key(None, "Hugging Face folder or hub id to start from")
    architecture: str | None = key(None, "transformers model type, e.g. qwen3_moe: of `path`, or to build from scratch")
    config: dict[str, Any] = key(dict, "keys of that architecture's transformers config; an unknown one is refused")
    tokenizer: str | None = key(None, "folder or hub id, or `characters`; default: the model's own")
    chat_template: str | None = key(None, "a bundled template (`chatml`, `characters`) or a .jinja file; default: own")


@dataclass(config=CLOSED)
class LoraConfig:
    """Low-rank adapters trained in place of the weights (Hu et al. 2021); exports hold the merged weights."""

    rank: Positive = key(16, "of an adapter's two matrices")
    alpha: PositiveFloat = key(32.0, "adapters are scaled by alpha / rank")
    targets: list[str] = key(
        list, "last parts of names of linear layers; default: all of attention, MLPs and shared experts, none of Mamba"
    )
    experts: Switch = key(False, "adapters on routed experts too, a pair of matrices each")


@dataclass(config=CLOSED)
class PolicyConfig:
    """How the model in training is held and fed."""

    zero_stage: Literal[0, 1, 2, 3] = key(1, "DeepSpeed ZeRO stage")
    dtype: Literal["fp32", "bf16"] = key("bf16", "parameters and activations; optimiser state is fp32")
    packing: Switch = key(True, "several documents a row, which see nothing of each other; off: one a row")
    row_tokens: Positive = key(4096, "tokens in a row of a micro-batch; the longest sequence must fit")
    rows_per_micro_batch: Positive = key(1, "rows of a micro-batch on one process")
    max_grad_norm: PositiveFloat = key(1.0, "gradient clipping by global norm")
    activation_checkpointing: Switch = key(False, "recompute activations in the backward pass")
    log_prob_chunk: Positive = key(1024, "tokens whose logits exist at once")
    attention: Literal["sdpa", "eager", "flash_attention_2", "flash_attention_3"] = key("sdpa", "attention kernels")
    experts: Literal["grouped_mm", "batched_mm", "eager"] = key("grouped_mm", "mixture-of-experts kernels")
    expert_parallel: Positive = key(1, "processes that share a layer's experts (DeepSpeed AutoEP, ZeRO 1 and 2)")
    sequence_parallel: Positive = key(1, "processes that share a row's tokens (Ulysses)")
    offload_optimizer: Literal["none", "cpu", "nvme"] = key("none", "where the optimiser's state is (ZeRO 1 to 3)")
    offload_parameters: Literal["none", "cpu", "nvme"] = key("none", "where unused parameters are (ZeRO-3)")
    offload_folder: str | None = key(None, "nvme: folder on a fast local disk")
    lora: LoraConfig | None = key(None, "train low-rank adapters in place of the weights")
    deepspeed: str | None = key(None, "your own DeepSpeed JSON; `auto` values are filled in from the recipe")


@dataclass(config=CLOSED)
class RolloutConfig:
    """The engine that samples."""

    engine: Literal["hf", "vllm_inprocess", "vllm_server"] = key(
        "hf",
        "hf: transformers `generate` inside the training process; vllm_inprocess: vLLM there, one process only; "
        "vllm_server: vLLM servers",
    )
    batch_sequences: Positive = key(256, "hf: sequences sampled at once on one process")
    max_model_len: Positive | None = key(None, "vllm: tokens of prompt and completion; default: the model's own limit")
    kv_cache_gib: PositiveFloat = key(1.0, "vllm on a CPU: memory of a replica's keys and values")
    gpu_memory_utilization: Share = key(0.85, "vllm on GPUs: share of a GPU's memory a replica takes")
    tensor_parallel: Positive = key(1, "vllm_server: GPUs of a replica")
    replicas: Positive = key(1, "vllm_server: servers started on the first node")
    urls: list[str] = key(list, "vllm_server: servers that run already, in place of `replicas`")
    transport: Literal["shm", "disk", "gloo", "nccl", "ipc"] = key("shm", "vllm_server: the way published weights take")
    bucket_mib: Positive = key(512, "vllm: how much of the model exists twice while it is published")
    restart_copy_every: Positive = key(1, "vllm_server: publishes between the copies a dead replica restarts from")
    request_timeout_s: PositiveFloat = key(600.0, "vllm_server: deadline of one request; then another replica gets it")
    start_timeout_s: PositiveFloat = key(600.0, "vllm_server: deadline of a replica's start")
    record_routing: Switch = key(
        False, "rollouts come with the experts that their tokens went to; on by itself where a stage replays them"
    )
    canary_every: NonNegative = key(10, "publishes between proofs that the engine has the policy's weights; 0: none")
    canary_threshold: PositiveFloat | None = key(
        None, "mean |log pi_train - log pi_inf| that stops the run, nats; default: 1e-4 in fp32, 0.15 in bf16"
    )


@dataclass(config=CLOSED)
class TeachersConfig:
    """What scores teachers, and the reference of a KL term."""

    engine: Literal["local", "vllm_server"] = key("local", "local: in the training process; vllm_server: vLLM servers")
    resident: Positive = key(1, "local: teachers in memory at once; with fewer than there are, they are read in turn")
    replicas: Positive = key(1, "vllm_server: servers started; where teachers are more, they share them in turn")
    urls: list[str] = key(list, "vllm_server: servers that run already, in place of `replicas`")
    batch_sequences: Positive = key(64, "vllm_server: sequences that a server scores at once")


@dataclass(config=CLOSED)
class VerifiersConfig:
    """What turns answers into verdicts where an environment sets a deadline: worker processes."""

    engine: Literal["local", "ray"] = key("local", "local: on this machine; ray: on the nodes of a Ray cluster")
    workers: Positive | None = key(None, "processes that score; default: one a core, on a cluster one a CPU of it")
    cache_entries: NonNegative = key(100_000, "verdicts remembered by row and answer; 0: none")
    retries: NonNegative = key(2, "of a verdict that a busy or lost machine did not deliver")
    memory_gib: PositiveFloat = key(2.0, "of a worker; an answer that needs more is the model's own fault")
    address: str | None = key(None, "ray: of the cluster; default: `$RAY_ADDRESS`, else one is started here")


@dataclass(config=CLOSED)
class SlurmConfig:
    """What a SLURM job asks for."""

    partition: str | None = key(None, "partition; default: the cluster's own")
    account: str | None = key(None, "who pays; default: the user's own")
    time_limit: str | None = key(None, "[DAYS-]HOURS:MINUTES:SECONDS; default: the partition's")
    constraint: str | None = key(None, "features that nodes must have")
    gres: str | None = key(None, "a node's accelerators, e.g. gpu or gpu:h100; default: none are asked for")
    cpus_per_process: Positive | None = key(None, "cores of a training process; default: the cluster's own")
    memory_gib: Positive | None = key(None, "memory of a node; default: the cluster's own")
    container: str | None = key(None, "image in which everything runs (pyxis: `srun --container-image`)")
    container_mounts: list[str] = key(list, "FROM:TO of folders seen in the container; the run folder must be one")
    requeue: Switch = key(True, "queue the job again before its time limit, when preempted, and when a node fails")
    signal_s: Positive = key(120, "seconds before the time limit at which the job queues itself again")
    requeues: NonNegative = key(100, "how often it may; then it ends")
    lines: list[str] = key(list, "more `#SBATCH` options of every part, e.g. `--exclusive`")
    setup: list[str] = key(list, "shell lines before anything starts, e.g. `module load cuda`")


@dataclass(config=CLOSED)
class KubernetesConfig:
    """What the manifests of a run say."""

    image: str | None = key(None, "container image that holds Cascade; needed")
    namespace: str = key("default", "of every object")
    volume_claim: str | None = key(None, "PersistentVolumeClaim (ReadWriteMany) that holds the run folder; needed")
    mount: str = key("/shared", "where the volume is seen; the run folder must lie below it")
    gpu_resource: str | None = key("nvidia.com/gpu", "resource name of accelerators; null: none are asked for")
    shared_memory_gib: Positive = key(64, "size of /dev/shm")
    service_account: str | None = key(None, "of the pods; default: the namespace's own")


@dataclass(config=CLOSED)
class LaunchConfig:
    """How processes are started, and how long they wait for each other."""

    kind: Literal["inline", "torchrun", "slurm", "kubernetes"] = key(
        "inline",
        "inline: in this process, or in those of a launcher of your own; torchrun: `processes` on each of `nodes`; "
        "slurm: by a job that is written and submitted; kubernetes: by manifests that are written and applied",
    )
    nodes: Positive = key(1, "machines that train")
    processes: Positive = key(1, "training processes on a node")
    threads: Positive | None = key(None, "torch threads a process; default: cores divided by processes")
    rendezvous: str | None = key(None, "torchrun on several nodes: HOST:PORT where they meet, HOST being one of them")
    max_restarts: NonNegative = key(0, "torchrun: how often all processes are started again after one has failed")
    collective_timeout_s: PositiveFloat = key(1800.0, "deadline of a collective: how long ranks wait for each other")
    peer_timeout_s: PositiveFloat = key(60.0, "several nodes: silence after which a node is lost and the run ends")
    start_timeout_s: PositiveFloat = key(600.0, "deadline for every part of a run to be there")
    rollout_nodes: NonNegative = key(0, "slurm, kubernetes: nodes of `rollout.replicas` servers; 0: the first node")
    teacher_nodes: NonNegative = key(0, "slurm, kubernetes: nodes of `teachers.replicas` servers; 0: the first")
    verifier_nodes: NonNegative = key(0, "slurm: nodes of a Ray cluster for verifiers=ray; 0: none of their own")
    slurm: SlurmConfig = key(SlurmConfig, "the job")
    kubernetes: KubernetesConfig = key(KubernetesConfig, "the manifests")

    @property
    def world_size(self) -> int:
        """Training processes, over all nodes."""
        return self.nodes * self.processes


@dataclass(config=CLOSED)
class ClusterConfig:
    """The machines a recipe is planned for. Nothing is asked of them: figures are the maker's."""

    gpu: str = required("name of the accelerator, e.g. H100-SXM-80GB")
    nodes: Positive = key(1, "machines")
    gpus_per_node: Positive = key(8, "accelerators of a machine")
    gpu_memory_gib: PositiveFloat = required("memory of one, as its driver reports it")
    bf16_tflops: PositiveFloat = required("dense bf16 peak of one")
    memory_gb_s: PositiveFloat = required("memory bandwidth of one, GB/s")
    intra_node_gb_s: PositiveFloat = required("to the others of its machine, GB/s one way, of one")
    inter_node_gb_s: PositiveFloat = required("to other machines, GB/s one way, of one")
    host_memory_gib: PositiveFloat = key(2048.0, "memory of a machine")
    host_gb_s: PositiveFloat = key(50.0, "between one accelerator and its machine's memory, GB/s one way")
    cpu_cores: Positive = key(96, "of a machine")
    kernel_us: NonNegativeFloat = key(8.0, "between the starts of two kernels in eager PyTorch, microseconds")
    price_per_gpu_hour: NonNegativeFloat = key(0.0, "USD; 0: not known")


@dataclass(config=CLOSED)
class PlanningConfig:
    """What `cascade plan` assumes of lengths and verdicts that nobody has measured yet."""

    mean_completion_share: Share = key(0.35, "mean tokens of an answer, as a share of its limit")
    length_sigma: NonNegativeFloat = key(0.8, "answers are log-normal: standard deviation of the log of their tokens")
    completion_tokens: dict[str, Positive] = key(dict, "environment -> mean tokens of an answer, where they are known")
    prompt_tokens: dict[str, Positive] = key(dict, "environment -> mean tokens of a prompt; default: by its kind")
    demonstration_tokens: dict[str, Positive] = key(
        dict, "environment -> mean tokens of a conversation to learn from; default: by its kind"
    )
    verdict_s: dict[str, NonNegativeFloat] = key(
        dict, "environment -> seconds of a worker that a verdict takes; default: by its kind"
    )


@dataclass(config=CLOSED)
class TrackingConfig:
    """What is recorded beside the files of the run folder."""

    wandb: Literal["online", "offline", "off"] = key("off", "wandb client mode")
    wandb_project: str = key("cascade", "wandb project")
    samples_every: NonNegative = key(20, "steps between tables of sample rollouts on the console; 0: none")
    rollouts_every: NonNegative = key(1, "steps between parquet files of rollouts; 0: none")


@dataclass(config=CLOSED)
class PenaltiesConfig:
    """What faults of writing take off a reward; as much as the highest reward zeroes it, as later recipes do."""

    empty_answer: NonNegativeFloat = key(0.0, "the last turn has no answer")
    reasoning_as_answer: NonNegativeFloat = key(0.0, "in any turn, reasoning and answer are the same text")
    think_tags: NonNegativeFloat = key(0.0, "any turn has more or fewer tags of reasoning than its mode asks for")


@dataclass(config=CLOSED)
class EnvironmentConfig:
    """One environment: rows, prompts and reward of a domain."""

    kind: str = required("a built-in environment, or the dotted path of your own class")
    domain: str = required("the capability it trains and is evaluated under")
    max_completion_length: Positive = key(
        256, "tokens; the limit in evaluation and, unless a stage says less, in training"
    )
    thinking: Switch | None = key(None, "ask for reasoning, or for none; default: what the chat template does")
    penalties: PenaltiesConfig = key(PenaltiesConfig, "taken off rewards above 0, down to 0")
    params: dict[str, Any] = key(dict, "the environment's own parameters; an unknown one is refused")


@dataclass(config=CLOSED)
class EvaluationConfig:
    """Every environment is evaluated after every stage."""

    validation_rows: Positive = key(200, "rows an environment, used to choose teachers and by gates")
    test_rows: Positive = key(300, "rows an environment, used for reporting only")
    samples: Positive = key(1, "k answers a row, for avg@k and pass@k")
    temperature: NonNegativeFloat = key(0.0, "0: greedy")


@dataclass(config=CLOSED)
class GateConfig:
    """A rule on validation scores after a stage."""

    max_drop: dict[str, Share] = key(dict, "domain -> largest tolerated fall of the mean against the parent")
    min_score: dict[str, Share] = key(dict, "domain -> smallest tolerated mean")
    action: Literal["warn", "stop", "rollback"] = key("warn", "rollback: children go on from the parent's checkpoint")


@dataclass(config=CLOSED, kw_only=True)
class StageBase:
    """Keys that every kind of stage has."""

    parent: str | None = Field(
        default=None,
        alias="from",
        description="stage to start from; default: the one before, and behind a reward model that model's own parent",
    )
    mix: dict[str, PositiveFloat] = required("environment -> weight in the blend", min_length=1)
    max_steps: NonNegative = required("optimiser steps")
    learning_rate: NonNegativeFloat = required("peak rate")
    lr_schedule: Literal["constant", "cosine", "linear"] = key("constant", "shape after the warm-up")
    min_lr_ratio: Share = key(0.0, "the schedule ends at this share of the peak")
    warmup_steps: NonNegative = key(0, "linear warm-up")
    warmup_start_ratio: Share = key(0.1, "the warm-up starts at this share of the peak")
    weight_decay: NonNegativeFloat = key(0.0, "decoupled, on matrices only")
    adam_beta1: Share = key(0.9, "AdamW")
    adam_beta2: Share = key(0.95, "AdamW")
    adam_epsilon: PositiveFloat = key(1e-8, "AdamW")
    router_aux_loss_coef: NonNegativeFloat = key(
        0.0, "times every layer's load-balancing loss over each document's tokens; needs `freeze_router: false`"
    )
    expert_bias_update_rate: NonNegativeFloat = key(
        0.0, "what a router's selection bias moves by a step towards an even load, where the architecture has one"
    )
    save_steps: Positive = key(50, "steps between checkpoints one can resume from")
    gates: list[GateConfig] = key(list, "checked after the stage's evaluation")


@dataclass(config=CLOSED, kw_only=True)
class SftStage(StageBase):
    """Supervised fine-tuning on demonstrations: loss on assistant tokens only."""

    kind: Literal["sft"] = "sft"
    freeze_router: Switch = key(False, "keep the experts' router as it is")
    batch_size: Positive = key(64, "conversations an optimiser step, over all processes")


@dataclass(config=CLOSED, kw_only=True)
class RewardModelStage(StageBase):
    """A reward model: a scalar head on the parent's backbone, trained on preference pairs (Ouyang et al. 2022, eq. 1).

    One document a row, whatever `policy.packing` says. Evaluated on the pairs of its own environments only, beside a
    baseline that sees nothing but lengths; no stage can start from it and no stage can have it as a teacher.
    """

    kind: Literal["reward_model"] = "reward_model"
    freeze_router: Switch = key(False, "keep the experts' router as it is")
    batch_size: Positive = key(64, "pairs an optimiser step, over all processes")


@dataclass(config=CLOSED, kw_only=True)
class SamplingStage(StageBase):
    """Keys of the stages that train on the policy's own rollouts."""

    freeze_router: Switch = key(True, "keep the experts' router as it is")
    prompts_per_step: Positive = key(128, "P, over all processes")
    num_generations: Positive = key(16, "G, rollouts of a prompt")
    temperature: PositiveFloat = key(1.0, "of sampling, scoring and training alike")
    max_completion_length: Positive | None = key(None, "tokens; default: each environment's own")
    overlong_penalty: Switch = key(False, "an unfinished rollout has reward 0")
    overlong_filtering: Switch = key(
        False, "an unfinished rollout is masked from the loss, its reward still counts in its group"
    )
    routing_replay: Switch = key(
        False, "train with the experts that were chosen at sampling, weighed by the router in training"
    )
    num_iterations: Positive = key(1, "optimiser steps on one batch of rollouts; 1 is strictly on-policy")
    max_staleness: NonNegative = key(
        0, "batches sampled ahead of training; 0: sample, then train; 1: both at once; more: publish in mid-rollout"
    )


@dataclass(config=CLOSED, kw_only=True)
class RlStage(SamplingStage):
    """Group-relative policy optimisation (Nemotron-Cascade 2, eq. 1)."""

    kind: Literal["rl"] = "rl"
    baseline: Literal["mean", "leave_one_out"] = key("mean", "what a reward is compared with in its group")
    scale_rewards: Switch = key(True, "divide by the group's standard deviation (off: Dr. GRPO)")
    loss_reduction: Literal["token", "sequence"] = key(
        "token", "mean over all tokens, or over sequences of token means"
    )
    importance: Literal["none", "clamp", "gate", "sequence_gate"] = key(
        "none", "weight by pi_train / pi_inf of the sampler"
    )
    importance_low: NonNegativeFloat = key(0.5, "lower bound of the importance ratio")
    importance_high: PositiveFloat = key(2.0, "upper bound of the importance ratio")
    ratio_level: Literal["token", "sequence"] = key("token", "policy ratio of off-policy steps (sequence: GSPO)")
    epsilon_low: NonNegativeFloat = key(0.2, "clip of off-policy steps, below")
    epsilon_high: NonNegativeFloat = key(0.28, "clip of off-policy steps, above")
    kl_coef: NonNegativeFloat = key(0.0, "k3 penalty against the parent checkpoint")
    reward_model: str | None = key(
        None,
        "a reward_model stage: its reward is added to those of the domain `preference`, and is the reward where the "
        "environment only holds pairs",
    )
    reward_model_weight: PositiveFloat = key(1.0, "what the reward model's reward is multiplied by")
    dynamic_filtering: Switch = key(True, "drop groups whose rewards are all equal and draw new prompts")
    max_refills: NonNegative = key(1, "rounds of new prompts after the first")
    min_best_reward: Number | None = key(
        None, "prompts of which no rollout's reward is above it are masked from the loss (0.5 in agentless repair)"
    )


@dataclass(config=CLOSED, kw_only=True)
class MopdStage(SamplingStage):
    """Multi-domain on-policy distillation (Nemotron-Cascade 2, eqs. 2-4)."""

    kind: Literal["mopd"] = "mopd"
    teachers: dict[str, str] = key(dict, "domain -> `best` or a stage; default: best")
    loss_reduction: Literal["sequence", "token"] = key("sequence", "mean over sequences of token means, or over tokens")
    importance: Literal["gate", "clamp", "sequence_gate", "none"] = key("gate", "weight by pi_train / pi_inf")
    importance_low: NonNegativeFloat = key(0.5, "below it a token is dropped (gate) or its weight clamped (clamp)")
    importance_high: PositiveFloat = key(2.0, "above it a token is dropped (gate) or its weight clamped (clamp)")
    teacher_mix: Annotated[float, Field(gt=0.0, le=1.0, strict=True)] = key(
        1.0, "alpha in log(alpha pi_T + (1-alpha) pi_S) - log pi_S"
    )
    advantage_clip: PositiveFloat | None = key(None, "largest |advantage| of a token, nats")
    outcome_weight: NonNegativeFloat = key(0.0, "adds this times the group-relative outcome advantage")
    top_k: Positive | None = key(
        None, "match the teacher's k likeliest tokens and a tail bucket instead of the sampled one"
    )


Stage = Annotated[SftStage | RlStage | MopdStage | RewardModelStage, Field(discriminator="kind")]
STAGES: dict[str, type[SftStage | RlStage | MopdStage | RewardModelStage]] = {
    "sft": SftStage,
    "rl": RlStage,
    "mopd": MopdStage,
    "reward_model": RewardModelStage,
}


@dataclass(config=CLOSED, kw_only=True)
class Recipe:
    """One whole post-training run."""

    name: str = required("name of the recipe; the file's own name unless it says another")
    run_dir: str = required("output folder")
    seed: NonNegative = key(0, "of weights, data order and sampling")
    model: ModelConfig = required("base model")
    policy: PolicyConfig = key(PolicyConfig, "the model in training")
    rollout: RolloutConfig = key(RolloutConfig, "the sampling engine")
    teachers: TeachersConfig = key(TeachersConfig, "the scoring engine")
    verifiers: VerifiersConfig = key(VerifiersConfig, "what scores answers under a deadline")
    launch: LaunchConfig = key(LaunchConfig, "processes")
    cluster: ClusterConfig | None = key(None, "machines to plan for")
    planning: PlanningConfig = key(PlanningConfig, "what a plan assumes of lengths and verdicts")
    tracking: TrackingConfig = key(TrackingConfig, "where metrics go")
    evaluation: EvaluationConfig = key(EvaluationConfig, "after every stage")
    environments: dict[str, EnvironmentConfig] = required("name -> environment", min_length=1)
    stages: dict[str, Stage] = required("name -> stage, in order", min_length=1)


def yaml_names(schema: type) -> list[str]:
    """The keys of a dataclass as they are typed."""
    return [_typed_name(field) for field in dataclasses.fields(schema)]


def keys_at(path: Sequence[str], mapping: Any, schema: Any = Recipe) -> list[str]:
    """The keys that are valid at `path` of a recipe, whose content says which kind of stage is where."""
    if typing.get_origin(schema) is Annotated:
        schema = typing.get_args(schema)[0]
    if typing.get_origin(schema) in (typing.Union, types.UnionType):
        options = typing.get_args(schema)
        schema = next(
            (option for option in options if getattr(option, "kind", None) == mapping.get("kind")), options[0]
        )
    if not path:
        return yaml_names(schema)
    if typing.get_origin(schema) in (dict, list):
        inner = typing.get_args(schema)[-1]
    else:
        hints = typing.get_type_hints(schema, include_extras=True)
        inner = next(hints[field.name] for field in dataclasses.fields(schema) if _typed_name(field) == path[0])
    here = mapping.get(path[0], {}) if isinstance(mapping, Mapping) else mapping[int(path[0])]
    return keys_at(path[1:], here, inner)


def _typed_name(field: dataclasses.Field[Any]) -> str:
    return getattr(field.default, "alias", None) or field.name
