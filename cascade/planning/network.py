"""How long accelerators take to exchange data: collectives over processes of one machine and of several."""

from __future__ import annotations

import math
from dataclasses import dataclass

from cascade.config import ClusterConfig

REACHED = 0.7
"""Share of a link's one-way bandwidth that a bucketed collective reaches."""

LATENCY_S = 30e-6
"""Of one collective."""


@dataclass(frozen=True)
class Network:
    """The links of a cluster, as one process sees them."""

    gpus_per_node: int
    intra: float  # bytes a second, one way, of one accelerator to others of its machine
    inter: float  # to other machines

    def gather_s(self, size: float, ranks: int, reached: float = REACHED) -> float:
        """All-gather after which each of `ranks` processes has `size` bytes; a reduce-scatter takes as long.

        Every process takes in all but its own part over the machine's links; every machine takes in what it lacks
        over the adapters of all its processes at once (NCCL's trees and rings do no better). The slower of the two.
        """
        if ranks <= 1 or not size:
            return 0.0
        here = min(ranks, self.gpus_per_node)
        nodes = math.ceil(ranks / self.gpus_per_node)
        inside = size * (ranks - 1) / ranks / self.intra if here > 1 else 0.0
        outside = size * (nodes - 1) / nodes / (here * self.inter)
        return max(inside, outside) / reached + LATENCY_S

    def reduce_s(self, size: float, ranks: int, reached: float = REACHED) -> float:
        """All-reduce of `size` bytes: a reduce-scatter and an all-gather."""
        return 2 * self.gather_s(size, ranks, reached)

    def strided_gather_s(self, size: float, ranks: int, stride: int) -> float:
        """All-gather over `ranks` processes of which neighbours are `stride` apart, as replicas of experts are.

        Where the stride is a whole machine, each process has but its own adapter; others of its machine do the same
        for their own experts at the same time.
        """
        if ranks <= 1 or not size:
            return 0.0
        here = max(1, min(ranks, self.gpus_per_node // stride))
        nodes = math.ceil(ranks / here)
        inside = size * (ranks - 1) / ranks / self.intra if here > 1 else 0.0
        outside = size * (nodes - 1) / nodes / (here * self.inter) if nodes > 1 else 0.0
        return max(inside, outside) / REACHED + LATENCY_S

    def exchange_s(self, sent: float, ranks: int) -> float:
        """All-to-all in which each of `ranks` neighbouring processes has `sent` bytes, its own part included."""
        if ranks <= 1 or not sent:
            return 0.0
        here = min(ranks, self.gpus_per_node)
        inside = sent * (here - 1) / ranks / self.intra
        outside = sent * (ranks - here) / ranks / self.inter
        return max(inside, outside) / REACHED + LATENCY_S

    def broadcast_s(self, size: float, receivers: int) -> float:
        """From one process to others, in a chain: as long as the slowest link takes for all of it."""
        link = self.intra if receivers < self.gpus_per_node else self.inter
        return size / (link * REACHED) + LATENCY_S if receivers else 0.0


def network_of(cluster: ClusterConfig) -> Network:
    """The links of a cluster."""
    return Network(cluster.gpus_per_node, cluster.intra_node_gb_s * 1e9, cluster.inter_node_gb_s * 1e9)
