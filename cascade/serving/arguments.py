"""The command line and environment of a vLLM server, on a CPU or on GPUs."""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Mapping
from pathlib import Path

import torch

from cascade.config import PolicyConfig, RolloutConfig
from cascade.errors import EngineError

MODEL = "policy"
"""The name under which every server serves its model."""
DTYPES = {"fp32": "float32", "bf16": "bfloat16"}
BACKENDS = {"shm": "cascade", "disk": "cascade", "gloo": "cascade", "nccl": "nccl", "ipc": "ipc"}
"""Transport -> the weight transfer backend inside vLLM."""
LAUNCHER = ("RANK", "WORLD_SIZE", "LOCAL_", "GROUP_", "ROLE_", "MASTER_", "TORCHELASTIC_")
"""Beginnings of the names by which a process would take itself for one of the training processes."""


RECORDING = {"VLLM_USE_V2_MODEL_RUNNER": "1"}
"""The environment in which vLLM can return the experts that it chooses."""


def require_recording(rollout: RolloutConfig) -> None:
    """Raises `EngineError` where a vLLM of this machine would be asked for the experts that it chooses and cannot."""
    if rollout.record_routing and not rollout.urls and not torch.cuda.is_available():
        raise EngineError(
            "vLLM returns the experts that it chooses (`routing_replay`) on GPUs only: what can do it needs Triton.",
            "Use rollout=hf, or set `routing_replay=false`.",
        )


def require_vllm() -> None:
    """Raises `EngineError` where vLLM is not installed. Does not import it."""
    if importlib.util.find_spec("vllm") is None:
        raise EngineError(
            "vLLM is not installed here.",
            "On a CPU: `make vllm`; on GPUs: `pip install vllm`; or set `rollout=hf` and `teachers=local`.",
        )


def served_arguments(
    folder: Path, port: int, max_tokens: int, policy: PolicyConfig, rollout: RolloutConfig
) -> list[str]:
    """Arguments of vLLM's server for the model in `folder`: tokens in, tokens out, log-probs at the temperature.

    `max_tokens`: of prompt and completion. A sequence of that length is scored by asking for one more.

    On a CPU prompts are not cut in chunks: behind a chunk vLLM 0.32 rewinds the random numbers of a seeded request,
    which a generator on a CPU cannot do, and the engine dies.
    """
    words = ["--model", str(folder), "--served-model-name", MODEL, "--host", "127.0.0.1", "--port", str(port)]
    words += ["--dtype", DTYPES[policy.dtype], "--enable-scale-out", "--skip-tokenizer-init"]
    words += ["--generation-config", "vllm", "--logprobs-mode", "processed_logprobs", "--max-logprobs", "-1"]
    words += ["--weight-transfer-config", json.dumps({"backend": BACKENDS[rollout.transport]})]
    words += ["--worker-extension-cls", "cascade.serving.worker.LogitScale", "--disable-uvicorn-access-log"]
    words += ["--max-model-len", str(max_tokens + 1)]
    if rollout.record_routing:
        words += ["--enable-return-routed-experts"]
    if not torch.cuda.is_available():
        words += ["--kv-cache-memory-bytes", str(int(rollout.kv_cache_gib * 2**30))]
        return [*words, "--enforce-eager", "--no-enable-chunked-prefill"]
    words += ["--tensor-parallel-size", str(rollout.tensor_parallel)]
    return [*words, "--gpu-memory-utilization", str(rollout.gpu_memory_utilization)]


def served_environment(index: int, rollout: RolloutConfig) -> dict[str, str]:
    """The environment of replica `index`: this process's own, without the training launcher's names in it."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(LAUNCHER)}
    package = str(Path(__file__).parents[2])
    path = os.pathsep.join(part for part in (package, os.environ.get("PYTHONPATH", "")) if part)
    common = {
        "PYTHONPATH": path,
        "VLLM_PLUGINS": "cascade",
        "VLLM_SERVER_DEV_MODE": "1",  # the routes for pausing and publishing
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_HTTP_TIMEOUT_KEEP_ALIVE": "600",  # else a server hangs up on a trainer that was busy for seconds
        "VLLM_ALLOW_LONG_MAX_MODEL_LEN": "1",  # one more than the model's own limit, see `served_arguments`
        "CASCADE_REPLICA": "1",
    }
    if rollout.record_routing:
        common |= RECORDING
    if rollout.transport == "ipc":
        common["VLLM_ALLOW_INSECURE_SERIALIZATION"] = "1"  # CUDA handles travel pickled
    if torch.cuda.is_available():
        return {**inherited, **common, "CUDA_VISIBLE_DEVICES": ",".join(gpus(index, rollout, os.environ))}
    return {**inherited, **common, **_cpu_environment()}


def gpus(index: int, rollout: RolloutConfig, environment: Mapping[str, str]) -> list[str]:
    """The GPUs of replica `index`, as CUDA_VISIBLE_DEVICES names them: behind those of the training processes.

    With `ipc` a replica shares the training processes' GPUs. Raises `EngineError` when there are too few.
    """
    named = environment.get("CUDA_VISIBLE_DEVICES")
    visible = named.split(",") if named else [str(i) for i in range(torch.cuda.device_count())]
    first = 0 if rollout.transport == "ipc" else int(environment.get("LOCAL_WORLD_SIZE", "1"))
    start = first + index * rollout.tensor_parallel
    chosen = visible[start : start + rollout.tensor_parallel]
    if len(chosen) < rollout.tensor_parallel:
        raise EngineError(
            f"Replica {index} needs {rollout.tensor_parallel} GPUs behind the first {start} of {len(visible)}.",
            "Lower `rollout.replicas`, `rollout.tensor_parallel` or the number of training processes.",
        )
    return chosen


def _cpu_environment() -> dict[str, str]:
    return {
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),
        "OMP_WAIT_POLICY": "PASSIVE",
        "TORCHDYNAMO_DISABLE": "1",  # the sampler would be compiled at the first request, for seconds
    }
