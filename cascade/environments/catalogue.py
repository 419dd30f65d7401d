"""From the names in a recipe to environments. A new one is one file here, one line below and one YAML, or none of
these: a dotted path to a class of your own does the same."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import json
from collections.abc import Mapping
from typing import Any, get_type_hints

from pydantic import TypeAdapter, ValidationError
from pydantic.errors import PydanticSchemaGenerationError

from cascade.config import EnvironmentConfig
from cascade.errors import ConfigError
from cascade.naming import nearest
from cascade.origins import Origins
from cascade.ports import Environment

BUILT_IN = {
    "addition": "cascade.environments.addition.Addition",
    "bfcl": "cascade.environments.bfcl.Bfcl",
    "calculator": "cascade.environments.calculator.Calculator",
    "code": "cascade.environments.code.Code",
    "conversations": "cascade.environments.conversations.Conversations",
    "expression_program": "cascade.environments.expression_program.ExpressionProgram",
    "function_call": "cascade.environments.function_call.FunctionCall",
    "gsm8k": "cascade.environments.gsm8k.Gsm8k",
    "gsm8k_program": "cascade.environments.gsm8k_program.Gsm8kProgram",
    "gsm8k_repair": "cascade.environments.gsm8k_repair.Gsm8kRepair",
    "instruction_following": "cascade.environments.instruction_following.InstructionFollowing",
    "maths": "cascade.environments.maths.Maths",
    "multi_document_qa": "cascade.environments.multi_document_qa.MultiDocumentQa",
    "multiple_choice": "cascade.environments.multiple_choice.MultipleChoice",
    "needle_digits": "cascade.environments.needle_digits.NeedleDigits",
    "one_token_repair": "cascade.environments.one_token_repair.OneTokenRepair",
    "option_lookup": "cascade.environments.option_lookup.OptionLookup",
    "preference": "cascade.environments.preference.Preference",
    "preference_pairs": "cascade.environments.preference_pairs.PreferencePairs",
    "ranked_items": "cascade.environments.ranked_items.RankedItems",
    "reasoning_gym": "cascade.environments.reasoning_gym.ReasoningGym",
    "recall": "cascade.environments.recall.Recall",
    "record_fields": "cascade.environments.record_fields.RecordFields",
    "reward_functions": "cascade.environments.reward_functions.RewardFunctions",
    "structured_output": "cascade.environments.structured_output.StructuredOutput",
    "swe_agentic": "cascade.environments.swe_agentic.SweAgentic",
    "swe_agentless": "cascade.environments.swe_agentless.SweAgentless",
    "tool_call": "cascade.environments.tool_call.ToolCall",
    "tool_state": "cascade.environments.tiny_state.ToolState",
    "word_constraints": "cascade.environments.word_constraints.WordConstraints",
    "word_operations": "cascade.environments.word_operations.WordOperations",
    "workplace": "cascade.environments.workplace.Workplace",
}

ALSO_CALLED = {
    "apps": "code",
    "code_gen": "code",
    "codecontests": "code",
    "equivalence_llm_judge": "multi_document_qa",
    "exercism": "code",
    "genrm_compare": "preference",
    "humaneval": "code",
    "ifbench": "instruction_following",
    "ifeval": "instruction_following",
    "livecodebench": "code",
    "math": "maths",
    "math_with_judge": "maths",
    "mbpp": "code",
    "mcqa": "multiple_choice",
    "quixbugs": "code",
    "ruler": "recall",
    "single_step_tool_use_with_argument_comparison": "function_call",
    "structured_outputs": "structured_output",
    "swe_agents": "swe_agentic",
    "swerl_gen": "swe_agentless",
    "taco": "code",
    "workplace_assistant": "workplace",
}
"""The names that people know rows by, most of them NeMo-Gym's servers."""

NOWHERE = Origins((), ())


def build_environments(
    configs: Mapping[str, EnvironmentConfig], seed: int, origins: Origins = NOWHERE
) -> dict[str, Environment]:
    """Every environment of a recipe, by its name there. Raises `ConfigError` naming the key that is wrong."""
    environments = {name: build_environment(name, config, seed, origins) for name, config in configs.items()}
    for environment in environments.values():  # rows are read or made once; the dataclass may be frozen
        object.__setattr__(environment, "rows", functools.cache(environment.rows))
    return environments


def build_environment(name: str, config: EnvironmentConfig, seed: int, origins: Origins = NOWHERE) -> Environment:
    """One environment. Its class is a dataclass; `params` are its fields besides `name`, `seed` and `domain`."""
    at = f"environments.{name}"
    cls = _class_of(config.kind, at, origins)
    params = _typed_params(cls, config.params, f"{at}.params", origins)
    try:
        own = {"domain": config.domain} if "domain" in _fields(cls) else {}  # else the class is of one domain
        environment = cls(name=name, seed=seed, **own, **params)
    except TypeError as error:
        where = origins.of([*at.split("."), "params"])
        raise ConfigError(f"`{at}.params` in {where} do not fit {config.kind}: {error}.", "Correct them.") from None
    except ConfigError as error:
        where = origins.of([*at.split("."), "params"])
        raise ConfigError(f"`{at}.params` in {where}: {error.what}", error.fix) from None
    if environment.domain != config.domain:
        where = origins.of([*at.split("."), "domain"])
        raise ConfigError(
            f"`{at}.domain` is `{config.domain}` in {where}, but {config.kind} is of {environment.domain}.",
            "Correct the domain, or choose another kind.",
        )
    return environment


def environment_alone(
    kind: str, params: Mapping[str, Any], origins: Origins = NOWHERE
) -> tuple[EnvironmentConfig, Environment]:
    """An environment outside a recipe, called like its kind, of the domain that its class is of by default."""
    name = kind.rpartition(".")[2]
    cls = _class_of(kind, f"environments.{name}", origins)
    domain = next((field.default for field in dataclasses.fields(cls) if field.name == "domain"), None)
    config = EnvironmentConfig(kind=kind, domain=str(domain or cls.domain), params=dict(params))
    return config, build_environment(name, config, 0, origins)


def _typed_params(cls: Any, params: Mapping[str, Any], at: str, origins: Origins) -> dict[str, Any]:
    """Every parameter in the type its field declares: a list becomes a tuple, but 1.5 never a whole number."""
    accepted = _fields(cls) - {"name", "seed", "domain"}
    types, typed = get_type_hints(cls), {}
    for key, value in params.items():
        where = origins.of([*at.split("."), key])
        if key not in accepted:
            raise ConfigError(f"Unknown key `{at}.{key}` in {where}.", nearest(key, accepted, "parameter"))
        try:
            typed[key] = TypeAdapter(types[key]).validate_json(json.dumps(value), strict=True)
        except PydanticSchemaGenerationError:
            typed[key] = value  # a class of the user's own, which takes what YAML gives
        except ValidationError as error:
            why = error.errors()[0]["msg"].replace("Input", "It")
            raise ConfigError(f"`{at}.{key}` is {json.dumps(value)} in {where}.", f"{why}.") from None
    return typed


def _fields(cls: Any) -> set[str]:
    return {field.name for field in dataclasses.fields(cls) if field.init}


def _class_of(kind: str, at: str, origins: Origins) -> Any:
    said = f"`{at}.kind` is `{kind}` in {origins.of([*at.split('.'), 'kind'])}"
    kind = ALSO_CALLED.get(kind, kind)
    if kind not in BUILT_IN and "." not in kind:
        raise ConfigError(f"{said}.", nearest(kind, BUILT_IN, "environment"))
    module, _, cls = BUILT_IN.get(kind, kind).rpartition(".")
    try:
        found = getattr(importlib.import_module(module), cls, None)
    except ModuleNotFoundError as error:
        raise ConfigError(f"{said}: {error}.", "Correct the path, or install the module.") from None
    if not dataclasses.is_dataclass(found):
        why = "is not a dataclass" if found else f"is not in {module}"
        raise ConfigError(f"{said}, and {cls} {why}.", "See `cascade.ports.Environment`.")
    return found
