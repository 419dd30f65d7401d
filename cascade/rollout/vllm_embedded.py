"""vLLM in this process: started beside the policy, stepped by hand, handed weights, stopped without a trace."""

from __future__ import annotations

import gc
import logging
import os
import random
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig

from cascade import parallel
from cascade.config import PolicyConfig, RolloutConfig
from cascade.errors import EngineError
from cascade.models.loading import has_recurrent_layers
from cascade.serving.arguments import DTYPES, RECORDING
from cascade.serving.buckets import Bucket

ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the engine's core in this process
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # else this process is tied to some of its cores
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_PLUGINS": "cascade",
    "VLLM_ALLOW_LONG_MAX_MODEL_LEN": "1",  # for the one token that `EmbeddedVllm.__init__` adds
}


class EmbeddedVllm:
    """A vLLM engine with the weights of a folder. One at a time in a process; its calls are for one thread at a time.

    `longest` is the number of tokens that a sequence may have.
    """

    def __init__(self, folder: Path, policy: PolicyConfig, config: RolloutConfig) -> None:
        """Starts it. Raises `EngineError` for a model that vLLM cannot run on this device."""
        os.environ.update(ENVIRONMENT | (RECORDING if config.record_routing else {}))
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
        logging.getLogger("vllm").setLevel(os.environ["VLLM_LOGGING_LEVEL"])
        if not torch.distributed.is_initialized():
            parallel.start()  # else vLLM makes a process group that the policy would not know
        with _process_kept():
            from vllm import LLM, EngineArgs

            from cascade.serving.worker import register

            register()
            settings = _settings(folder, policy, config)
            asked: dict[str, Any] = {} if config.max_model_len is None else {"max_model_len": config.max_model_len}
            try:
                self.longest: int = EngineArgs(**settings, **asked).create_model_config().max_model_len
                # One token more: a sequence is scored by sampling one behind it.
                self._llm: Any = LLM(**settings, max_model_len=self.longest + 1)
            except (ValueError, RuntimeError, NotImplementedError, AssertionError, OSError) as error:
                _clean_up()
                raise EngineError(
                    f"vLLM cannot run {folder} here: {' '.join(str(error).split()[:60])}.",
                    "Use rollout=hf, another device, or a model that this vLLM supports.",
                ) from error

    def add(self, name: str, token_ids: Sequence[int], **sampling: Any) -> None:
        """A request: tokens in, and every step's tokens out; finished ones only where `prompt_logprobs` are asked."""
        from vllm.inputs import tokens_input
        from vllm.sampling_params import RequestOutputKind, SamplingParams

        kind = RequestOutputKind.FINAL_ONLY if "prompt_logprobs" in sampling else RequestOutputKind.DELTA
        params = SamplingParams(**sampling, detokenize=False, ignore_eos=True, output_kind=kind)
        self._llm.llm_engine.add_request(name, tokens_input(list(token_ids)), params)

    def step(self) -> list[Any]:
        """vLLM's `RequestOutput`s of one more token each.

        On a CPU without its compiled sampler: compiling costs seconds, and earns little.
        """
        torch.get_num_threads()  # sets them in a thread that is new; vLLM's kernels check that they stay what they were
        with torch.compiler.set_stance("default" if torch.cuda.is_available() else "force_eager"):
            return self._llm.llm_engine.step()

    def unfinished(self) -> bool:
        """Whether any request is in progress."""
        return self._llm.llm_engine.has_unfinished_requests()

    def abort(self, names: Iterable[str]) -> None:
        """Drops requests; what they have so far has come out of `step`."""
        self._llm.llm_engine.abort_request(list(names))

    def replace(self, weights: Iterator[Bucket], label: str) -> int:
        """All weights; returns their bytes. No request may be in progress: keys and values are forgotten.

        Raises `EngineError` when the weights are not the model's, each once. The engine is then in pieces.
        """
        size = 0
        self._llm.start_weight_update()
        for bucket in weights:
            size += sum(tensor.nbytes for _, tensor in bucket)
            self._llm.update_weights({"update_info": {"kind": "tensors", "weights": bucket}})
            del bucket  # before the next one is made
        self._llm.finish_weight_update(label)
        if not self._llm.reset_prefix_cache():
            raise EngineError("vLLM kept keys and values of the weights it had.", "Report this with vLLM's version.")
        return size

    def set_logit_scale(self, factor: float) -> None:
        """Multiplies all logits by `factor`."""
        self._llm.collective_rpc("set_logit_scale", args=(factor,))

    def stop(self) -> None:
        """Frees everything."""
        with _process_kept():
            self._llm.llm_engine.engine_core.shutdown()
        self._llm = None
        gc.collect()


def _settings(folder: Path, policy: PolicyConfig, config: RolloutConfig) -> dict[str, Any]:
    settings: dict[str, Any] = {
        "model": str(folder),
        "skip_tokenizer_init": True,
        "dtype": DTYPES[policy.dtype],
        "distributed_executor_backend": "uni",
        "async_scheduling": False,  # a step's tokens have come out before the weights change
        "enable_prefix_caching": True,
        "logprobs_mode": "processed_logprobs",  # at the sampling temperature
        "generation_config": "vllm",  # not the folder's: its repetition penalty would act, unseen
        "weight_transfer_config": {"backend": "cascade"},
        "worker_extension_cls": "cascade.serving.worker.LogitScale",
        "disable_log_stats": True,
        "use_tqdm_on_load": False,
        **({"enable_return_routed_experts": True} if config.record_routing else {}),
    }
    if torch.cuda.is_available():
        return {**settings, "gpu_memory_utilization": config.gpu_memory_utilization}
    recurrent = has_recurrent_layers(AutoConfig.from_pretrained(folder))
    return {
        **settings,
        "enforce_eager": True,
        "enable_chunked_prefill": False,  # see `served_arguments`
        "enable_prefix_caching": not recurrent,  # which would need chunks
        "kv_cache_memory_bytes": int(config.kv_cache_gib * 2**30),
    }


def _clean_up() -> None:
    from vllm.distributed.parallel_state import cleanup_dist_env_and_memory

    cleanup_dist_env_and_memory()


@contextmanager
def _process_kept() -> Iterator[None]:
    """What else lives in the process keeps its random numbers, its threads and its process group.

    vLLM seeds every generator when it starts, replaces the function that sets torch's threads, and ends by destroying
    the process group of the whole process.
    """
    destroy, set_threads = torch.distributed.destroy_process_group, torch.set_num_threads
    threads, python, numpy = torch.get_num_threads(), random.getstate(), np.random.get_state()

    def destroy_own(group: Any = None) -> None:
        if group not in (None, torch.distributed.group.WORLD):
            destroy(group)

    torch.distributed.destroy_process_group = destroy_own
    try:
        with torch.random.fork_rng(), warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # vLLM's imports touch deprecated names
            yield
    finally:
        torch.distributed.destroy_process_group = destroy
        torch.set_num_threads = set_threads
        torch.set_num_threads(threads)
        random.setstate(python)
        np.random.set_state(numpy)
