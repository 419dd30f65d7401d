"""Run by torchrun: trains with expert parallelism and leaves behind what one process is compared with.

torchrun --nproc_per_node 2 tests/policy/expert_ranks.py MODELS OUT NAME,KIND,KEY=VALUE,... ...

The keys are of `PolicyConfig`, in JSON, and `train_router`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from deepspeed.utils import safe_get_full_optimizer_state
from transformers import AutoModelForCausalLM

from cascade import parallel
from cascade.ending import Ending
from cascade.models.published import blank_model, published_weights
from cascade.policy.deepspeed import DeepSpeedPolicy
from cascade.policy.export import export_policy
from tests.tiny_models import TOKENIZER, batches, policy_config, sequences, sft_stage

DOCUMENTS = (1, 7, 5)  # of every step; with one, all processes but the first have no row
COMPARED = 2  # steps after which moments and weights are compared; the third shows that a resumed run goes on
STAGE = {"learning_rate": 1e-3, "weight_decay": 0.1}


def main() -> None:
    """Every case that is asked for, in one launch."""
    models, out = Path(sys.argv[1]), Path(sys.argv[2])
    for asked in sys.argv[3:]:
        name, kind, *keys = asked.split(",")
        exercise(models / kind, kind, out / name, {key: json.loads(value) for key, value in map(pair, keys)})


def pair(text: str) -> tuple[str, str]:
    key, _, value = text.partition("=")
    return key, value


def exercise(model: Path, kind: str, out: Path, keys: dict[str, Any]) -> None:
    """Exports, trains, saves and trains on; then loads what was saved and trains on again."""
    frozen = not keys.pop("train_router", False)
    sharing = keys.get("sequence_parallel", 1)

    def fresh() -> DeepSpeedPolicy:
        return DeepSpeedPolicy(model, policy_config(kind, **keys), sft_stage(**STAGE), freeze_router=frozen)

    policy = fresh()
    export_policy(policy, out / "untrained", TOKENIZER, {"identity": out.name})
    record: dict[str, Any] = {
        "shapes": shapes(policy),
        "seen": [] if sharing > 1 else routers_seen(policy, model),
        "steps": [],
    }
    for step in range(COMPARED):
        record["steps"].append({**train(policy, kind, step, sharing), "moments": moments(policy)})
    record["weights"] = copied(policy)
    record["published"] = {name for name, _ in published_weights(blank_model(model), policy.weights())}
    export_policy(policy, out / "trained", TOKENIZER, {"identity": out.name})
    policy.save(out / "state", {"step": COMPARED})
    record["on"] = [train(policy, kind, COMPARED, sharing), copied(policy)]
    policy.close()
    policy = fresh()
    assert policy.load(out / "state") == {"step": COMPARED}
    record["again"] = [train(policy, kind, COMPARED, sharing), copied(policy)]
    policy.close()
    torch.save(record, out / f"rank{parallel.rank()}.pt")


def train(policy: DeepSpeedPolicy, kind: str, step: int, sharing: int) -> dict[str, float]:
    """One step; its loss summed over ranks and the norm of its gradients before clipping.

    `sharing`: processes that are given the same rows.
    """
    loss = torch.zeros(())
    documents = sequences(DOCUMENTS[step], seed=step)
    ranks, rank = parallel.world_size() // sharing, parallel.rank() // sharing  # of those that are given other rows
    for batch in batches(documents, policy_config(kind), ranks=ranks, rank=rank):
        log_probs, _ = policy.log_probs(batch)
        part = -(log_probs * batch.token_weight).sum()
        policy.backward(part)
        loss = loss + part.detach() * (parallel.rank() % sharing == 0)
    return {"loss": parallel.sum_over_ranks(loss).item(), "norm": policy.step(1e-3)["grad_norm"]}


def moments(policy: DeepSpeedPolicy) -> dict[str, torch.Tensor]:
    """Adam's running mean of the clipped gradients, whole, under transformers' names."""
    experts = policy.sharded_experts
    assert experts is not None
    optimizer = policy.engine.optimizer
    optimizer._hp_optimizer_states_linked = False  # DeepSpeed links them after the first group's step, the others never
    optimizer._lazy_init_hp_params_optimizer_state()
    trained = {name: own for name, own in policy.model.named_parameters() if own.requires_grad}
    own = {name: safe_get_full_optimizer_state(parameter, "exp_avg") for name, parameter in trained.items()}
    found = {}
    for name, moment in own.items():
        tensor = experts.names.tensor(name)
        if tensor is None:
            found[experts.names.whole_name(name)] = moment.clone()
        elif name == tensor.parts[0]:
            found[tensor.whole] = experts.whole(tensor, own)
    return found


def copied(policy: DeepSpeedPolicy) -> dict[str, torch.Tensor]:
    """Everything that the policy publishes."""
    return {name: tensor.clone() for name, tensor in policy.weights()}


def shapes(policy: DeepSpeedPolicy) -> dict[str, tuple[int, ...]]:
    """Of what this process holds."""
    return {name: tuple(parameter.shape) for name, parameter in policy.model.named_parameters()}


@torch.no_grad()
def routers_seen(policy: DeepSpeedPolicy, folder: Path) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """The router logits that transformers records of the sharded model and of a plain one in the same process."""
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    ids = torch.tensor([sequences(1, seed=99 + parallel.rank())[0].token_ids])
    seen = [model(ids, output_router_logits=True).router_logits for model in (policy.model, plain)]
    return list(zip(*seen, strict=True))


if __name__ == "__main__":
    with Ending():
        main()
