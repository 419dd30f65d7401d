"""The columns of SWE data sets, as fields of a task: SWE-bench's and its kin, SWE-smith's, R2E-Gym's, NeMo-Gym's."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from cascade.environments.patches import PatchError, make_diff, reversed_diff
from cascade.errors import DataError

PASSED = "PASSED"


def fields_of(record: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of `SweTask` by their names. Raises `DataError` for a column of another type."""
    record = _flat(record)
    if "expected_output_json" in record:
        found = _r2e_gym(record)
    elif _is_swe_smith(record):
        found = _swe_smith(record)
    else:
        found = _swe_bench(record)
    return {**_shared(record), **found}


def _is_swe_smith(record: Mapping[str, Any]) -> bool:
    named = str(record.get("repo", "")).startswith("swesmith/")
    return named or ("image_name" in record and "test_patch" not in record)


def _flat(record: Mapping[str, Any]) -> dict[str, Any]:
    """NeMo-Gym's rows hold the instance in `instance`, or as JSON text in the metadata of the request."""
    asked = record.get("responses_create_params")
    request = asked.get("metadata") if isinstance(asked, Mapping) else None
    nested = [record.get("metadata"), request]
    inner = [_json(each["instance_dict"], Mapping) for each in nested if _has_instance(each)]
    parts = [*nested, *inner, record.get("instance"), record]
    flat: dict[str, Any] = {}
    for part in parts:
        if isinstance(part, Mapping):
            flat.update({key: value for key, value in part.items() if value is not None})
    return flat


def _has_instance(metadata: Any) -> bool:
    return isinstance(metadata, Mapping) and "instance_dict" in metadata


def _shared(record: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "instance_id": _text(record, "instance_id") or _text(record, "task_id"),
        "problem_statement": _text(record, "problem_statement"),
        "repository": _text(record, "repository"),
        "setup_patch": _text(record, "setup_patch"),
        "repo": _text(record, "repo") or _text(record, "repo_name"),
        "base_commit": _text(record, "base_commit") or _text(record, "commit_hash"),
        "dataset": _text(record, "dataset_name"),
        "test_command": _names(record, "test_command"),
        "test_files": _names(record, "test_files"),
    }


def _swe_bench(record: Mapping[str, Any]) -> dict[str, Any]:
    """SWE-bench's columns, which ours, SWE-Gym's, SWE-rebench's and NeMo-Gym's rows have too."""
    shown = record.get("relevant_file_contents")
    texts = _json(shown, Mapping) if shown else {}
    image = next((_text(record, key) for key in ("image", "docker_image", "image_name") if record.get(key)), "")
    instance = _text(record, "instance_id")
    if not image and not record.get("repository"):
        image = published_image(instance, record)
    return {
        "patch": _text(record, "patch") or _text(record, "golden_patch"),
        "test_patch": _text(record, "test_patch"),
        "fail_to_pass": _names(record, "FAIL_TO_PASS"),
        "pass_to_pass": _names(record, "PASS_TO_PASS"),
        "image": image,
        "shown_files": tuple((str(path), str(text)) for path, text in texts.items()),
    }


def published_image(instance_id: str, record: Mapping[str, Any]) -> str:
    """Where the images of SWE-bench and SWE-Gym are published; `""` for a row of neither."""
    dataset = f"{record.get('dataset_name', '')} {record.get('subset', '')}".lower()
    if "swe-bench" in dataset or "environment_setup_commit" in record:
        return f"swebench/sweb.eval.x86_64.{instance_id.replace('__', '_1776_')}".lower()
    if "gym" in dataset or "hints_text" in record:
        return f"xingyaoww/sweb.eval.x86_64.{instance_id.replace('__', '_s_')}".lower()
    return ""


def _swe_smith(record: Mapping[str, Any]) -> dict[str, Any]:
    """SWE-smith's `patch` is the bug: what repairs is its reverse."""
    bug = _text(record, "patch")
    try:
        repair = reversed_diff(bug)
    except PatchError as error:
        raise DataError(f"The row's patch cannot be reversed: {error}.", "Repair it.") from None
    return {
        "patch": repair,
        "setup_patch": bug if record.get("repository") else "",  # an image has it already
        "fail_to_pass": _names(record, "FAIL_TO_PASS"),
        "pass_to_pass": _names(record, "PASS_TO_PASS"),
        "image": "" if record.get("repository") else _text(record, "image_name"),
    }


def _r2e_gym(record: Mapping[str, Any]) -> dict[str, Any]:
    """R2E-Gym names no instance, and its commit holds files before and after: tests among them are left out."""
    expected = _json(record["expected_output_json"], Mapping)
    ran = _json(record.get("execution_result_content") or "{}", Mapping)
    passed = [name for name, state in expected.items() if state == PASSED]
    before = _states(str(ran.get("old_commit_res_stdout") or ""))
    turned = [name for name in passed if before.get(name) != PASSED]
    return {
        "instance_id": _text(record, "instance_id")
        or f"{_text(record, 'repo_name') or _text(record, 'repo')}-{_text(record, 'commit_hash')}",
        "patch": _text(record, "patch") or _repair_of(record),
        "fail_to_pass": tuple(turned or passed),
        "pass_to_pass": tuple(name for name in passed if name not in set(turned)) if turned else (),
        "image": _text(record, "docker_image"),
        "test_command": ("bash", "run_tests.sh"),
    }


def _repair_of(record: Mapping[str, Any]) -> str:
    before: dict[str, bytes | None] = {}
    after: dict[str, bytes | None] = {}
    commit = _json(record.get("parsed_commit_content") or "{}", Mapping)
    for change in commit.get("file_diffs") or ():
        path = str(((change.get("header") or {}).get("file") or {}).get("path") or "")
        if not path or is_test(path):
            continue
        old, new = change.get("old_file_content"), change.get("new_file_content")
        before[path] = old.encode() if old else None
        after[path] = new.encode() if new else None
    return make_diff(before, after)


def is_test(path: str) -> bool:
    """Whether a file is one of the tests, by its name or by its folder's."""
    place = PurePosixPath(path)
    named = place.suffix == ".py" and (place.stem.startswith("test_") or place.stem.endswith("_test"))
    return named or bool({"test", "tests"} & set(place.parts[:-1]))


def _states(log: str) -> dict[str, str]:
    """What pytest's summary says of every test: `PASSED r2e_tests/test_1.py::A::test_b` -> {"A.test_b": "PASSED"}."""
    states = {}
    for line in log.splitlines():
        state, _, rest = line.partition(" ")
        if state in (PASSED, "FAILED", "ERROR") and "::" in rest:
            states[".".join(rest.split(" - ")[0].split("::")[1:])] = state
    return states


def _text(record: Mapping[str, Any], key: str) -> str:
    value = record.get(key)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise DataError(f"`{key}` is {type(value).__name__}.", "Give text.")
    return value


def _names(record: Mapping[str, Any], key: str) -> tuple[str, ...]:
    """A list of texts, which some data sets write as JSON text."""
    value = record.get(key, record.get(key.lower()))
    if value is not None and not isinstance(value, str) and hasattr(value, "tolist"):
        value = value.tolist()  # as parquet files have it
    if value in (None, ""):
        return ()
    if isinstance(value, str):
        value = _json(value, Sequence, key) if value.lstrip().startswith("[") else value.split()
    if isinstance(value, (str, bytes)) or not isinstance(value, Sequence) or not all(isinstance(v, str) for v in value):
        raise DataError(f"`{key}` is not a list of texts.", 'Give e.g. ["tests/test_a.py::test_b"].')
    return tuple(value)


def _json(value: Any, kind: type, key: str = "A column") -> Any:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError as error:
            raise DataError(f"{key} is not JSON: {error}.", "Repair it.") from None
    if not isinstance(value, kind):
        raise DataError(f"{key} is {type(value).__name__}.", f"Give a JSON {kind.__name__.lower()}.")
    return value
