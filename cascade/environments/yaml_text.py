"""Reading YAML as PyYAML's safe loader does, without what makes a short text a large value."""

from __future__ import annotations

import re
from typing import Any

import yaml
from yaml.composer import Composer
from yaml.constructor import SafeConstructor
from yaml.resolver import Resolver

from cascade.environments.reading_limits import MAX_DEPTH, MAX_DIGITS, UnreadableError, finite

# libyaml is five times as fast as PyYAML's own parser, and reads these otherwise: tabs, `?` and `!` here and there, a
# `#` right behind a block's mark, and a colon before a bracket or comma. PyYAML is what NeMo-Gym reads with.
_READ_OTHERWISE = re.compile(r"[\t?!]|[|>][-+0-9]*#|:[\[\]{},]")
_MERGE = "tag:yaml.org,2002:merge"


def read_yaml(text: str) -> Any:
    """The value of a YAML document. Raises `UnreadableError` for none, or for more than one."""
    loader = _FastLoader if yaml.__with_libyaml__ and not _READ_OTHERWISE.search(text) else _ExactLoader
    try:
        return loader(text).get_single_data()
    except UnreadableError:
        raise
    # All of these come from hostile text: `!!bool x` is a KeyError, `!!timestamp x` an AttributeError.
    except (
        ValueError,
        TypeError,
        ArithmeticError,
        LookupError,
        AttributeError,
        RecursionError,
        yaml.YAMLError,
    ) as error:
        raise UnreadableError(f"{type(error).__name__}: {str(error)[:200]}") from None


class _Guard(SafeConstructor):
    """What both loaders refuse."""

    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        self.depth += 1
        if self.depth > MAX_DEPTH + 1:  # a scalar within them is a node too
            raise UnreadableError("it is nested too deep")
        node = super().compose_node(parent, index)  # type: ignore[misc]  # of the composer beside it
        self.depth -= 1
        return node

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        if isinstance(node, yaml.MappingNode) and any(key.tag == _MERGE for key, _ in node.value):
            raise UnreadableError("merge keys are not read")
        found = super().construct_mapping(node, deep=deep)
        if len(found) != len(node.value):
            raise UnreadableError("a key is given twice")
        return found

    def construct_yaml_int(self, node: Any) -> int:
        if len(node.value) > MAX_DIGITS:
            raise UnreadableError("a number has too many digits")
        return super().construct_yaml_int(node)

    def construct_yaml_float(self, node: Any) -> float:
        return finite(super().construct_yaml_float(node))


_register: Any = _Guard.add_constructor  # typed for PyYAML's own loaders only
_register("tag:yaml.org,2002:int", _Guard.construct_yaml_int)
_register("tag:yaml.org,2002:float", _Guard.construct_yaml_float)


class _ExactLoader(_Guard, yaml.SafeLoader):
    """PyYAML's safe loader."""


_FastLoader: Any = _ExactLoader
if yaml.__with_libyaml__:
    from yaml._yaml import CParser

    class _EventLoader(_Guard, Composer, CParser, Resolver):
        """The same over libyaml's events; libyaml's own composer would end the process on deep nesting."""

        def __init__(self, text: str) -> None:
            CParser.__init__(self, text)
            Composer.__init__(self)
            SafeConstructor.__init__(self)
            Resolver.__init__(self)

    _FastLoader = _EventLoader
