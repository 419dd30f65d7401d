"""Rows of every form people have become the same kind of task."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cascade.environments.patches import apply_diff, make_diff
from cascade.environments.swe_row_source import SweRows
from cascade.environments.swe_rows import SweTask, read_task, task_of
from cascade.errors import DataError
from cascade.types import Row
from tests.environments.small_repository import BAD, GOOD, SOURCE, record, write_repository

FIX = make_diff({"a.py": b"bad\n"}, {"a.py": b"good\n"})
BENCH = {
    "repo": "astropy/astropy",
    "instance_id": "astropy__astropy-12907",
    "base_commit": "d16bfe05",
    "patch": FIX,
    "test_patch": make_diff({}, {"tests/test_a.py": b"def test_a(): pass\n"}),
    "problem_statement": "It is bad.",
    "hints_text": "",
    "created_at": "2022",
    "version": "4.3",
    "FAIL_TO_PASS": '["tests/test_a.py::test_a"]',
    "PASS_TO_PASS": '["tests/test_a.py::test_b[x y]"]',
}


def test_a_row_of_ours_is_found_beside_its_file(tmp_path: Path) -> None:
    write_repository(tmp_path / "repository")
    task = read_task(record(), tmp_path)
    assert task.repository == str(tmp_path / "repository")
    assert (task.instance_id, len(task.fail_to_pass), len(task.pass_to_pass), task.image) == ("basket-1", 2, 4, "")
    assert task_of(json.loads(json.dumps(task.as_data()))) == task


def test_swe_bench_rows_have_lists_as_text_and_an_image() -> None:
    task = read_task({**BENCH, "environment_setup_commit": "298cc"})
    assert task.fail_to_pass == ("tests/test_a.py::test_a",)
    assert task.pass_to_pass == ("tests/test_a.py::test_b[x y]",)
    assert task.image == "swebench/sweb.eval.x86_64.astropy_1776_astropy-12907"
    assert (task.repository, task.patch, task.repo, task.base_commit) == ("", FIX, "astropy/astropy", "d16bfe05")


def test_swe_gym_rows_have_another_image() -> None:
    row = {**BENCH, "instance_id": "getmoto__Moto-7365", "FAIL_TO_PASS": ["t.py::a"], "PASS_TO_PASS": []}
    task = read_task(row)
    assert task.image == "xingyaoww/sweb.eval.x86_64.getmoto_s_moto-7365"
    assert (task.fail_to_pass, task.pass_to_pass) == (("t.py::a",), ())


def test_a_repository_of_ones_own_comes_before_a_published_image() -> None:
    task = read_task({**BENCH, "repository": "/data/astropy.tar.gz"})
    assert (task.repository, task.image) == ("/data/astropy.tar.gz", "")


def test_swe_smiths_patch_is_the_bug() -> None:
    bug = make_diff({"a.py": b"good\n"}, {"a.py": b"bad\n"})
    row = {
        "instance_id": "oauthlib__oauthlib.1fd52536.combine_file__09vlzwgc",
        "repo": "swesmith/oauthlib__oauthlib.1fd52536",
        "patch": bug,
        "FAIL_TO_PASS": ["tests/test_a.py::test_a"],
        "PASS_TO_PASS": ["tests/test_a.py::test_b"],
        "image_name": "jyangballin/swesmith.x86_64.oauthlib_1776_oauthlib.1fd52536",
        "problem_statement": "It is bad.",
    }
    task = read_task(row)
    assert task.image == row["image_name"]
    assert task.setup_patch == ""  # it is in the image
    assert apply_diff(task.patch, {"a.py": b"bad\n"}.get) == {"a.py": b"good\n"}
    here = read_task({**row, "repository": "oauthlib.tar.gz"})
    assert (here.setup_patch, here.image) == (bug, "")


def test_r2e_gym_rows_say_their_repair_and_tests_in_json() -> None:
    commit = {
        "file_diffs": [
            {"header": {"file": {"path": "src/a.py"}}, "old_file_content": "bad\n", "new_file_content": "good\n"},
            {"header": {"file": {"path": "tests/test_a.py"}}, "old_file_content": "", "new_file_content": "x\n"},
        ]
    }
    log = "FAILED r2e_tests/test_1.py::A::test_b - boo\nPASSED r2e_tests/test_1.py::A::test_c\n"
    ran = {"old_commit_res_stdout": log}
    row = {
        "repo_name": "orange3",
        "docker_image": "namanjain12/orange3_final:9b5494",
        "commit_hash": "9b5494",
        "parsed_commit_content": json.dumps(commit),
        "execution_result_content": json.dumps(ran),
        "expected_output_json": json.dumps({"A.test_b": "PASSED", "A.test_c": "PASSED", "A.test_d": "FAILED"}),
        "problem_statement": "[ISSUE] It is bad. [/ISSUE]",
    }
    task = read_task(row)
    assert (task.instance_id, task.image) == ("orange3-9b5494", "namanjain12/orange3_final:9b5494")
    assert (task.fail_to_pass, task.pass_to_pass) == (("A.test_b",), ("A.test_c",))
    assert apply_diff(task.patch, {"src/a.py": b"bad\n"}.get) == {"src/a.py": b"good\n"}


def test_nemo_gyms_rows_hold_the_instance_inside() -> None:
    agents = {
        "responses_create_params": {
            "input": [],
            "metadata": {
                "instance_id": BENCH["instance_id"],
                "dataset_name": "princeton-nlp/SWE-bench_Verified",
                "golden_patch": FIX,
                "instance_dict": json.dumps(BENCH),
            },
        },
        "agent_ref": {"name": "swe_agents_val"},
    }
    task = read_task(agents)
    assert (task.patch, task.dataset) == (FIX, "princeton-nlp/SWE-bench_Verified")
    assert task.image == "swebench/sweb.eval.x86_64.astropy_1776_astropy-12907"
    agentless = {
        "responses_create_params": {"input": [{"role": "user", "content": "Repair it."}]},
        "instance": BENCH,
        "metadata": {"relevant_file_contents": json.dumps({"a.py": "bad\n"}), "image": "/images/a.sif"},
        "dataset_name": "SWE-Gym/SWE-Gym",
        "mode": "eval",
    }
    task = read_task(agentless)
    assert (task.image, task.shown_files, task.dataset) == ("/images/a.sif", (("a.py", "bad\n"),), "SWE-Gym/SWE-Gym")


@pytest.mark.parametrize(
    "changed, why",
    [
        ({"problem_statement": " "}, "problem_statement"),
        ({"FAIL_TO_PASS": []}, "FAIL_TO_PASS"),
        ({"FAIL_TO_PASS": "[1"}, "not JSON"),
        ({"PASS_TO_PASS": [1]}, "list of texts"),
        ({"patch": 3}, "int"),
        ({"patch": "--- a/../x\n+++ b/../x\n@@ -1 +1 @@\n-a\n+b\n"}, "no unified diff"),
        ({"repository": "", "instance_id": "a"}, "no code"),
    ],
)
def test_a_malformed_row_says_what_is_wrong(changed: dict[str, object], why: str) -> None:
    with pytest.raises(DataError, match=why):
        read_task({**record(), **changed})


def test_a_row_is_known_by_the_same_name_wherever_its_file_lies(tmp_path: Path) -> None:
    found: list[Row] = []
    for name in ("here", "there"):
        folder = tmp_path / name
        write_repository(folder / "repository")
        (folder / "rows.jsonl").write_text(json.dumps(record()) + "\n")
        [row] = _Rows(train=str(folder / "rows.jsonl"), validation_rows=1, test_rows=1).rows("test")
        found.append(row)
    assert found[0].id == found[1].id
    assert [row.data["repository"] for row in found] == [str(tmp_path / n / "repository") for n in ("here", "there")]
    elsewhere = _Rows(train=str(tmp_path / "here/rows.jsonl"), repositories="/data", test_rows=1)
    assert elsewhere.rows("test")[0].data["repository"] == "/data/repository"


class _Rows(SweRows):
    """Rows alone."""

    def gold(self, row: Row) -> str:
        return ""


def test_tasks_are_equal_by_what_they_say() -> None:
    assert read_task(record()) == read_task(record())
    assert isinstance(hash(read_task(record())), int)
    assert read_task(record()) != SweTask(instance_id="a", problem_statement="b", fail_to_pass=("c",))
    assert apply_diff(read_task(record()).patch, {SOURCE: BAD.encode()}.get) == {SOURCE: GOOD.encode()}
