"""What tests of the planner share: published models, a cluster, and work of equal documents."""

from __future__ import annotations

from cascade.commands import checked_recipe
from cascade.config import ClusterConfig, ModelConfig
from cascade.planning.case import Case
from cascade.planning.decided import Decided, decided_plan
from cascade.planning.flops import Documents
from cascade.planning.shapes import ModelShape, model_shape
from cascade.planning.workload import StageWork

H100 = ClusterConfig(
    gpu="H100",
    gpu_memory_gib=79.6,
    bf16_tflops=989.0,
    memory_gb_s=3350.0,
    intra_node_gb_s=450.0,
    inter_node_gb_s=50.0,
)
LLAMA_8B = {
    "vocab_size": 128256,
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "intermediate_size": 14336,
}
QWEN3_30B = {
    "vocab_size": 151936,
    "hidden_size": 2048,
    "num_hidden_layers": 48,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
    "head_dim": 128,
    "num_experts": 128,
    "num_experts_per_tok": 8,
    "moe_intermediate_size": 768,
    "tie_word_embeddings": False,
}


def shape(architecture: str, **config: object) -> ModelShape:
    """Of a model that is built nowhere."""
    return model_shape(ModelConfig(path="here/there", architecture=architecture, config=dict(config)))


def documents(length: int, count: int, learnt: float = 1.0) -> StageWork:
    """Work on equal documents."""
    tokens = float(length * count)
    return StageWork(Documents(((float(length), float(count)),)), count, learnt * tokens, 0.0, tokens)


def case(*words: str) -> Case:
    """Of a command line whose recipe is valid as it is."""
    recipe, order, *_ = checked_recipe(list(words))
    return Case.of(recipe, order, model_shape(recipe.model))


def decided(*words: str, search: bool = False) -> Decided:
    """What `cascade plan` finds."""
    asked = case(*words)
    return decided_plan(asked.recipe, asked.order, search=search)
