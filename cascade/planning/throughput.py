"""Seconds of training, scoring, judging and publishing in one step.

A step of training is its micro-batches one after the other on the busiest process, each a forward and a backward pass
of every block; then gradients are summed, the optimiser moves its share of the parameters, and new parameters are
gathered. Assumed of overlap: gathers and reductions of ZeRO-3 hide behind half of the computing
(`overlap_comm`, prefetching); everything else waits.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from cascade.config import ClusterConfig, PolicyConfig, RolloutConfig
from cascade.planning.device import Device, block_pass, device_of, head_seconds
from cascade.planning.flops import HEAD_RECOMPUTED, Documents, alike
from cascade.planning.network import Network, network_of
from cascade.planning.shapes import LayerShape, ModelShape
from cascade.planning.sizes import DTYPE_BYTES
from cascade.planning.workload import Answers, StageWork

PACKED = 0.95
"""Share of a packed row that documents of different lengths fill."""

BACKWARD_BUSY = 2.0
"""A backward pass computes and moves what two forward passes do."""

ZERO3_REACHED = 0.43
"""Share of a link that the many small gathers of ZeRO-3 reach; 0.7 in buckets."""

HIDDEN_COMMUNICATION = 0.5
"""Of the computing, what gathers of ZeRO-3 hide behind."""

FETCH_S = 150e-6
"""What ZeRO-3's hooks cost a block in each pass."""

OPTIMIZER_BYTES = 38
"""Moved by AdamW for one parameter: gradient, fp32 copy and two moments read, the last three and the parameter written,
the gradient's norm."""

HOST_ADAM_PARAMETERS_S = 1e10
"""Parameters a second that one machine's CPUs update (ZeRO-Offload, Ren et al. 2021, table 4: 1 B in 0.10 s)."""

NVME_BYTES_S = 6e9
"""Of one machine's disks."""

WAYS_BYTES_S = {"shm": 4e9, "disk": 1.5e9, "gloo": 1.2e9}
"""Published weights on their way through host memory, a file or TCP, with the copies at both ends."""

LOADING_BYTES_S = 12e9
"""What a vLLM worker takes in and lays out of published weights, once they have arrived."""

PAUSE_S = 0.5
"""Of a publish: replicas stop after a token, close the update, go on."""


@dataclass(frozen=True)
class TrainingTime:
    """Seconds of one step of training on the busiest process."""

    compute: float
    communication: float  # that computing does not hide
    optimizer: float
    micro_batches: int

    @property
    def total(self) -> float:
        """All of it."""
        return self.compute + self.communication + self.optimizer


@dataclass(frozen=True)
class MicroBatches:
    """How a step's documents reach one process."""

    count: int
    documents: Documents  # of one micro-batch, over a whole sequence-parallel group
    loss_tokens: float  # of one micro-batch


def micro_batches(work: StageWork, policy: PolicyConfig, ranks: int, *, packing: bool | None = None) -> MicroBatches:
    """The micro-batches of the busiest process when `ranks` processes share the step's documents."""
    groups = max(1, ranks // policy.sequence_parallel)
    packs = policy.packing if packing is None else packing
    rows = packed_rows(work, policy.row_tokens) if packs else float(work.sequences)
    own = max(1, math.ceil(math.ceil(rows) / groups))
    count = math.ceil(own / policy.rows_per_micro_batch)
    share = min(1.0, min(own, policy.rows_per_micro_batch) / max(rows, 1.0))
    full = own / count / min(own, policy.rows_per_micro_batch)  # the last one has fewer rows
    part = share * full
    return MicroBatches(count, work.documents.share(part), work.loss_tokens * part)


def packed_rows(work: StageWork, row_tokens: int) -> float:
    """Rows that the documents fill: counted where they are equally long, else as full as rows usually get."""
    lengths = {length for length, _ in work.documents.lengths}
    if len(lengths) == 1:
        return math.ceil(work.sequences / max(1, int(row_tokens // lengths.pop())))
    return work.tokens / (row_tokens * PACKED)


def training_time(
    shape: ModelShape,
    policy: PolicyConfig,
    cluster: ClusterConfig,
    work: StageWork,
    *,
    ranks: int,
    packing: bool | None = None,
) -> TrainingTime:
    """One optimiser step on the step's documents. `packing=False`: one document a row, whatever the policy says."""
    device, network = device_of(cluster, policy.dtype), network_of(cluster)
    batches = micro_batches(work, policy, ranks, packing=packing)
    compute = batches.count * _micro_batch_s(device, shape, policy, batches)
    hidden, waiting = _micro_batch_communication(network, shape, policy, batches, ranks)
    exposed = max(0.0, hidden * batches.count - HIDDEN_COMMUNICATION * compute) + waiting * batches.count
    exposed += _boundary_communication(network, shape, policy, ranks)
    return TrainingTime(compute, exposed, _optimizer_s(device, cluster, shape, policy, ranks), batches.count)


def _micro_batch_s(device: Device, shape: ModelShape, policy: PolicyConfig, batches: MicroBatches) -> float:
    documents = batches.documents.share(1 / policy.sequence_parallel)
    again = 1 if policy.activation_checkpointing else 0
    seconds = 0.0
    for layer, count in alike(shape):
        one = block_pass(device, shape, layer, documents, policy.expert_parallel)
        seconds += count * (1 + again) * one.seconds(device)
        seconds += count * one.seconds(device, BACKWARD_BUSY, device.shares.backward_kernels)
        seconds += count * (2 + again) * FETCH_S if policy.zero_stage == 3 else 0.0
    loss_tokens = batches.loss_tokens / policy.sequence_parallel
    return seconds + head_seconds(device, shape, loss_tokens, 1 + BACKWARD_BUSY + HEAD_RECOMPUTED)


def _micro_batch_communication(
    network: Network, shape: ModelShape, policy: PolicyConfig, batches: MicroBatches, ranks: int
) -> tuple[float, float]:
    """Seconds for one micro-batch: what may hide behind computing, and what computing waits for."""
    size, hidden, waiting = DTYPE_BYTES[policy.dtype], 0.0, 0.0
    whole = shape.total * size
    if policy.zero_stage == 3:  # gathered for both passes, gradients reduced and scattered
        hidden += 3 * network.gather_s(whole, ranks, ZERO3_REACHED)
    if policy.zero_stage == 2:
        hidden += network.gather_s(dense_parameters(shape, policy) * size, ranks)
        hidden += _expert_gather_s(network, shape, policy, ranks)
    passes = 2 + (1 if policy.activation_checkpointing else 0)
    tokens = batches.documents.tokens / policy.sequence_parallel
    for layer, count in alike(shape):
        if layer.kind == "moe" and policy.expert_parallel > 1:
            sent = tokens * layer.chosen * layer.expert_input * size
            waiting += 2 * passes * count * network.exchange_s(sent, policy.expert_parallel)
        if layer.kind in ("attention", "mamba") and policy.sequence_parallel > 1:
            sent = tokens * exchanged_width(layer) * size
            waiting += passes * count * network.exchange_s(sent, policy.sequence_parallel)
    return hidden, waiting


def exchanged_width(layer: LayerShape) -> int:
    """Numbers of a token that Ulysses hands over in a pass: into heads and back.

    Queries, keys, values and outputs; of Mamba-2 the gate, the convolution's channels, the steps, and outputs.
    """
    if layer.kind == "attention":
        return (2 * layer.heads + 2 * layer.kv_heads) * layer.head_dim
    return 2 * layer.heads * layer.head_dim + layer.convolution_width + layer.heads


def _boundary_communication(network: Network, shape: ModelShape, policy: PolicyConfig, ranks: int) -> float:
    """Once a step: gradients summed (ZeRO 0 and 1) and new parameters gathered (ZeRO 1 and 2)."""
    size = DTYPE_BYTES[policy.dtype]
    if policy.zero_stage == 3:
        return 0.0
    dense = network.gather_s(dense_parameters(shape, policy) * size, ranks)
    times = 2 if policy.zero_stage < 2 else 1  # the gradients of ZeRO-2 were scattered in every micro-batch
    return times * (dense + _expert_gather_s(network, shape, policy, ranks))


def dense_parameters(shape: ModelShape, policy: PolicyConfig) -> int:
    """Parameters that every process holds alike: all, or all but the routed experts where these are spread."""
    routed = shape.kinds["routed_experts"] if policy.expert_parallel > 1 else 0
    return shape.total - routed


def _expert_gather_s(network: Network, shape: ModelShape, policy: PolicyConfig, ranks: int) -> float:
    if policy.expert_parallel == 1:
        return 0.0
    own = shape.kinds["routed_experts"] * DTYPE_BYTES[policy.dtype] / policy.expert_parallel
    return network.strided_gather_s(own, ranks // policy.expert_parallel, policy.expert_parallel)


def owned_parameters(shape: ModelShape, policy: PolicyConfig, ranks: int) -> float:
    """Parameters that one process updates."""
    if policy.zero_stage == 0:
        return float(shape.total)
    return shape.total / ranks  # experts: 1/EP of them, over ranks/EP processes


def _optimizer_s(device: Device, cluster: ClusterConfig, shape: ModelShape, policy: PolicyConfig, ranks: int) -> float:
    owned = owned_parameters(shape, policy, ranks)
    here = min(ranks, cluster.gpus_per_node)  # processes of one machine, which share its CPUs and disks
    if policy.offload_optimizer == "none":
        return device.moving_s(owned * OPTIMIZER_BYTES)
    size = DTYPE_BYTES[policy.dtype]
    link = owned * (4 + size) / (cluster.host_gb_s * 1e9)  # gradients out, parameters in
    seconds = link + owned * here / HOST_ADAM_PARAMETERS_S
    return seconds + (owned * here * 24 / NVME_BYTES_S if policy.offload_optimizer == "nvme" else 0.0)


def scoring_seconds(
    shape: ModelShape,
    policy: PolicyConfig,
    cluster: ClusterConfig,
    work: StageWork,
    *,
    processes: int,
    tensor_parallel: int = 1,
) -> float:
    """Log-probabilities of the step's answers under another model that `processes` copies of it share.

    Copies in training processes and servers alike: one forward pass, in rows as the policy's. On a server of several
    GPUs each does its part and sums hidden states twice a layer.
    """
    device, network = device_of(cluster, policy.dtype), network_of(cluster)
    rows = max(1.0, work.tokens / policy.row_tokens) if policy.packing else float(work.sequences)
    own = math.ceil(rows / processes)
    documents = work.documents.share(own / rows / tensor_parallel)
    seconds = 0.0
    part = documents.share(1 / own)
    for layer, count in alike(shape):
        one = block_pass(device, shape, layer, part).seconds(device)
        if tensor_parallel > 1:
            one += network.reduce_s(part.tokens * tensor_parallel * shape.hidden * device.size, tensor_parallel)
        seconds += own * count * one
    return seconds + head_seconds(device, shape, work.loss_tokens * own / rows / tensor_parallel, 1.0)


def verification_seconds(answers: Sequence[Answers], workers: int, generation_s: float) -> float:
    """What judging adds behind sampling: verdicts begin when answers end, so most are made meanwhile.

    The last answers' verdicts come after it, and whatever the workers have not done by then.
    """
    if not answers:
        return 0.0
    work = sum(each.count * each.verdict_s / (each.judges or workers) for each in answers)
    last = max(each.verdict_s for each in answers)
    return max(last, work - generation_s)


def publishing_seconds(
    shape: ModelShape, policy: PolicyConfig, rollout: RolloutConfig, cluster: ClusterConfig, *, ranks: int, gpus: int
) -> float:
    """Handing the policy's weights to the engine: gathered from their shards, sent, laid out.

    `gpus`: of the replicas; 0 for an engine inside the training processes.
    """
    network, whole = network_of(cluster), shape.total * DTYPE_BYTES[policy.dtype]
    gathered = network.gather_s(whole, ranks, ZERO3_REACHED) if policy.zero_stage == 3 else 0.0
    if policy.expert_parallel > 1:
        experts = shape.kinds["routed_experts"] * DTYPE_BYTES[policy.dtype]
        gathered += network.gather_s(experts, policy.expert_parallel)
    copied = 2 * whole / (cluster.memory_gb_s * 1e9)
    if rollout.engine != "vllm_server":
        return gathered + copied
    if rollout.transport in WAYS_BYTES_S:
        return gathered + whole / WAYS_BYTES_S[rollout.transport] + PAUSE_S
    sent = network.broadcast_s(whole, gpus) if rollout.transport == "nccl" else copied
    return gathered + sent + whole / LOADING_BYTES_S + PAUSE_S
