"""Agents that follow a script: the honest one earns 1, none of the others anything, and the right ones are masked."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from cascade import cli
from cascade.environments.attempts import attempt_at, attempt_of
from cascade.environments.catalogue import environment_alone
from cascade.environments.swe_agentic import SweAgentic
from cascade.environments.tool_calls import xml_text
from cascade.errors import ConfigError, DataError, FailureKind, VerifierFailure
from cascade.types import Row, Score
from tests.environments.agents import (
    BROKEN,
    REPAIR,
    REPAIRED,
    SUBMIT,
    bash,
    edit,
    messages,
    record,
    turns,
    view,
)

SMALL: dict[str, Any] = {
    "command_time_s": 4.0, "episode_time_s": 30.0, "test_time_s": 60.0, "memory_mib": 256, "disk_mib": 64,
    "processes": 64, "concurrency": 2, "live_sessions": 4,
}  # fmt: skip
PASSING = """\
import pytest

@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    found = yield
    found.get_result().outcome = "passed"
"""
CHEATS = {
    "deletes the tests": bash("rm -r tests"),
    "empties the tests": bash(": > tests/test_words.py; : > tests/test_more.py"),
    "writes other tests": edit(path="tests/test_words.py", file_text="def test_spaces():\n    pass\n"),
    "chooses no tests": edit(path="setup.cfg", file_text="[tool:pytest]\naddopts = --collect-only -k nothing\n"),
    "finds no tests": edit(path="pytest.ini", file_text="[pytest]\npython_files = nothing.py\n"),
    "passes all in conftest.py": edit(path="conftest.py", file_text=PASSING),
    "exits in sitecustomize.py": edit(path="sitecustomize.py", file_text="import os\nos._exit(0)\n"),
    "exits in the source": edit(path="counting/__init__.py", file_text="import os\nos._exit(0)\n"),
    "is pytest": edit(path="pytest.py", file_text="def main(*_, **__):\n    return 0\n"),
    "is python": bash(
        "mkdir -p /tmp/work/bin bin; printf '#!/bin/sh\\nexit 0\\n' | tee /tmp/work/bin/python bin/pytest; "
        "chmod +x bin/* /tmp/work/bin/*; cp bin/pytest /usr/bin/python; ln -sf /testbed/bin/pytest /.python/bin/python"
    ),
    "works on a history": bash("git init -q; printf '#!/bin/sh\\n' > .git/hooks/pre-commit; git add -A"),
    "leaves a daemon": bash(
        "(while true; do echo 'def test_spaces(): pass' > tests/test_words.py; done) >/dev/null 2>&1 & disown"
    ),
    "links out": bash("rm -r counting; ln -s /tmp counting; ln -s / root; ln -s /proc/self/environ env"),
    "leaves odd files": bash(
        "head -c 30000000 /dev/zero > big; head -c 3000 /dev/urandom > x.bin; echo > 'a b'; echo > $'n\\nl'; "
        "echo > ü; echo > $'\\xff'"
    ),
}
EAT = bash("python -c 'x = [bytearray(10**7) for _ in range(200)]'")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[SweAgentic, Row]:
    environment = SweAgentic(**SMALL)
    return environment, row_of(environment, record(tmp_path_factory.mktemp("swe")))


def row_of(environment: SweAgentic, of: dict[str, Any]) -> Row:
    return Row(f"swe/{of['instance_id']}", "swe", "swe_agentic", environment.read(of))


def scored(world: tuple[SweAgentic, Row], *calls: dict[str, Any]) -> Score:
    """An agent that takes a turn a call, as a file of messages says it."""
    environment, row = world
    return environment.score_attempt(row, attempt_of(messages(*calls)))


def ending(score: Score) -> str:
    (found,) = [
        name.removeprefix("ended_") for name, value in score.parts.items() if value and name.startswith("ended")
    ]
    return found


def test_the_oracle_earns_1_in_every_way(world: tuple[SweAgentic, Row]) -> None:
    environment, row = world
    patch = row.data["patch"]
    scripts: list[Sequence[dict[str, Any]]] = [
        [view("."), view("counting/words.py", 1, 3), edit(path="counting/words.py", old_str=BROKEN, new_str=REPAIRED)],
        [bash(f"cat > /tmp/p <<'EOF'\n{patch}EOF\ngit apply /tmp/p && patch -R -p1 < /tmp/p && patch -p1 < /tmp/p")],
    ]
    for script in scripts:
        score = scored(world, *script, SUBMIT)
        assert (score.reward, score.masked, ending(score)) == (1.0, False, "submitted")
        assert score.parts["f2p"] == score.parts["p2p"] == 1.0
    assert environment.score(row, environment.gold(row)).reward == 1.0
    assert environment.score(row, xml_text([REPAIR, SUBMIT])).reward == 1.0


def test_the_demonstration_is_an_episode_that_earns_1(world: tuple[SweAgentic, Row]) -> None:
    environment, row = world
    shown = environment.demonstration(row)
    assert [message["role"] for message in shown["messages"]] == ["user", "assistant", "tool", "assistant"]
    assert environment.score_attempt(row, attempt_of(shown["messages"][1:])).reward == 1.0


@pytest.mark.parametrize("script", CHEATS.values(), ids=CHEATS)
def test_whoever_repairs_nothing_earns_nothing(world: tuple[SweAgentic, Row], script: dict[str, Any]) -> None:
    score = scored(world, script, SUBMIT)
    assert (score.reward, score.masked, ending(score)) == (0.0, False, "submitted")


def test_the_no_op_earns_nothing(world: tuple[SweAgentic, Row]) -> None:
    score = scored(world, SUBMIT)
    assert (score.reward, score.masked, ending(score)) == (0.0, False, "submitted")


def test_a_repair_counts_with_whatever_lies_beside_it(world: tuple[SweAgentic, Row]) -> None:
    junk = bash(
        "rm -r tests; echo 'raise SystemExit' > conftest.py; echo x > 'a b.py'; echo > $'n\\nl'; echo > $'\\xff'; "
        "head -c 2000000 /dev/urandom > big; ln -s / root; git init -q; mkdir README; rm README.md; mkfifo pipe"
    )
    score = scored(world, REPAIR, junk, SUBMIT)
    assert (score.reward, score.masked) == (1.0, False)
    assert score.parts["dropped"] >= 2


def test_files_may_become_folders_and_folders_files(world: tuple[SweAgentic, Row]) -> None:
    moved = bash("rm README.md; mkdir README.md; echo > README.md/x; mkdir d; echo > d/e; rm -r d; echo > d")
    assert scored(world, REPAIR, moved, SUBMIT).reward == 1.0
    package = bash(
        "cp counting/words.py /tmp/w; rm -r counting; mkdir -p counting/words; "
        "cp /tmp/w counting/words/__init__.py; echo 'from .words import count' > counting/__init__.py"
    )
    assert scored(world, REPAIR, package, SUBMIT).reward == 1.0


def test_the_looper_is_masked(world: tuple[SweAgentic, Row]) -> None:
    score = scored(world, bash("while true; do :; done"))
    assert (score.reward, score.masked, ending(score)) == (0.0, True, "wall_clock")
    environment = SweAgentic(**{**SMALL, "command_time_s": 0.7, "episode_time_s": 1.0})
    score = environment.score_episode(world[1], turns(*[bash("sleep 50")] * 9))
    assert (score.reward, score.masked, ending(score), score.parts["turns"]) == (0.0, True, "wall_clock", 2)
    assert score.parts["commands_s"] < 1.5


def test_a_command_that_was_ended_at_its_limit_is_no_mask_when_something_follows(world: tuple[SweAgentic, Row]) -> None:
    score = scored(world, REPAIR, bash("sleep 50"), SUBMIT)
    assert (score.reward, score.masked, ending(score)) == (1.0, False, "submitted")


def test_who_runs_out_of_turns_is_masked_only_when_resolved(world: tuple[SweAgentic, Row]) -> None:
    environment, row = SweAgentic(**SMALL, max_turns=3), world[1]
    idle = turns(*[bash("ls")] * 5)
    score = environment.score_episode(row, idle)
    assert (score.reward, score.masked, ending(score), score.parts["turns"]) == (0.0, False, "turns", 3)
    score = environment.score_episode(row, turns(REPAIR, *[bash("ls")] * 2))
    assert (score.reward, score.masked, ending(score)) == (1.0, True, "turns")
    score = environment.score_episode(row, turns(REPAIR, bash("ls"), SUBMIT))
    assert (score.reward, score.masked, ending(score)) == (1.0, False, "submitted")
    score = environment.score_episode(row, [*idle[:3], *turns(REPAIR, SUBMIT)])
    assert score.reward == 0.0


def test_who_runs_out_of_tokens_is_masked_only_when_resolved(world: tuple[SweAgentic, Row]) -> None:
    environment, row = world
    resolved = [
        attempt_at(turns(REPAIR, bash("ls"))),  # a file of messages that ends in a call was cut too
        attempt_at([*turns(REPAIR), "Now I sub"], finished=False),
    ]
    for attempt in resolved:
        score = environment.score_attempt(row, attempt)
        assert (score.reward, score.masked, ending(score)) == (1.0, True, "tokens")
    score = environment.score_attempt(row, attempt_at([*turns(bash("ls")), "Now I sub"], finished=False))
    assert (score.reward, score.masked, ending(score)) == (0.0, False, "tokens")
    score = environment.score_attempt(row, attempt_at([*turns(REPAIR), "Done."]))
    assert (score.reward, score.masked, ending(score)) == (1.0, False, "text")


def test_who_runs_out_of_memory_is_masked(world: tuple[SweAgentic, Row]) -> None:
    score = scored(world, REPAIR, EAT, SUBMIT)
    assert (score.reward, score.masked, ending(score)) == (0.0, True, "memory")


@pytest.mark.parametrize("late", ["while True: pass", "x = [bytearray(10**7) for _ in range(200)]"])
def test_whose_tests_do_not_end_is_masked(world: tuple[SweAgentic, Row], late: str) -> None:
    environment = SweAgentic(**{**SMALL, "test_time_s": 3.0})
    broken = edit(command="insert", path="counting/__init__.py", insert_line=0, new_str=late)
    score = environment.score_episode(world[1], turns(broken, SUBMIT))
    assert (score.reward, score.masked, ending(score)) == (0.0, True, "submitted")


def test_the_forker_earns_nothing_and_nothing_survives(world: tuple[SweAgentic, Row]) -> None:
    mark = f"7{os.getpid()}.5"
    bomb = bash(f"for i in 1 2 3; do (setsid sleep {mark} >/dev/null 2>&1 &); done; f() {{ f | f & }}; f; sleep 30")
    assert scored(world, bomb, bash("ls"), SUBMIT).reward == 0.0
    shown = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert mark not in shown


def test_no_tool_shows_what_the_hidden_tests_expect(world: tuple[SweAgentic, Row]) -> None:
    environment, row = world
    look = bash(
        "ls -a tests; cat tests/* setup.cfg; env; cat /proc/*/environ; "
        "grep -r test_tabs / --include=*.py -l 2>/dev/null; find / -name 'test_m*' 2>/dev/null"
    )
    (shown,) = environment.respond(row, turns(look)) or []
    assert "test_words" in shown["content"]
    assert "test_more" not in shown["content"]
    assert "test_tabs" not in shown["content"]
    assert "test_more" not in json.dumps([environment.messages(row), environment.tools(row)])


def test_an_answer_follows_from_row_and_answers_whatever_the_cache_holds(world: tuple[SweAgentic, Row]) -> None:
    environment, row = world
    script = turns(bash("echo a >> x"), bash("cat x; date +%Y"), bash("echo b >> x; cat x"), SUBMIT)

    def heard(fresh: bool) -> list[Any]:
        replies = []
        for turn in range(1, 5):
            if fresh:
                environment._live.close()
            replies.append(environment.respond(row, script[:turn]))
        return replies

    assert heard(fresh=False) == heard(fresh=True)
    assert heard(fresh=False)[2:] == [[{"role": "tool", "content": "a\nb"}], None]
    assert environment.respond(row, script[:2]) == environment.respond(row, script[:2])


def test_a_rollout_keeps_its_room_from_turn_to_turn(
    world: tuple[SweAgentic, Row], monkeypatch: pytest.MonkeyPatch
) -> None:
    environment, row = world
    opened = []
    real = SweAgentic._open
    monkeypatch.setattr(SweAgentic, "_open", lambda self, task: opened.append(1) or real(self, task))
    script = turns(
        bash("echo one"), bash("(sleep 20; echo) >/dev/null 2>&1 & echo $$ > /tmp/kept"), bash("cat /tmp/kept"), SUBMIT
    )
    for turn in range(1, 5):
        environment.respond(row, script[:turn])
    assert environment.score_episode(row, script).reward == 0.0
    assert len(opened) == 1


def test_many_rollouts_share_few_rooms(world: tuple[SweAgentic, Row]) -> None:
    environment, row = SweAgentic(**{**SMALL, "live_sessions": 1}), world[1]
    scripts = [turns(bash(f"echo {n} > x"), REPAIR if n else bash("ls"), SUBMIT) for n in range(3)]
    for turn in range(1, 3):
        for script in scripts:
            environment.respond(row, script[:turn])
            assert len(environment._live) == 1
    assert environment.metrics()["turns_again"] >= 2
    assert [environment.score_episode(row, script).reward for script in scripts] == [0.0, 1.0, 1.0]
    environment._live.close()


def test_time_that_a_replay_takes_is_not_counted_twice(world: tuple[SweAgentic, Row]) -> None:
    environment, row = world
    script = turns(bash("sleep 1"), bash("sleep 0.5"), SUBMIT)
    environment.respond(row, script[:1])
    for turn in (2, 3):
        environment._live.close()
        environment.respond(row, script[:turn])
    assert 1.5 <= environment.score_episode(row, script).parts["commands_s"] < 2.5


def test_files_of_messages_are_scored(
    world: tuple[SweAgentic, Row], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scripts = {
        "oracle": [REPAIR, SUBMIT], "no-op": [SUBMIT], "looper": [bash("while true; do :; done")],
        "deleter": [bash("rm -r tests"), SUBMIT], "cut": [REPAIR, bash("ls")],
    }  # fmt: skip
    of = record(tmp_path)
    (tmp_path / "rows.jsonl").write_text(f"{json.dumps(of)}\n" * (len(scripts) + 1))
    lines = [{"completion": messages(*script)} for script in scripts.values()]
    lines.append({"completion": messages(bash("ls"), REPAIR, SUBMIT, observer="user")})
    (tmp_path / "completions.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    params = [word for key, value in SMALL.items() for word in ("--param", f"{key}={value}")]
    files = [
        "--rows",
        f"{tmp_path}/rows.jsonl",
        "--completions",
        f"{tmp_path}/completions.jsonl",
        "--out",
        f"{tmp_path}/out",
    ]
    with pytest.raises(SystemExit) as ended:
        cli.main(["score", "--environment", "swe_agentic", *files, *params])
    assert ended.value.code in (0, None), capsys.readouterr().err
    found = [json.loads(line) for line in (tmp_path / "out").read_text().splitlines()]
    assert [(line["reward"], line["masked"]) for line in found] == [
        (1.0, False), (0.0, False), (0.0, True), (0.0, False), (1.0, True), (1.0, False),
    ]  # fmt: skip


def test_what_cannot_be_graded_is_a_failure_and_never_a_reward_of_0(
    world: tuple[SweAgentic, Row], tmp_path: Path
) -> None:
    environment = world[0]
    gone = row_of(environment, record(tmp_path, instance_id="gone", repository=f"{tmp_path}/none"))
    with pytest.raises(VerifierFailure) as raised:
        environment.score_episode(gone, turns(SUBMIT))
    assert raised.value.kind is FailureKind.DATA
    with pytest.raises(VerifierFailure):
        environment.respond(gone, turns(REPAIR))
    bare = row_of(environment, record(tmp_path, instance_id="bare", patch=""))
    with pytest.raises(DataError, match="no patch"):
        environment.gold(bare)


@pytest.mark.parametrize(
    "params", [{"max_turns": 0}, {"command_time_s": 0}, {"memory_mib": 0}, {"sandbox": "none"}, {"sandbox": "bwarp"}]
)
def test_settings_without_a_meaning_are_refused(params: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        SweAgentic(**params)


def test_it_is_in_the_catalogue() -> None:
    config, environment = environment_alone("swe_agents", {"max_turns": 50})
    assert isinstance(environment, SweAgentic)
    assert (config.domain, environment.max_turns) == ("swe", 50)
