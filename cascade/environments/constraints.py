"""From a verifiable instruction, e.g. `punctuation:no_comma`, to a yes or no on an answer.

Three families: IFEval's 25 kinds and IFBench's 58 by the library `if-verifiable`, corrected where it leaves the
reference or takes quadratic time (`corrected_constraints`), and the 29 kinds that open-instruct adds for training,
which NVIDIA's instruction-following rows use (`training_constraints`).
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import inspect
import re
import sys
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from cascade.environments.corrected_constraints import CORRECTED
from cascade.environments.training_constraints import TRAINING
from cascade.errors import ConfigError, DataError, FailureKind, VerifierFailure
from cascade.naming import nearest

Check = Callable[[str], bool]

RELATIONS = ("less than", "at least")
INSTALL = "Install it with `pip install if-verifiable==0.1.2 llama-index-core`."
TAGGER = "averaged_perceptron_tagger_eng"
_NEEDS_TAGGER = "words:start_verb"
_FROM_ONE = ("nth_paragraph", "n", "m", "small_n", "n_sent", "n_words", "n_end")  # 0 makes the reference draw a number
_LISTS = ("keywords", "forbidden_words")
_MAY_BE_LISTS = ("first_word", "last_word", "keyword")  # of which the reference takes the first
_OPTIONAL = ("instruction",)  # of keywords:exclude_word_harder, from which the reference draws a missing keyword


@functools.cache
def kinds() -> Mapping[str, Any]:
    """Every instruction id with its checker: a class of the library, or a function of the answer and its arguments.

    Raises `ConfigError` where the library is not installed.
    """
    offer_nltk_data()
    try:
        with _no_downloads(), _without_its_data_sets():
            ifeval = importlib.import_module("if_verifiable.ifeval.instructions_registry")
            ifbench = importlib.import_module("if_verifiable.ifbench.instructions_registry")
    except ImportError as error:
        raise ConfigError(f"Instruction following needs `if-verifiable`: {error}.", INSTALL) from None
    return {**ifeval.INSTRUCTION_DICT, **ifbench.INSTRUCTION_DICT, **TRAINING, **CORRECTED}


def constraint(instruction_id: str, given: Mapping[str, Any]) -> Check:
    """The check of one instruction with its arguments; arguments that are None count as not given.

    The references draw what a row leaves out at random. Here that is a `DataError`, as are an unknown id, an unknown
    argument, and a value of another type or outside its range.
    """
    known = kinds()
    if instruction_id not in known:
        raise DataError(
            f"There is no instruction `{instruction_id}`.", nearest(instruction_id, sorted(known), "instruction")
        )
    kind = known[instruction_id]
    arguments = _arguments(instruction_id, kind, given)
    if not inspect.isclass(kind):
        return functools.partial(kind, **arguments)
    checker: Any = cast(Any, kind)(instruction_id)
    try:
        checker.build_description(**arguments)
    except (ValueError, TypeError, KeyError, AttributeError, IndexError) as error:
        raise DataError(f"`{instruction_id}` does not take {arguments}: {error}.", "Correct its kwargs.") from None
    if arguments.get("n_start") == 0:
        checker._n_start = 0  # the library draws a number instead
    return checker.check_following


def follows(instruction_id: str, check: Check, answer: str) -> bool:
    """Whether an answer follows an instruction. A blank one follows none.

    What a checker raises over an answer counts as not followed, as in NeMo-Gym. Raises `VerifierFailure` of kind
    `data` where nothing the model writes could have been checked.
    """
    if not answer.strip():
        return False
    if instruction_id == _NEEDS_TAGGER and not _tagger():
        raise VerifierFailure(
            FailureKind.DATA,
            f"{instruction_id} needs NLTK's {TAGGER}: run `python -m nltk.downloader {TAGGER}`, "
            "or put it below a folder that NLTK_DATA names",
        )
    try:
        return bool(check(answer))
    except MemoryError:
        raise
    except re.error as error:
        raise VerifierFailure(
            FailureKind.DATA, f"{instruction_id}: a keyword is no regular expression: {error}"
        ) from None
    except Exception:  # noqa: BLE001  the reference's checkers raise IndexError, csv.Error and more over odd answers
        return False


def loose_variants(answer: str) -> list[str]:
    """What IFEval's loose mode also accepts: without asterisks, first line, last line, or several of these."""
    lines = answer.split("\n")
    cut = ["\n".join(lines[1:]).strip(), "\n".join(lines[:-1]).strip(), "\n".join(lines[1:-1]).strip()]
    found = [answer, answer.replace("*", ""), *cut, *(text.replace("*", "") for text in cut)]
    return [text for text in dict.fromkeys(found) if text.strip()]


def offer_nltk_data() -> None:
    """Adds the NLTK data that llama-index-core ships (punkt_tab, stopwords) behind NLTK's own search path."""
    import nltk

    spec = importlib.util.find_spec("llama_index")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        shipped = str(Path(folder) / "core" / "_static" / "nltk_cache")
        if Path(shipped).is_dir() and shipped not in nltk.data.path:
            nltk.data.path.append(shipped)
    try:
        nltk.data.find("tokenizers/punkt_tab")
        nltk.data.find("corpora/stopwords")
    except LookupError:
        raise ConfigError("NLTK's punkt_tab and stopwords are not on this machine.", INSTALL) from None


def _arguments(instruction_id: str, kind: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    function = getattr(kind, "build_description", kind)
    parameters = [p for p in inspect.signature(function).parameters.values() if p.name not in ("self", "answer")]
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return {}
    names = {p.name for p in parameters}
    arguments = {key: value for key, value in given.items() if value is not None}
    if unknown := sorted(set(arguments) - names):
        hint = nearest(unknown[0], sorted(names), "argument") if names else "It takes none."
        raise DataError(f"`{instruction_id}` has no argument `{unknown[0]}`.", hint)
    if missing := sorted(names - set(arguments) - set(_OPTIONAL)):
        raise DataError(f"`{instruction_id}` lacks {', '.join(missing)}.", "Give it in `kwargs`.")
    arguments = {key: _value(instruction_id, key, value) for key, value in arguments.items()}
    if arguments.get("nth_paragraph", 0) > arguments.get("num_paragraphs", 0):
        raise DataError(f"`{instruction_id}` asks for a paragraph beyond the last.", "Lower `nth_paragraph`.")
    return arguments


def _value(instruction_id: str, key: str, value: Any) -> Any:
    """An argument in the form that the checkers need: whole numbers as int, lists as lists of text."""
    if key in _MAY_BE_LISTS and isinstance(value, Sequence) and not isinstance(value, str) and value:
        value = value[0]
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    said = f"`{instruction_id}` has `{key}` {str(value)[:60]!r}."
    if key in _LISTS:
        if isinstance(value, str) or not isinstance(value, Sequence) or not value or not all(map(_is_text, value)):
            raise DataError(said, "Give a list of words.")
        return list(value)
    if key.endswith("relation"):
        if value not in RELATIONS:
            raise DataError(said, f"Give one of {', '.join(RELATIONS)}.")
    elif isinstance(value, bool) or not isinstance(value, str | int | float):
        raise DataError(said, "Give text or a number.")
    elif isinstance(value, str) and not value.strip():
        raise DataError(said, "Give text that is not blank.")
    elif not isinstance(value, str) and value < (1 if key in _FROM_ONE else 0):
        raise DataError(said, "Give a larger number.")
    return value


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


@functools.cache
def _tagger() -> bool:
    import nltk

    try:
        nltk.data.find(f"taggers/{TAGGER}")
    except LookupError:
        return False
    return True


@contextmanager
def _no_downloads() -> Iterator[None]:
    """The library asks NLTK for data as it is imported, and NLTK would ask the network."""
    import nltk

    asked, nltk.download = nltk.download, lambda *_, **__: False
    try:
        yield
    finally:
        nltk.download = asked


@contextmanager
def _without_its_data_sets() -> Iterator[None]:
    """An empty package in the library's place: its own `__init__` imports `datasets`, a second and 100 MiB a worker."""
    spec = importlib.util.find_spec("if_verifiable")
    if spec is None or "if_verifiable" in sys.modules:
        yield
        return
    package = types.ModuleType("if_verifiable")
    package.__path__ = spec.submodule_search_locations or []
    sys.modules["if_verifiable"] = package
    try:
        yield
    finally:
        del sys.modules["if_verifiable"]
