"""Times follow from tokens, GPUs and layouts in the right direction, and come near what others have published."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest

from cascade.config import PolicyConfig, RolloutConfig
from cascade.planning.device import touched_experts
from cascade.planning.flops import Documents
from cascade.planning.generation import decoder, generation_time
from cascade.planning.network import network_of
from cascade.planning.throughput import (
    micro_batches,
    publishing_seconds,
    scoring_seconds,
    training_time,
    verification_seconds,
)
from cascade.planning.workload import Answers, StageWork
from tests.conftest import REPOSITORY
from tests.planning.small_cases import H100, LLAMA_8B, QWEN3_30B, documents, shape

LLAMA, MOE = shape("llama", **LLAMA_8B), shape("qwen3_moe", **QWEN3_30B)
PACKED = PolicyConfig(row_tokens=4096, zero_stage=1)
TWO_NODES = replace(H100, nodes=2)


def answers(count: float = 512, mean: float = 1000, limit: int = 8000, sigma: float = 0.8) -> Answers:
    return Answers("math", count, mean, sigma, limit, 200.0, 0.1, 0)


def seconds(work: StageWork, policy: PolicyConfig = PACKED, **cluster: float) -> float:
    return training_time(LLAMA, policy, replace(TWO_NODES, **cluster), work, ranks=16).total


def test_more_tokens_take_longer_and_faster_gpus_less() -> None:
    assert seconds(documents(1000, 512)) < seconds(documents(1000, 1024)) < seconds(documents(2000, 1024))
    assert seconds(documents(1000, 1024), bf16_tflops=2000.0) < seconds(documents(1000, 1024))
    assert seconds(documents(1000, 1024), memory_gb_s=8000.0) < seconds(documents(1000, 1024))


def test_long_documents_cost_more_than_as_many_tokens_in_short_ones() -> None:
    policy = replace(PACKED, row_tokens=32_768)
    assert seconds(documents(32_000, 32), policy) > 1.2 * seconds(documents(1000, 1024), policy)


def test_checkpointing_takes_about_a_third_longer() -> None:
    plain, again = (
        seconds(documents(1000, 2048), replace(PACKED, activation_checkpointing=on)) for on in (False, True)
    )
    assert 1.2 < again / plain < 1.4


def test_offloading_the_optimizer_takes_longer_and_to_disk_longest() -> None:
    times = [
        training_time(LLAMA, replace(PACKED, offload_optimizer=where), TWO_NODES, documents(1000, 64), ranks=16)
        for where in ("none", "cpu", "nvme")
    ]
    assert times[0].optimizer < times[1].optimizer < times[2].optimizer
    assert times[0].compute == times[2].compute


def test_expert_parallelism_beats_zero_3_on_experts_by_what_was_published() -> None:
    """DeepSpeed#8064: Qwen3.6-35B-A3B cut to 20 layers on 2 x 8 H100, 64 rows of 1,024 tokens a step, one each time:
    3,588 tokens a second and GPU with ZeRO-1 and 8-way experts, 1,746 with ZeRO-3 and leaf modules."""
    proxy = shape(
        "qwen3_5_moe_text",
        hidden_size=2048,
        num_hidden_layers=20,
        num_attention_heads=16,
        num_key_value_heads=2,
        head_dim=256,
        num_experts=256,
        num_experts_per_tok=8,
        moe_intermediate_size=512,
        shared_expert_intermediate_size=512,
        vocab_size=248_320,
        tie_word_embeddings=False,
    )
    rows = PolicyConfig(row_tokens=1024, packing=False)
    speeds = {
        name: 65_536 / 16 / training_time(proxy, policy, TWO_NODES, documents(1024, 64), ranks=16).total
        for name, policy in {
            "ep": replace(rows, zero_stage=1, expert_parallel=8),
            "zero3": replace(rows, zero_stage=3),
        }.items()
    }
    assert speeds["ep"] == pytest.approx(3588, rel=0.25)
    assert speeds["zero3"] == pytest.approx(1746, rel=0.25)
    assert speeds["ep"] > 1.7 * speeds["zero3"]


def test_zero_3_pays_for_every_micro_batch_and_zero_1_once_a_step() -> None:
    few, many = (replace(PACKED, rows_per_micro_batch=rows, zero_stage=3) for rows in (8, 1))
    work = documents(4096, 128)
    slow = replace(TWO_NODES, inter_node_gb_s=2.0)
    assert training_time(LLAMA, many, slow, work, ranks=16).communication > 3 * (
        training_time(LLAMA, few, slow, work, ranks=16).communication
    )
    once = [
        training_time(LLAMA, replace(policy, zero_stage=1), slow, work, ranks=16).communication
        for policy in (few, many)
    ]
    assert once[0] == once[1]


def test_sequence_parallelism_shares_a_row_and_exchanges_heads() -> None:
    long = replace(PACKED, row_tokens=131_072, packing=False)
    alone = training_time(LLAMA, long, H100, documents(131_072, 8), ranks=8)
    shared = training_time(LLAMA, replace(long, sequence_parallel=8), H100, documents(131_072, 8), ranks=8)
    assert (alone.micro_batches, shared.micro_batches) == (1, 8)
    assert shared.communication > alone.communication
    assert shared.total == pytest.approx(alone.total, rel=0.2)


def test_every_rank_has_as_many_micro_batches_and_all_tokens_are_in_them() -> None:
    work = documents(1000, 100)
    batches = micro_batches(work, replace(PACKED, packing=False, rows_per_micro_batch=3), 8)
    assert batches.count == 5  # 13 rows on the busiest rank
    assert batches.documents.tokens * batches.count == pytest.approx(13_000)
    assert batches.loss_tokens * batches.count == pytest.approx(13_000)


def test_collectives_use_both_kinds_of_links() -> None:
    network = network_of(TWO_NODES)
    inside, outside = network.gather_s(1e10, 8), network.gather_s(1e10, 16)
    assert inside == pytest.approx(1e10 * 7 / 8 / 450e9 / 0.7, rel=0.01)
    assert outside > inside
    assert network.gather_s(1e10, 1) == network.exchange_s(1e10, 1) == 0
    assert network.exchange_s(1e9, 16) > network.exchange_s(1e9, 8)  # over the slow links
    assert network.strided_gather_s(1e9, 2, 8) > network.gather_s(1e9, 2)  # one adapter, and no link inside


def test_a_batch_touches_as_many_experts_as_chance_has_it() -> None:
    layer = MOE.of_kind("moe")[0]
    assert touched_experts(layer, 1) == pytest.approx(8)
    assert 120 < touched_experts(layer, 64) < 128
    assert touched_experts(layer, 10_000) == pytest.approx(128)


def test_decoding_reads_weights_once_for_all_sequences() -> None:
    replica = decoder(LLAMA, RolloutConfig(engine="vllm_server"), H100, "bf16")
    assert replica.step_s(256, 1000) < 8 * replica.step_s(1, 1000)
    assert replica.step_s(256, 8000) > 1.5 * replica.step_s(256, 1000)  # their keys and values
    wide = decoder(LLAMA, RolloutConfig(engine="vllm_server", tensor_parallel=4), H100, "bf16")
    assert replica.step_s(64, 1000) / 4 < wide.step_s(64, 1000) < replica.step_s(64, 1000)


def test_generation_takes_longer_with_more_or_longer_answers_fewer_replicas_and_less_room() -> None:
    replica = decoder(LLAMA, RolloutConfig(engine="vllm_server"), H100, "bf16")

    def total(group: Answers, replicas: int = 4, room: int = 256) -> float:
        return generation_time(replica, [group], replicas=replicas, room=room, prompts=32).total

    assert total(answers()) < total(answers(count=2048)) < total(answers(count=2048), room=64)
    assert total(answers()) < total(answers(mean=2000))
    assert total(answers()) < total(answers(), replicas=2)
    assert total(answers(sigma=0.1)) < total(answers(sigma=1.0))  # the last answer decides


def test_the_embedded_engine_is_slower_than_a_server() -> None:
    served, embedded = (decoder(LLAMA, RolloutConfig(engine=engine), H100, "bf16") for engine in ("vllm_server", "hf"))
    times = [
        generation_time(replica, [answers()], replicas=4, room=64, prompts=32).total for replica in (served, embedded)
    ]
    assert times[1] > 2 * times[0]


def test_lengths_have_their_mean_after_the_cut_and_the_longest_is_near_the_limit() -> None:
    group = answers(count=1024, mean=2800)
    assert sum(tokens * count for tokens, count in group.lengths()) / 1024 == pytest.approx(2800, rel=0.03)
    assert group.longest == 8000
    assert answers(mean=100, limit=8000).longest < 4000


def test_scoring_is_a_forward_pass() -> None:
    work = documents(1000, 1024)
    scored = scoring_seconds(LLAMA, PACKED, TWO_NODES, work, processes=16)
    assert scored < 0.5 * training_time(LLAMA, PACKED, TWO_NODES, work, ranks=16).compute
    assert scored < scoring_seconds(LLAMA, PACKED, TWO_NODES, work, processes=4)


def test_verdicts_are_made_while_others_are_sampled() -> None:
    group = replace(answers(count=1000), verdict_s=10.0)
    assert verification_seconds([group], 100, 90.0) == 10.0  # 100 s of work, and the last verdict
    assert verification_seconds([group], 100, 20.0) == 80.0
    assert verification_seconds([replace(group, judges=1000)], 1, 90.0) == 10.0
    assert verification_seconds([], 100, 90.0) == 0.0


def test_publishing_by_nccl_beats_files_and_zero_3_gathers_first() -> None:
    served = {way: RolloutConfig(engine="vllm_server", transport=way) for way in ("nccl", "shm", "disk", "gloo")}
    times = {
        way: publishing_seconds(MOE, PACKED, rollout, TWO_NODES, ranks=16, gpus=8) for way, rollout in served.items()
    }
    assert times["nccl"] < times["shm"] < times["disk"] < times["gloo"]
    zero3 = publishing_seconds(MOE, replace(PACKED, zero_stage=3), served["nccl"], TWO_NODES, ranks=16, gpus=8)
    assert zero3 > times["nccl"]
    assert times["nccl"] == pytest.approx(7.0, rel=0.3)  # NeMo-RL reports about 7 s of plain NCCL for this model


def test_generation_and_training_come_near_nemo_rls_figures() -> None:
    """NVIDIA-NeMo/RL#959: Llama 3.1 8B on 8 H100, 2,048 answers of 795 tokens: 58 s of generation, and 28 s (Megatron)
    or 38 s (DTensor) of training."""
    group = Answers("math", 2048, 795, 0.7, 3900, 150.0, 0.01, 0)
    replica = decoder(LLAMA, RolloutConfig(engine="vllm_server"), H100, "bf16")
    assert generation_time(replica, [group], replicas=8, room=256, prompts=64).total == pytest.approx(58, rel=0.25)
    lengths = tuple((tokens + 150, count) for tokens, count in group.lengths())
    work = StageWork(Documents(lengths), 2048, 2048 * 795.0, 2048 * 150.0, 2048 * 795.0)
    trained = training_time(LLAMA, replace(PACKED, rows_per_micro_batch=2), H100, work, ranks=8).total
    assert 28 * 0.8 < trained < 38 * 1.2


@pytest.mark.slow
def test_training_on_this_machine_takes_about_as_long_as_planned() -> None:
    """One configuration of `benchmarks/plan_time.py`; its table is in docs/planning.md, and closer."""
    done = subprocess.run(
        [sys.executable, "benchmarks/plan_time.py", "dense"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=580,
    )
    assert done.returncode == 0, done.stderr
    _, _, measured, planned, *_ = done.stdout.splitlines()[-1].split("|")
    assert 0.5 < float(planned) / float(measured) < 2.0
