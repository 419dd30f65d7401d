"""BFCL: the package's own data and simulators, its checkers as the reference, and answers that mean harm."""

from __future__ import annotations

import functools
import json
import random
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

import pytest

from cascade.environments import bfcl_simulators
from cascade.environments.attempts import attempt_of
from cascade.environments.bfcl import PACKAGED, Bfcl
from cascade.environments.bfcl_answers import fits
from cascade.environments.bfcl_rows import MULTI_TURN
from cascade.environments.bfcl_simulators import Simulators
from cascade.environments.python_calls import python_calls
from cascade.environments.tool_calls import call_text
from cascade.errors import ConfigError, DataError
from cascade.ports import Bounded, MultiTurn, OffersTools, ReadsRecords, ScoresEpisodes
from cascade.types import Row

pytest.importorskip("bfcl_eval", reason=f"needs BFCL's data and simulators: {bfcl_simulators.INSTALL}")

SINGLE = ("simple_python", "multiple", "parallel", "parallel_multiple", "live_parallel", "live_parallel_multiple")


@functools.cache
def rows_of(category: str) -> tuple[Bfcl, Sequence[Row]]:
    environment = Bfcl(test=f"{PACKAGED}{category}", test_rows=2000)
    return environment, environment.rows("test")


def row_of(identity: str) -> tuple[Bfcl, Row]:
    environment, rows = rows_of(identity.rsplit("_", 1)[0])
    return environment, next(row for row in rows if row.data["id"] == identity)


def turns_of(environment: Bfcl, row: Row) -> list[str]:
    return json.loads(environment.gold(row))


@pytest.mark.parametrize("category", [*MULTI_TURN, *SINGLE, "irrelevance", "live_irrelevance"])
def test_every_gold_answer_scores_one(category: str) -> None:
    environment, rows = rows_of(category)
    assert len(rows) >= 16
    wrong = [row.data["id"] for row in rows if environment.score(row, environment.gold(row)).reward != 1.0]
    assert wrong == []


@pytest.mark.parametrize(("category", "broken"), [("live_simple", 2), ("live_multiple", 3)])
def test_live_rows_without_a_right_answer_say_so(category: str, broken: int) -> None:
    environment, rows = rows_of(category)
    without = 0
    for row in rows:
        try:
            assert environment.score(row, environment.gold(row)).reward == 1.0
        except DataError:
            without += 1
    assert without == broken


def test_it_is_all_that_the_pipeline_asks_for() -> None:
    environment = Bfcl()
    for protocol in (MultiTurn, ScoresEpisodes, OffersTools, ReadsRecords, Bounded):
        assert isinstance(environment, protocol)


def test_gold_episodes_are_replayed_faster_than_five_hundred_a_second_on_two_cores() -> None:
    environment, rows = rows_of("multi_turn_base")
    golds = [turns_of(environment, row) for row in rows]
    started = time.process_time()
    for row, turns in zip(rows, golds, strict=True):
        environment.score_episode(row, turns)
    assert (time.process_time() - started) / len(rows) < 0.004


# Against the leaderboard's own checkers


def spoilt(turns: list[list[dict[str, Any]]], rng: random.Random) -> list[list[list[dict[str, Any]]]]:
    """Gold calls as steps, with a call left out, doubled, changed or moved, or left as they are."""
    steps = [[[call] for call in turn] if rng.random() < 0.5 else [turn] for turn in json.loads(json.dumps(turns))]
    filled = [i for i, turn in enumerate(steps) if turn and turn[0]]
    where = steps[rng.choice(filled)]
    match rng.randrange(6):
        case 0:
            where.pop(rng.randrange(len(where)))
        case 1:
            where.insert(0, where[-1])
        case 2:
            call = rng.choice(where)[0]
            if call["arguments"]:
                key = rng.choice(list(call["arguments"]))
                call["arguments"][key] = rng.choice(["x", 3, True, call["arguments"][key]])
        case 3:
            where.reverse()
        case 4:
            where.append([{"name": "no_such_function", "positional": [], "arguments": {}}])
    return [[step for step in turn if step] for turn in steps]


def as_python(call: dict[str, Any]) -> str:
    values = [*map(repr, call["positional"]), *(f"{key}={value!r}" for key, value in call["arguments"].items())]
    return f"{call['name']}({', '.join(values)})"


@pytest.mark.parametrize("category", ["multi_turn_base", "multi_turn_miss_func", "multi_turn_miss_param"])
def test_episodes_are_scored_as_the_leaderboards_checker_scores_them(category: str) -> None:
    from bfcl_eval.eval_checker.multi_turn_eval.multi_turn_checker import multi_turn_checker

    environment, rows = rows_of(category)
    rng, seen, disagreements = random.Random(0), set(), []
    for number, row in enumerate(rows):
        named = environment.demonstration(row)  # arguments of gold calls by name, as models write them
        answers = [message["content"] for message in named["messages"] if message["role"] == "assistant"]
        course = environment._course(row, answers)[:-1]
        calls = [[call for step in steps for call in step] for steps in course]
        gold = [[{"name": c.name, "positional": [], "arguments": dict(c.arguments)} for c in turn] for turn in calls]
        for variant in range(3):
            steps = spoilt(gold, rng)
            texts = [text for turn in steps for text in [*map(call_text, turn), "Done."]]
            mine = environment.score_episode(row, texts).reward
            record = dict(bfcl_simulators.records_of(category)[row.data["id"]])
            theirs = multi_turn_checker(
                [[[as_python(call) for call in step] for step in turn] for turn in steps],
                record["ground_truth"],
                record,
                category,
                f"differential_{category}_{number}_{variant}",  # it keeps instances by this name
            )["valid"]
            seen.add(theirs)
            if mine != float(theirs):
                disagreements.append((row.data["id"], steps))
    assert disagreements == [], json.dumps(disagreements[:3])
    assert seen == {True, False}


REFERENCE = """
import json, sys, types
stub = types.ModuleType("bfcl_eval.constants.model_config")
class Model:
    underscore_to_dot = False
stub.MODEL_CONFIG_MAPPING = {"reference": Model}
sys.modules["bfcl_eval.constants.model_config"] = stub
for package in ("tree_sitter", "tree_sitter_java", "tree_sitter_javascript"):
    sys.modules.setdefault(package, types.ModuleType(package))
from bfcl_eval.constants.enums import Language
from bfcl_eval.eval_checker.ast_eval.ast_checker import ast_checker
for line in sys.stdin:
    function, calls, truth, category = json.loads(line)
    try:
        print(json.dumps(bool(ast_checker(function, calls, truth, Language.PYTHON, category, "reference")["valid"])))
    except (AttributeError, TypeError, KeyError) as error:
        print(json.dumps(repr(error)))
"""


def test_single_calls_are_scored_as_the_leaderboards_checker_scores_them() -> None:
    cases, mine, rng = [], [], random.Random(0)
    for category in (*SINGLE, "live_simple", "live_multiple"):
        environment, rows = rows_of(category)
        for row in rows:
            try:
                calls = environment._calls(row, environment.gold(row))
            except DataError:
                continue
            for _ in range(3):
                changed = json.loads(json.dumps([{call.name: dict(call.arguments)} for call in calls]))
                spoil(changed, row, rng)
                truth = row.data["ground_truth"]
                cases.append(json.dumps([row.data["function"], changed, truth, category]))
                named = [{"name": name, "arguments": values} for call in changed for name, values in call.items()]
                mine.append(environment.score(row, call_text(named)).reward)
    ran = subprocess.run([sys.executable, "-c", REFERENCE], input="\n".join(cases), capture_output=True, text=True)
    if ran.returncode:
        pytest.skip(f"the leaderboard's checker cannot be imported: {ran.stderr[-300:]}")
    theirs = [json.loads(line) for line in ran.stdout.splitlines()]
    assert len(theirs) == len(mine) > 6000
    differing = [case for case, one, other in zip(cases, mine, theirs, strict=True) if one != float(other is True)]
    assert differing == []
    assert 0.2 < sum(mine) / len(mine) < 0.8


def spoil(calls: list[dict[str, dict[str, Any]]], row: Row, rng: random.Random) -> None:
    """Changes one thing of some calls, or nothing: also into other possible values."""
    call = rng.choice(calls)
    [(name, arguments)] = call.items()
    possible = next((t[name] for t in row.data["ground_truth"] if name in t), {})
    match rng.randrange(7):
        case 0 if arguments:
            arguments.pop(rng.choice(list(arguments)))
        case 1:
            arguments["unknown"] = 1
        case 2:
            rng.shuffle(calls)
        case 3 if possible:
            key = rng.choice(list(possible))
            arguments[key] = rng.choice([*possible[key], "x", 1, 1.5, True, [], {}, None])
        case 4 if arguments:
            key = rng.choice(list(arguments))
            value = arguments[key]
            if isinstance(value, str):
                arguments[key] = rng.choice([value.upper(), f" {value}.", value + "!", value.replace(" ", "_")])
            elif isinstance(value, float | int):
                arguments[key] = rng.choice([float(value), int(value), value + 1, str(value)])
            elif isinstance(value, list):
                arguments[key] = rng.choice([value[::-1], [*value, *value[:1]], value[:1]])
        case 5:
            calls.append(call)


def test_a_whole_number_passes_for_a_float_but_not_the_other_way_round() -> None:
    assert fits(3, [3.0], {"type": "float"})
    assert not fits(3.0, [3], {"type": "integer"})
    assert not fits(True, [1], {"type": "integer"})


# Forms in which calls come


def test_the_three_forms_of_calls_mean_the_same() -> None:
    environment, row = row_of("simple_python_0")
    in_json = '<tool_call>{"name": "calculate_triangle_area", "arguments": {"base": 10, "height": 5}}</tool_call>'
    in_xml = (
        "<tool_call>\n<function=calculate_triangle_area>\n<parameter=base>\n10\n</parameter>\n"
        "<parameter=height>\n5\n</parameter>\n</function>\n</tool_call>"
    )
    in_python = "[calculate_triangle_area(base=10, height=5)]"
    for text in (in_json, in_xml, in_python, f"```python\n{in_python}\n```", in_python[1:-1], in_python + "\n"):
        assert environment.score(row, text).reward == 1.0, text
    for text in ("", "10", in_python.replace("10", "11"), in_json + in_json, in_json[:-13], f"I call {in_python}"):
        assert environment.score(row, text).reward == 0.0, text


def test_underscores_may_stand_for_the_dots_of_a_name() -> None:
    environment, row = row_of("multiple_0")
    arguments = {"side1": 5, "side2": 4, "side3": 3}
    for name, reward in (("triangle_properties.get", 1.0), ("triangle_properties_get", 1.0), ("triangle", 0.0)):
        assert environment.score(row, call_text([{"name": name, "arguments": arguments}])).reward == reward


def test_schemas_have_the_types_of_json() -> None:
    environment, row = row_of("multi_turn_base_0")
    tools = environment.tools(row)
    names = [tool["function"]["name"] for tool in tools]
    assert "cd" in names
    assert "post_tweet" in names
    assert "cp" not in names  # which the row excludes
    assert all(tool["function"]["parameters"]["type"] == "object" for tool in tools)
    assert '"dict"' not in json.dumps(tools)


@pytest.mark.parametrize(
    ("text", "value"),
    [("f(a=1+2*3)", 7), ("f(a=-2.5)", -2.5), ("f(a=[1, 'x', {'k': None}])", [1, "x", {"k": None}]), ("f(a=km)", "km"),
     ("f(a=(1, 2))", (1, 2))],
)  # fmt: skip
def test_python_arguments_are_read(text: str, value: Any) -> None:
    calls = python_calls(text)
    assert calls is not None
    assert calls[0].arguments == {"a": value}


@pytest.mark.parametrize(
    "text",
    ["f(a=9**9**9)", "f(a='x'*10**9)", "f(a=g(b=1))", "f(**{'a': 1})", "f(a=1, a=2)", "f(a=lambda: 1)", "f(a=b'x')",
     "f(a=1) + f(a=2)", "x = f(a=1)", "f(a=__import__('os').system('true'))", "(f)(a=1)(b=2)", "f(a=1/0)", "f(a=1j)",
     "f(" * 9000, "f(a=" + "-" * 15000 + "1)", "f(a=" + "(" * 5000 + ")" * 5000 + ")", "f(a='\ud800\x00')",
     "f(a=" + "9" * 15000 + ")", "f(a=" + "[" * 90 + "]" * 90 + ")", "f(a=" + "1+" * 9000 + "1)", "f(a=...)",
     "f(a={**{}})" * 2, "a" + ".a" * 9000 + "()", "(" * 100_000],
)  # fmt: skip
def test_other_python_is_no_call_and_is_not_run(text: str) -> None:
    assert python_calls(text) is None


# Episodes


def test_an_episode_goes_turn_by_turn_and_shows_what_calls_return() -> None:
    environment, row = row_of("multi_turn_base_0")
    assert environment.messages(row)[0]["content"].startswith("Move 'final_report.pdf'")  # type: ignore[typeddict-item]
    turns = turns_of(environment, row)
    replies = environment.respond(row, turns[:1])
    assert replies is not None
    assert [reply["role"] for reply in replies] == ["tool"] * 3  # type: ignore[typeddict-item]
    assert json.loads(replies[0]["content"]) == {"current_working_directory": "document"}  # type: ignore[typeddict-item]
    following = environment.respond(row, turns[:2])
    assert following is not None
    assert "grep" in following[0].get("content", "")
    assert environment.respond(row, turns) is None
    assert len(turns) < environment.max_turns


def test_errors_of_tools_go_back_to_the_model_and_it_may_try_again() -> None:
    environment, row = row_of("multi_turn_base_0")
    wrong = [
        call_text([{"name": "cd", "arguments": {"folder": "nowhere"}}]),
        call_text([{"name": "no_such_function", "arguments": {}}]),
        call_text([{"name": "cd", "arguments": {"nope": 1}}]),
        "<tool_call>{broken</tool_call>",
        "[cd('document')]",
        call_text([{"name": "_load_scenario", "arguments": {"scenario": {}}}]),
    ]
    said = []
    for number in range(1, len(wrong) + 1):
        replies = environment.respond(row, wrong[:number])
        assert replies
        said.append(replies[-1].get("content", ""))
    assert "No such file or directory" in said[0]
    assert "is not defined" in said[1]
    assert "unexpected keyword argument" in said[2]
    assert "cannot be read" in said[3]
    assert "by its name" in said[4]
    assert "is not defined" in said[5]
    assert environment.score_episode(row, [*wrong, *turns_of(environment, row)]).reward == 1.0


def test_an_episode_that_ends_too_early_or_never_gets_on_scores_zero() -> None:
    environment, row = row_of("multi_turn_base_0")
    turns = turns_of(environment, row)
    idle = call_text([{"name": "pwd", "arguments": {}}])
    assert environment.score_episode(row, turns[:-1]).reward == 1.0  # all is done; only the closing turn is missing
    assert environment.score_episode(row, turns[:-2]).parts["finished"] == 0.0
    assert environment.score_episode(row, [idle] * 19 + turns).reward == 1.0
    stuck = environment.score_episode(row, [idle] * 20 + turns)
    assert (stuck.reward, stuck.parts["finished"]) == (0.0, 0.0)
    assert environment.respond(row, [idle] * 20) is not None
    assert environment.respond(row, [idle] * 21) is None
    for answers in ([""], ["Done."] * len(turns), [""] * 500, ["[" * 50_000]):
        assert environment.score_episode(row, answers).reward == 0.0


def test_the_share_of_right_turns_is_a_part() -> None:
    environment, row = row_of("multi_turn_base_0")
    turns = turns_of(environment, row)
    late = [*turns[:-2], "Done."]  # the last turn of the user is answered without a call
    assert environment.score_episode(row, late).parts["turns"] == 0.75


def test_doing_everything_at_once_in_the_first_turn_is_no_way_to_score() -> None:
    environment, row = row_of("multi_turn_base_0")
    turns = [turn for turn in turns_of(environment, row) if turn != "Done."]
    assert environment.score_episode(row, ["\n".join(turns), *["Done."] * len(turns)]).reward == 0.0


def test_functions_that_come_later_are_shown_when_they_come() -> None:
    environment, row = row_of("multi_turn_miss_func_0")
    assert "sort" not in [tool["function"]["name"] for tool in environment.tools(row)]
    turns = turns_of(environment, row)
    closings = [position for position, turn in enumerate(turns) if turn == "Done."]
    replies = environment.respond(row, turns[: closings[2] + 1])
    assert replies
    assert '"name": "sort"' in replies[0].get("content", "")


def test_messages_of_a_whole_demonstration_score_one() -> None:
    environment, row = row_of("multi_turn_base_3")
    messages = environment.demonstration(row)["messages"]
    attempt = attempt_of(messages[1:])
    assert environment.score_episode(row, attempt.answers).reward == 1.0


def test_nothing_is_remembered_between_episodes_also_in_the_tables_of_long_contexts() -> None:
    environment, rows = rows_of("multi_turn_base")
    before = json.dumps([dict(row.data) for row in rows])
    for row in rows:
        environment.score_episode(row, turns_of(environment, row))
    assert json.dumps([dict(row.data) for row in rows]) == before
    environment, rows = rows_of("multi_turn_long_context")
    once = [environment.demonstration(row) for row in rows[::10]]
    assert [environment.demonstration(row) for row in rows[::10]] == once


# Files


def test_rows_of_files_are_read_with_and_without_their_gold_calls() -> None:
    record = dict(bfcl_simulators.records_of("multi_turn_base")["multi_turn_base_5"])
    environment = Bfcl()
    [with_gold] = environment.rows_of([("1", record)], "file")
    record.pop("ground_truth")
    [without] = environment.rows_of([("1", record)], "file")
    assert with_gold == without


@pytest.mark.parametrize(
    "change",
    [{"id": 3}, {"id": "simple_java_0"}, {"id": "memory_0"}, {"question": []}, {"question": "x"},
     {"involved_classes": ["WebSearchAPI"]}, {"ground_truth": [["cd(folder=open('x'))"]] * 4}, {"ground_truth": []}],
)  # fmt: skip
def test_malformed_rows_are_data_errors(change: dict[str, Any]) -> None:
    record = {**bfcl_simulators.records_of("multi_turn_base")["multi_turn_base_0"], **change}
    with pytest.raises(DataError):
        Bfcl().read(record)


def test_a_category_that_is_none_names_the_others() -> None:
    with pytest.raises(DataError, match="multi_turn_base"):
        Bfcl(test="bfcl:../possible_answer/x").rows("test")


def test_without_the_package_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    bfcl_simulators.package.cache_clear()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="pip install --no-deps bfcl-eval=="):
        Bfcl()
    monkeypatch.undo()
    bfcl_simulators.package.cache_clear()


# Calls that mean harm


@pytest.mark.parametrize(
    ("name", "arguments"),
    [("power", {"base": 9, "exponent": 9**9}), ("power", {"exponent": 10**12, "base": 2}),
     ("power", {"base": 10**4000, "exponent": 4000}), ("logarithm", {"value": 2, "base": 3, "precision": 10**9}),
     ("logarithm", {"value": 2, "base": 3, "precision": 1e9}),
     ("logarithm", {"value": 2, "base": 3, "precision": "1000000000"}),
     ("square_root", {"number": 2, "precision": 10**9}), ("round_number", {"number": 5, "decimal_places": -(10**9)}),
     ("power", {"base": 2.5, "exponent": 1e300}), ("mean", {"numbers": [10**4000] * 50}),
     ("power", {"nope": 1}), ("sum_values", {"numbers": {"a": 1}}), ("add", {"a": "x", "b": None})],
)  # fmt: skip
def test_heavy_mathematics_is_refused_at_once(name: str, arguments: dict[str, Any]) -> None:
    started = time.monotonic()
    assert "rror" in Simulators(["MathAPI"], {}).call(name, (), arguments)
    assert time.monotonic() - started < 0.5


def test_precision_is_not_left_behind_in_the_process() -> None:
    import decimal

    import mpmath

    before = (decimal.getcontext().prec, mpmath.mp.dps)
    simulators = Simulators(["MathAPI"], {})
    simulators.call("square_root", (), {"number": 2, "precision": 77})
    assert "mpf" in simulators.call("logarithm", (), {"value": 20, "base": 10, "precision": 77})
    assert (decimal.getcontext().prec, mpmath.mp.dps) == before


def test_directories_within_themselves_hold_nobody_up() -> None:
    simulators = Simulators(["GorillaFileSystem"], {"GorillaFileSystem": {}})
    for name in "ab":
        simulators.call("mkdir", (), {"dir_name": name})
    simulators.call("cp", (), {"source": "a", "destination": "a"})
    for _ in range(60):
        simulators.call("cp", (), {"source": "a", "destination": "b"})
        simulators.call("mv", (), {"source": "b", "destination": "a"})
        simulators.call("cd", (), {"folder": "a"})
        simulators.call("cp", (), {"source": "b", "destination": "a"})
        simulators.call("cp", (), {"source": "a", "destination": "a"})
    started = time.monotonic()
    for name in ("find", "du", "pwd", "ls"):
        simulators.call(name)
    assert not simulators.same_state(Simulators(["GorillaFileSystem"], {"GorillaFileSystem": {}}))
    assert time.monotonic() - started < 1.0


def test_hostile_answers_never_score_and_never_raise() -> None:
    environment, row = row_of("multi_turn_base_0")
    single = row_of("simple_python_0")[1]
    pieces = [
        "<tool_call>", "</tool_call>", "{", "}", "[", "(", '"', "\\", "\x00", "\ud800", "cd", "folder='", "=", ",",
        '{"name": "cd", "arguments": ', "<function=cd>", "<parameter=folder>", "9" * 5000, "NaN", "１", "𝟙",
    ]  # fmt: skip
    rng = random.Random(0)
    texts = ["".join(rng.choices(pieces, k=rng.randrange(40))) for _ in range(300)]
    texts += ["x" * 5_000_000, "[" * 100_000, "<tool_call>" * 100_000, "cd(" * 100_000, "{" * 100_000]
    for text in texts:
        assert environment.score(row, text).reward == 0.0
        assert environment.score(single, text).reward == 0.0
        environment.respond(row, [text])


def test_no_call_where_none_fits_means_to_say_so() -> None:
    environment, rows = rows_of("irrelevance")
    name = rows[0].data["function"][0]["name"]
    assert environment.score(rows[0], "I cannot do that with these functions.").reward == 1.0
    for text in ("", " \n", call_text([{"name": name, "arguments": {}}]), f"{name}()", "<tool_call>{broken"):
        assert environment.score(rows[0], text).reward == 0.0
