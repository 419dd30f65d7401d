"""A patch in one turn: what is asked, and what each reward says of it."""

from __future__ import annotations

import json
import math
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from cascade.config import VerifiersConfig
from cascade.environments.catalogue import environment_alone
from cascade.environments.patches import make_diff
from cascade.environments.swe_agentless import SweAgentless, similarity
from cascade.environments.swe_judge import with_log_probs
from cascade.errors import ConfigError, FailureKind, VerifierFailure
from cascade.judging.client import _judges, judge_of
from cascade.judging.config import JudgeConfig
from cascade.ports import Bounded, Waits
from cascade.types import Attempt, Row
from cascade.verification.build import build_verifiers
from cascade.verification.jobs import EnvironmentSpec, Job
from cascade.verification.routing import is_bounded
from tests.environments.small_repository import BAD, FILES, GOOD, ISSUE, SOURCE, record, write_repository
from tests.judging.judge_server import Canned, JudgeServer, last_content

OTHER = GOOD.replace("whole * discount // 100", "discount * whole // 100")
WRONG = GOOD.replace("whole * discount // 100", "whole * discount // 10")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("agentless")
    write_repository(folder / "repository")
    (folder / "rows.jsonl").write_text(json.dumps(record()) + "\n")
    return folder


def environment(folder: Path, **params: Any) -> SweAgentless:
    return SweAgentless(train=str(folder / "rows.jsonl"), validation_rows=1, test_rows=1, **params)


def row_of(each: SweAgentless) -> Row:
    return each.rows("test")[0]


def answer(text: str) -> str:
    return f"<solution>\n{make_diff({SOURCE: BAD.encode()}, {SOURCE: text.encode()})}</solution>"


def test_the_prompt_shows_the_issue_and_the_file_with_the_bug(folder: Path) -> None:
    each = environment(folder, files="gold")
    [message] = each.messages(row_of(each))
    content = message.get("content", "")
    assert ISSUE in content
    assert '<file path="basket/prices.py">' in content
    assert BAD.rstrip() in content
    assert "def plural" not in content
    assert "test_prices" not in content


def test_retrieval_finds_source_by_the_issue_and_never_tests(folder: Path) -> None:
    each = environment(folder, files="retrieved", top=1)
    content = each.messages(row_of(each))[0].get("content", "")
    assert '<file path="basket/prices.py">' in content
    assert content.count("<file ") == 1
    every = environment(folder, files="retrieved", top=9).messages(row_of(each))[0].get("content", "")
    assert every.count("<file ") == 3
    assert "tests/" not in every


def test_a_long_file_is_shown_in_parts_with_the_place_of_the_bug(folder: Path) -> None:
    each = environment(folder, files="gold", max_file_chars=220)
    content = each.messages(row_of(each))[0].get("content", "")
    assert "return whole - discount // 100" in content
    assert "def cheapest" not in content
    assert "are left out]" in content


def test_a_row_keeps_its_own_prompt(folder: Path) -> None:
    row = {**record(), "repository": str(folder / "repository"), "prompt": "Repair the basket."}
    each = SweAgentless()
    data = each.read(row)
    assert each.messages(Row("a", "swe", "a", data)) == [{"role": "user", "content": "Repair the basket."}]
    data = each.read({**row, "prompt": None, "responses_create_params": {"input": []}})
    assert ISSUE in each.messages(Row("a", "swe", "a", data))[0].get("content", "")


def test_the_gold_answer_is_blocks_and_scores_1(folder: Path) -> None:
    each = environment(folder)
    gold = each.gold(row_of(each))
    assert "<<<<<<< SEARCH" in gold
    score = each.score(row_of(each), gold)
    assert (score.reward, score.parts["f2p"], score.parts["p2p"], score.parts["applied"]) == (1.0, 1.0, 1.0, 1.0)


def test_execution_rewards_what_passes_the_tests(folder: Path) -> None:
    each = environment(folder, unchanged_reward=-0.25, unparsable_reward=-1.0)
    row = row_of(each)
    assert each.score(row, answer(OTHER)).reward == 1.0
    wrong = each.score(row, answer(WRONG))
    assert (wrong.reward, wrong.parts["f2p"]) == (0.0, 0.0)
    assert each.score(row, answer(OTHER).replace("-    return", "-   return")).reward == -1.0
    nonsense = each.score(row, "I give up.")
    assert (nonsense.reward, nonsense.parts["unparsable"]) == (-1.0, 1.0)
    line = "    whole = sum(prices)"
    same = f"### basket/prices.py\n<<<<<<< SEARCH\n{line}\n=======\n{line}\n>>>>>>> REPLACE"
    unchanged = each.score(row, same)
    assert (unchanged.reward, unchanged.parts["unchanged"]) == (-0.25, 1.0)
    tests = make_diff({"tests/test_prices.py": FILES["tests/test_prices.py"].encode()}, {})
    assert each.score(row, tests).reward == 0.0


def test_equal_changes_are_tested_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    each = environment(folder)
    row = row_of(each)
    assert each.score(row, answer(WRONG)).reward == 0.0
    monkeypatch.setattr("cascade.environments.swe_agentless.grade", None)
    assert each.score(row, f"In other words:\n{answer(WRONG)}").reward == 0.0


def test_lexical_reward_is_the_likeness_of_diffs(folder: Path) -> None:
    each = environment(folder, reward="lexical", unparsable_reward=-1.0)
    row = row_of(each)
    assert each.score(row, each.gold(row)) == each.score(row, answer(GOOD))
    assert each.score(row, answer(GOOD)).parts["identical"] == 1.0
    near, far = each.score(row, answer(OTHER)).reward, each.score(row, answer(BAD + "# other\n")).reward
    assert 0 < far < near < 1
    assert each.score(row, "no").reward == -1.0
    strict = environment(folder, reward="lexical", threshold=0.999)
    assert [strict.score(row, answer(text)).reward for text in (GOOD, OTHER)] == [1.0, 0.0]
    assert similarity("a\n" * 9000, "a\n" * 9000) == 1.0
    long = "".join(f"line {number}\n" for number in range(9000))
    assert 0.9 < similarity(long, long.replace("line 7\n", "other\n")) < 1.0


def judge_says(yes: float | None, text: str = "YES") -> Canned:
    choice: dict[str, Any] = {"message": {"role": "assistant", "content": text}}
    if yes is not None:
        top = [{"token": "YES", "logprob": math.log(yes)}, {"token": " NO", "logprob": math.log(1 - yes)}]
        choice["logprobs"] = {"content": [{"token": "YES", "logprob": math.log(yes), "top_logprobs": top}]}
    return Canned(body=json.dumps({"choices": [choice]}))


def judged(folder: Path, url: str, **params: Any) -> SweAgentless:
    return environment(folder, reward="judge", judge=JudgeConfig(urls=(url,), model="judge", retries=0), **params)


def test_a_judge_is_shown_issue_and_both_patches_and_its_probability_is_the_reward(folder: Path) -> None:
    with JudgeServer(lambda body: judge_says(0.7)) as server:
        each = judged(folder, server.url)
        score = each.score(row_of(each), answer(OTHER))
        assert score.reward == pytest.approx(0.7)
        assert score.parts["p_yes"] == pytest.approx(0.7)
        [asked] = server.requests
        assert (asked["logprobs"], asked["top_logprobs"]) == (True, 20)
        shown = last_content(asked)
        assert ISSUE in shown
        assert "whole * discount // 100" in shown
        assert "discount * whole // 100" in shown
        assert judged(folder, server.url, threshold=0.5).score(row_of(each), answer(OTHER)).reward == 1.0
        assert len(server.requests) == 1  # from memory, log-probs and all


def test_a_file_keeps_log_probs_too(folder: Path, tmp_path: Path) -> None:
    with JudgeServer(lambda body: judge_says(0.7)) as server:
        config = JudgeConfig(urls=(server.url,), model="judge", cache=str(tmp_path / "judge.sqlite"))
        for _ in range(2):
            each = environment(folder, reward="judge", judge=config)
            assert each.score(row_of(each), answer(OTHER)).reward == pytest.approx(0.7)
            judge_of(with_log_probs(config)).close()
            _judges.clear()
        assert len(server.requests) == 1


def test_a_judge_that_takes_no_log_probs_is_not_asked_for_them(folder: Path) -> None:
    with JudgeServer(lambda body: judge_says(None)) as server:
        config = JudgeConfig(urls=(server.url,), model="judge", extra={"logprobs": False})
        each = environment(folder, reward="judge", judge=config)
        assert each.score(row_of(each), answer(OTHER)).reward == 1.0
        assert "top_logprobs" not in server.requests[0]


def test_without_log_probs_the_word_counts_and_no_word_is_no_success(folder: Path) -> None:
    said = iter(["YES", "**NO**", "YES or NO", ""])
    with JudgeServer(lambda body: judge_says(None, next(said))) as server:
        each = judged(folder, server.url)
        scores = [each.score(row_of(each), answer(OTHER + f"# {n}\n")) for n in range(4)]
    assert [score.reward for score in scores] == [1.0, 0.0, 0.0, 0.0]
    assert [score.parts["no_verdict"] for score in scores] == [0.0, 0.0, 1.0, 1.0]


def test_no_judge_is_asked_about_what_is_clear_without(folder: Path) -> None:
    with JudgeServer(lambda body: judge_says(0.1)) as server:
        each = judged(folder, server.url)
        row = row_of(each)
        assert each.score(row, each.gold(row)).reward == 1.0
        assert each.score(row, "nothing").reward == 0.0
        tests = make_diff({"tests/test_prices.py": FILES["tests/test_prices.py"].encode()}, {})
        assert each.score(row, tests).parts["unchanged"] == 1.0
        assert server.requests == []


def test_a_judge_that_does_not_answer_is_no_reward(folder: Path) -> None:
    with JudgeServer(lambda body: Canned(500, "down")) as server:
        each = judged(folder, server.url)
        with pytest.raises(VerifierFailure) as failure:
            each.score(row_of(each), answer(OTHER))
    assert failure.value.kind is FailureKind.INFRASTRUCTURE


def test_a_judge_is_waited_for_and_tests_are_bounded(folder: Path) -> None:
    tested, waiting = environment(folder), judged(folder, "http://127.0.0.1:1")
    assert is_bounded(tested)  # type: ignore[arg-type]
    assert isinstance(tested, Bounded)
    assert not isinstance(tested, Waits)
    assert isinstance(waiting, Waits)
    assert waiting.concurrency == 16


def test_code_in_an_image_is_no_reward_where_it_cannot_be_run(folder: Path) -> None:
    row = {**record(), "repository": None, "image": "org/image:1"}
    each = SweAgentless()
    data = each.read(row)
    with pytest.raises(VerifierFailure, match="org/image:1") as failure:
        each.score(Row("a", "swe", "a", data), answer(OTHER))
    assert failure.value.kind is FailureKind.INFRASTRUCTURE


def test_code_in_an_image_has_lexical_reward_by_the_files_of_the_row() -> None:
    shown = json.dumps({SOURCE: BAD})
    row = {**record(), "repository": None, "metadata": {"image": "org/image:1", "relevant_file_contents": shown}}
    each = SweAgentless(reward="lexical")
    data = Row("a", "swe", "a", each.read(row))
    assert BAD.rstrip() in each.messages(data)[0].get("content", "")
    assert each.score(data, each.gold(data)).reward == 1.0
    assert 0 < each.score(data, answer(OTHER)).reward < 1


def test_without_apptainer_an_image_is_no_reward(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    each = SweAgentless(sandbox="apptainer")
    data = Row("a", "swe", "a", each.read({**record(), "repository": None, "image": "org/image:1"}))
    with pytest.raises(VerifierFailure, match="no Apptainer") as failure:
        each.score(data, answer(OTHER))
    assert failure.value.kind is FailureKind.INFRASTRUCTURE


@pytest.mark.parametrize(
    "params",
    [
        {"reward": "judge"},
        {"judge": JudgeConfig(urls=("http://a",), model="m")},
        {"threshold": 0.5},
        {"reward": "lexical", "threshold": 0.0},
        {"top": 0},
        {"time_limit_s": 500.0},
        {"memory_mib": 0},
        {"sandbox": "none"},
        {"sandbox": "bwarp"},
    ],
)
def test_parameters_that_mean_nothing_are_refused(params: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        SweAgentless(**params)


def test_the_verifier_pool_scores_it_under_its_catalogue_name(folder: Path) -> None:
    params = {"train": str(folder / "rows.jsonl"), "validation_rows": 1, "test_rows": 1}
    config, each = environment_alone("swe_agentless", params)
    [row] = each.rows("test")
    attempts = tuple(Attempt((text,), ("",), (text,)) for text in (each.gold(row), answer(WRONG)))
    specs = {"swe_agentless": EnvironmentSpec("swe_agentless", config, 0)}
    with closing(build_verifiers(VerifiersConfig(workers=1), {"swe_agentless": each}, specs)) as verifiers:
        [verdicts] = verifiers.verify([Job("swe_agentless", row, attempts)])
    assert [verdict.score.reward if verdict.score else verdict.reason for verdict in verdicts] == [1.0, 0.0]
