"""Seconds that replicas need for the answers of one step: prompts read, tokens one after the other, the longest last.

A decode step of b sequences reads the weights that their tokens meet and every sequence's keys, values and states, or
computes, whichever takes longer; tensor parallelism splits both and sums hidden states twice a layer. Sequences are
batched continuously, as many as memory holds; when none waits any more, the batch shrinks until the longest one ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cascade.config import ClusterConfig, RolloutConfig
from cascade.planning.caches import SEQUENCES
from cascade.planning.device import HIDDEN_PASSES, KERNELS, Device, block_pass, device_of, touched_experts
from cascade.planning.flops import Documents, alike, decoding_flops
from cascade.planning.network import LATENCY_S, network_of
from cascade.planning.shapes import ModelShape
from cascade.planning.workload import Answers

SERVING_STEP_S = 0.005
"""vLLM's own work between two tokens: scheduling, sampling with log-probs, handing tokens over."""

SERVING_SEQUENCE_S = 25e-6
"""Of that, what one more sequence costs."""

CUSTOM_REDUCE_S = 8e-6
"""An all-reduce of a few hidden states inside a machine."""

DECODING_MATMUL = 0.5
"""Share of the peak that products with few rows reach when they compute more than they read."""

CACHE_COPIES = 3.0
"""transformers' cache is laid out anew for every token: read, copied, read."""


@dataclass(frozen=True)
class GenerationTime:
    """Sampling the answers of one step on the busiest replica."""

    total: float  # seconds
    prefill: float  # seconds of it
    sequences: int  # at once on a replica
    longest: float  # tokens


@dataclass(frozen=True)
class Decoder:
    """A replica as a clock: a decode step of b sequences takes `step_s(b)`, prefill `prefill_s` a prompt token."""

    device: Device
    cluster: ClusterConfig
    shape: ModelShape
    gpus: int  # tensor parallelism
    served: bool  # by vLLM, with fused kernels and captured graphs; else transformers' own

    def step_s(self, sequences: float, context: float) -> float:
        """Seconds in which each of so many sequences gets a token, `context` tokens being behind it on average."""
        return max(self._reading_s(sequences, context), self._computing_s(sequences, context)) + self._own_s(sequences)

    def prefill_s(self, prompt: float) -> float:
        """Seconds to read a prompt."""
        documents = Documents(((prompt, 1.0),)).share(1 / self.gpus)
        blocks = sum(
            count * block_pass(self.device, self.shape, layer, documents).busy_s for layer, count in alike(self.shape)
        )
        sums = 2 * prompt * self.shape.hidden * self.device.size * len(self.shape.layers)
        return blocks + (network_of(self.cluster).reduce_s(sums, self.gpus) if self.gpus > 1 else 0.0)

    def _reading_s(self, sequences: float, context: float) -> float:
        size, weights, cache = self.device.size, float(self.shape.lm_head), 0.0
        for layer, count in alike(self.shape):
            idle = layer.routed * (1 - touched_experts(layer, sequences) / layer.experts) if layer.experts else 0.0
            weights += count * (layer.parameters - idle)
            if layer.kind == "attention":
                cache += count * layer.cache_width * (min(context, layer.window) if layer.window else context)
            if layer.kind == "mamba":  # states in fp32, read and written
                cache += count * 2 * 4 / size * layer.heads * layer.head_dim * layer.state
        copies = 1.0 if self.served else CACHE_COPIES
        moved = (weights + copies * cache * sequences) * size + sequences * self.shape.vocabulary * 4 * 3
        return self.device.moving_s(moved / self.gpus)

    def _computing_s(self, sequences: float, context: float) -> float:
        flops = decoding_flops(self.shape, [context]) * sequences
        return flops / (self.device.flops * DECODING_MATMUL * self.gpus)

    def _own_s(self, sequences: float) -> float:
        layers = len(self.shape.layers)
        if not self.served:
            return sum(KERNELS[layer.kind] * count for layer, count in alike(self.shape)) * self.device.kernel_s
        reading = HIDDEN_PASSES * self.shape.hidden * self.device.size * sequences * layers
        summing = layers * CUSTOM_REDUCE_S if self.gpus > 1 else 0.0
        crossing = layers * LATENCY_S if self.gpus > self.cluster.gpus_per_node else 0.0
        return SERVING_STEP_S + SERVING_SEQUENCE_S * sequences + summing + crossing + self.device.moving_s(reading / 4)


def decoder(shape: ModelShape, rollout: RolloutConfig, cluster: ClusterConfig, dtype: str) -> Decoder:
    """A replica of the rollout engine: of vLLM, or of `generate` inside a training process."""
    served = rollout.engine != "hf"
    gpus = rollout.tensor_parallel if rollout.engine == "vllm_server" else 1
    return Decoder(device_of(cluster, dtype), cluster, shape, gpus, served)


def generation_time(
    replica: Decoder, answers: Sequence[Answers], *, replicas: int, room: int, prompts: int
) -> GenerationTime:
    """The answers of one step, spread evenly over `replicas` of which each holds `room` sequences at once.

    `prompts`: different ones; a replica reads each of its own once, and keys and values of its start are shared
    (vLLM's prefix cache), unless layers carry a state or the engine is `hf`.
    """
    count = sum(each.count for each in answers) / replicas
    room = max(1, min(room, SEQUENCES, round(count + 0.5)))
    shared = replica.served and not any(layer.kind == "mamba" for layer in replica.shape.layers)
    mean_prompt = sum(each.prompt * each.count for each in answers) / max(1.0, count * replicas)
    reads = max(1.0, prompts / replicas) if shared else count
    prefill = reads * replica.prefill_s(mean_prompt)
    longest = max(each.longest for each in answers)
    if not replica.served:
        return GenerationTime(prefill + _batches_s(replica, answers, count, room, mean_prompt), prefill, room, longest)
    return GenerationTime(prefill + _continuous_s(replica, answers, count, room, mean_prompt), prefill, room, longest)


def _survivors(answers: Sequence[Answers]) -> list[tuple[float, float, float]]:
    """(from token, to token, share of the answers that are longer): steps of their survival curve."""
    total = sum(each.count for each in answers)
    lengths = sorted((tokens, count / total) for each in answers for tokens, count in each.lengths())
    lengths.append((max(lengths[-1][0], max(each.longest for each in answers)), 0.0))
    found, start, left = [], 0.0, 1.0
    for tokens, share in lengths:
        found.append((start, tokens, left))
        start, left = tokens, max(left - share, 0.0)
    return found


def _continuous_s(replica: Decoder, answers: Sequence[Answers], count: float, room: int, prompt: float) -> float:
    """`room` sequences at once while others wait, then those that are left until the longest ends."""
    mean = sum(each.mean * each.count for each in answers) / sum(each.count for each in answers)
    waiting = max(0.0, count - room)
    full = waiting * mean / room * replica.step_s(room, prompt + mean / 2)
    running = min(float(room), count)
    return full + sum(
        (end - start) * replica.step_s(max(1.0, running * left), prompt + (start + end) / 2)
        for start, end, left in _survivors(answers)
        if end > start
    )


def _batches_s(replica: Decoder, answers: Sequence[Answers], count: float, room: int, prompt: float) -> float:
    """Batches of `room` sequences, each as long as its longest, none leaving before."""
    longest = max(each.longest for each in answers)
    batches = max(1.0, count / room)
    return batches * longest * replica.step_s(min(float(room), count), prompt + longest / 2)
