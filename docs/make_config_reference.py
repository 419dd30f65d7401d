"""Writes docs/config.md from the dataclasses of `cascade.config`.

Usage: `python docs/make_config_reference.py`; with `--check` it writes nothing and fails when the page is stale.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from annotated_types import Ge, Gt, Le, MinLen

from cascade import config

PAGE = Path(__file__).with_name("config.md")
SECTIONS: tuple[tuple[str, type[Any]], ...] = (
    ("a recipe", config.Recipe),
    ("`model`", config.ModelConfig),
    ("`policy`", config.PolicyConfig),
    ("`policy.lora`", config.LoraConfig),
    ("`rollout`", config.RolloutConfig),
    ("`teachers`", config.TeachersConfig),
    ("`verifiers`", config.VerifiersConfig),
    ("`launch`", config.LaunchConfig),
    ("`launch.slurm`", config.SlurmConfig),
    ("`launch.kubernetes`", config.KubernetesConfig),
    ("`cluster`", config.ClusterConfig),
    ("`planning`", config.PlanningConfig),
    ("`tracking`", config.TrackingConfig),
    ("`evaluation`", config.EvaluationConfig),
    ("`environments.NAME`", config.EnvironmentConfig),
    ("`environments.NAME.penalties`", config.PenaltiesConfig),
    ("`stages.NAME`, every kind", config.StageBase),
    ("`stages.NAME`, `kind: sft`", config.SftStage),
    ("`stages.NAME`, `kind: reward_model`", config.RewardModelStage),
    ("`stages.NAME`, `kind: rl` and `kind: mopd`", config.SamplingStage),
    ("`stages.NAME`, `kind: rl`", config.RlStage),
    ("`stages.NAME`, `kind: mopd`", config.MopdStage),
    ("`stages.NAME.gates`, each", config.GateConfig),
)
HEAD = """# Every key of a recipe

Made from `cascade/config.py` by `python docs/make_config_reference.py`; change it there.

A key that is not here is an error. On the command line a key is its path: `stages.if_rl.max_steps=20`,
`environments.math.params.train_rows=500`, `policy.zero_stage=2`. `model`, `policy`, `rollout`, `teachers`,
`verifiers`, `launch` and `cluster` are also groups: `launch=torchrun` chooses `conf/launch/torchrun.yaml`. A mapping is
merged into what is there, a list replaces it, and `~stages.mopd` removes a key. Defaults are those of the schema; files
in `conf/` set some differently.
"""


def page() -> str:
    """The whole page."""
    return "\n".join([HEAD, *(line for title, cls in SECTIONS for line in _section(title, cls))])


def _section(title: str, cls: type[Any]) -> Iterator[str]:
    fields = _own_fields(cls)
    yield f"## {title[0].upper()}{title[1:]}"
    yield ""
    yield str(cls.__doc__).replace("\n    ", " ")
    yield ""
    yield "| key | type | default | meaning |"
    yield "|---|---|---|---|"
    hints = typing.get_type_hints(cls, include_extras=True)
    for field, name in fields:
        info: Any = field.default
        cells = (f"`{name}`", _type(hints[field.name]), _default(info), str(info.description))
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
    yield ""


def _own_fields(cls: type[Any]) -> list[tuple[dataclasses.Field[Any], str]]:
    """The fields a class adds to its bases, with their names in YAML; `kind` of a stage is in the heading."""
    bases = [base for base in cls.__bases__ if dataclasses.is_dataclass(base)]
    inherited = {field.name for base in bases for field in dataclasses.fields(base)}
    pairs = zip(dataclasses.fields(cls), config.yaml_names(cls), strict=True)
    return [(f, n) for f, n in pairs if f.name not in inherited and getattr(f.default, "description", None)]


def _type(hint: Any) -> str:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is config.Stage:
        return "stage"
    if origin is Annotated:
        return _bounded(arguments[0], arguments[1:])
    if origin is Literal:
        return " or ".join(f"`{value}`" for value in arguments)
    if origin in (typing.Union, types.UnionType):
        return " or ".join("null" if option is type(None) else _type(option) for option in arguments)
    if origin in (dict, list):
        return f"mapping to {_type(arguments[1])}" if origin is dict else f"list of {_type(arguments[0])}"
    plain = {str: "text", int: "integer", float: "number", bool: "true or false", Any: "anything"}
    return plain.get(hint) or f"[{hint.__name__}](#{_anchor(hint)})"


def _bounded(base: Any, extras: tuple[Any, ...]) -> str:
    signs = {Ge: ("ge", "≥"), Gt: ("gt", ">"), Le: ("le", "≤")}
    found = [bound for extra in extras for bound in getattr(extra, "metadata", ()) if not isinstance(bound, MinLen)]
    limits = [f"{sign} {getattr(b, name):g}" for b in found for kind, (name, sign) in signs.items() if type(b) is kind]
    return f"{_type(base)} {', '.join(limits)}".strip()


def _anchor(cls: type[Any]) -> str:
    title = next(title for title, section in SECTIONS if section is cls)
    kept = "".join(letter for letter in title.lower() if letter.isalnum() or letter in " -_")
    return kept.replace(" ", "-")


def _default(info: Any) -> str:
    if info.is_required():
        return "required"
    if info.default_factory is not None:
        made = info.default_factory()
        return "its own defaults" if dataclasses.is_dataclass(made) else f"`{json.dumps(made)}`"
    return f"`{info.default if isinstance(info.default, str) else json.dumps(info.default)}`"


def main() -> int:
    """Writes the page, or checks it."""
    if "--check" not in sys.argv:
        PAGE.write_text(page(), encoding="utf-8")
        return 0
    if PAGE.is_file() and PAGE.read_text(encoding="utf-8") == page():
        return 0
    print(f"{PAGE} is not what cascade/config.py says. Run `python docs/make_config_reference.py`.")
    return 1


if __name__ == "__main__":
    sys.exit(main())
