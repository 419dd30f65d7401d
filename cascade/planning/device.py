"""How fast one accelerator computes: peaks as the maker gives them, and the shares of them that kernels reach."""

from __future__ import annotations

from dataclasses import dataclass

from cascade.config import ClusterConfig
from cascade.planning.flops import Documents, block_flops
from cascade.planning.shapes import LayerShape, ModelShape
from cascade.planning.sizes import DTYPE_BYTES


@dataclass(frozen=True)
class Shares:
    """Shares of the peaks that kernels reach. Sources: docs/planning.md."""

    matmul: float  # large matrices
    grouped: float  # experts, once each has many tokens
    attention: float
    scan: float
    memory: float  # of the bandwidth, in reading and writing whole tensors
    half_tokens: int  # tokens at which a matrix product reaches half its share
    backward_kernels: float  # kernels of a backward pass, a forward pass being 1
    scan_bytes: float  # that a token's scan moves, times heads x chunk x state; 0: a fused kernel


GPU = Shares(0.50, 0.30, 0.35, 0.10, 0.70, 96, 1.5, 0.0)
CPU = Shares(1.0, 0.8, 0.35, 0.25, 0.2, 64, 2.0, 3.0)
"""The peaks of a cluster whose `gpu` begins with `cpu` are measured, not the maker's (`benchmarks/plan_time.py`)."""

FP32_SHARE = 1 / 15
"""Of a GPU's bf16 peak: products in full fp32, as PyTorch makes them by default."""

KERNELS = {"attention": 40, "mamba": 45, "mlp": 16, "moe": 70}
"""Kernels that a block starts in a forward pass of transformers' own code, norms and residuals included."""

DISPATCH_KERNELS = 400
"""What spreading experts over processes costs beside that, in kernels: sorting, exchanging sizes and waiting for them
on the host, two exchanges of tokens. Fitted to DeepSpeed#8064."""

HIDDEN_PASSES = 18
"""Times that a block reads or writes its hidden states outside of products: norm (in fp32), residual, casts."""

LOGIT_PASSES = 8
"""Times that fp32 logits are read or written: softmax, its entropy, the gradient."""


@dataclass(frozen=True)
class Device:
    """One accelerator, in one dtype."""

    flops: float  # peak, a second
    bytes_s: float
    kernel_s: float
    size: int  # bytes of a number
    shares: Shares

    def product_s(self, flops: float, rows: float, share: float, weights: float) -> float:
        """Seconds of a product of `rows` rows with `weights` numbers: computing, or reading them."""
        computing = flops / (self.flops * share) * (1 + self.shares.half_tokens / max(rows, 1.0))
        return max(computing, weights * self.size / (self.bytes_s * self.shares.memory))

    def moving_s(self, moved: float) -> float:
        """Seconds to read and write so many bytes."""
        return moved / (self.bytes_s * self.shares.memory)


def device_of(cluster: ClusterConfig, dtype: str) -> Device:
    """The accelerator of a cluster when it computes in `dtype`."""
    is_cpu = cluster.gpu.lower().startswith("cpu")
    peak = cluster.bf16_tflops * 1e12 * (FP32_SHARE if dtype == "fp32" and not is_cpu else 1.0)
    return Device(peak, cluster.memory_gb_s * 1e9, cluster.kernel_us * 1e-6, DTYPE_BYTES[dtype], CPU if is_cpu else GPU)


@dataclass(frozen=True)
class Pass:
    """One forward pass of something: what the accelerator needs, and what starting its kernels needs."""

    busy_s: float
    kernels: float

    def seconds(self, device: Device, factor: float = 1.0, kernels: float = 1.0) -> float:
        """The longer of the two; `factor` and `kernels`: how much more there is than in a forward pass."""
        return max(self.busy_s * factor, self.kernels * kernels * device.kernel_s)


def block_pass(
    device: Device, shape: ModelShape, layer: LayerShape, documents: Documents, expert_parallel: int = 1
) -> Pass:
    """A forward pass of one block on one accelerator."""
    tokens, flops, shares = documents.tokens, block_flops(layer, documents), device.shares
    kernels = float(KERNELS[layer.kind])
    if layer.kind == "moe":
        rows = tokens * layer.chosen * expert_parallel / layer.experts  # of one expert
        routed = 2.0 * layer.routed * layer.chosen / layer.experts * tokens
        held = touched_experts(layer, tokens * expert_parallel) / layer.experts * layer.routed / expert_parallel
        busy = device.product_s(routed, rows, shares.grouped, held)
        busy += device.product_s(flops.matmul - routed, tokens, shares.matmul, layer.parameters - layer.routed)
        kernels += DISPATCH_KERNELS if expert_parallel > 1 else 0
    else:
        busy = device.product_s(flops.matmul, tokens, shares.matmul, layer.parameters)
        busy += flops.core / (device.flops * (shares.attention if layer.kind == "attention" else shares.scan))
    return Pass(busy + device.moving_s(tokens * moved_bytes(device, shape, layer)), kernels)


def touched_experts(layer: LayerShape, tokens: float) -> float:
    """Expected number of experts that get one of so many tokens, each sent to K of E: E (1 - (1 - K/E)^n)."""
    return layer.experts * (1 - (1 - layer.chosen / layer.experts) ** tokens) if layer.experts else 0.0


def moved_bytes(device: Device, shape: ModelShape, layer: LayerShape) -> float:
    """Bytes that a token's forward pass reads and writes outside of products."""
    hidden = HIDDEN_PASSES * shape.hidden
    inner = 0.0
    if layer.kind == "attention":
        inner = 10 * (layer.heads + layer.kv_heads) * layer.head_dim  # rotary embeddings, transposed copies
    if layer.kind == "mamba":
        width = layer.heads * layer.head_dim
        inner = 6 * layer.convolution_width + 8 * width
        inner += device.shares.scan_bytes * layer.heads * layer.chunk * layer.state / max(1, layer.groups)
    if layer.kind == "mlp":
        inner = (5 if layer.gated else 3) * layer.width
    if layer.kind == "moe":
        one = (5 if layer.gated else 3) * layer.expert_width + 6 * layer.expert_input
        inner = layer.chosen * one + (5 if layer.gated else 3) * layer.shared_width + 4 * layer.experts
    return (hidden + inner) * device.size


def head_seconds(device: Device, shape: ModelShape, loss_tokens: float, passes: float) -> float:
    """`passes` products of the LM head with the tokens of the loss, and what their logits move."""
    if not loss_tokens:
        return 0.0
    product = device.product_s(2.0 * shape.lm_head * loss_tokens, loss_tokens, device.shares.matmul, shape.lm_head)
    return passes * product + device.moving_s(LOGIT_PASSES * 4.0 * shape.vocabulary * loss_tokens * passes / 4)
