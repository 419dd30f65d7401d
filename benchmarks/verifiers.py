"""Measures verifiers: verdicts a second by the local pool, beside what a verdict costs in CPU time.

    CASCADE_DATA=data python benchmarks/verifiers.py --workers 2

Real rows and answers where `$CASCADE_DATA` has them (`ifeval/`, `multiple_choice/`, `gsm8k/`), else made ones. All
answers differ and nothing is cached. Medians over rounds; prints a table and one line of JSON. `pool us` is the CPU
time of a verdict in all processes, `inline us` that of making it in the process that asks. Take a machine that does
nothing else.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import random
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import psutil

from cascade.config import EnvironmentConfig
from cascade.environments.attempts import attempt_at
from cascade.environments.catalogue import build_environment
from cascade.environments.row_source import RowEnvironment
from cascade.errors import DataError
from cascade.ports import Environment
from cascade.types import Row
from cascade.verification.jobs import EnvironmentSpec, Job
from cascade.verification.local import LocalVerifiers
from cascade.verification.outcomes import judged
from cascade.verification.routing import is_bounded

DATA = Path(os.environ.get("CASCADE_DATA", "data"))
Case = tuple[Row, str]


@dataclass(frozen=True)
class Workload:
    """What is measured of one environment."""

    kind: str
    domain: str
    cases: Callable[[RowEnvironment, random.Random], Iterator[Case]]
    count: int  # verdicts a round


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--kinds", nargs="*", default=[workload.kind for workload in WORKLOADS])
    options = parser.parse_args()
    results = {}
    print(f"{'environment':24}{'where':>10}{'verdicts/s':>12}{'pool us':>11}{'inline us':>11}{'ok':>7}{'reward':>8}")
    for workload in WORKLOADS:
        if workload.kind in options.kinds:
            found = results[workload.kind] = measured(workload, options.workers, options.rounds)
            numbers = f"{found['per_second']:12,.0f}{found['pool_us']:11.1f}{found['inline_us']:11.1f}"
            print(
                f"{workload.kind:24}{found['where']:>10}{numbers}{found['ok']:7.3f}{found['reward']:8.3f}", flush=True
            )
    print(json.dumps({"workers": options.workers, "rounds": options.rounds, "results": results}))


def measured(workload: Workload, workers: int, rounds: int) -> dict[str, Any]:
    """Medians over rounds, each of its own rows and answers."""
    config = EnvironmentConfig(kind=workload.kind, domain=workload.domain)
    environment = build_environment(workload.kind, config, 0)
    cases = workload.cases(cast(RowEnvironment, environment), random.Random(0))
    batches = [jobs(workload, cases) for _ in range(rounds + 1)]
    verifiers = LocalVerifiers(
        {workload.kind: environment}, {workload.kind: EnvironmentSpec(workload.kind, config, 0)}, workers, 0
    )
    rates, cpu_us, verdicts = [], [], []
    with closing(verifiers):
        verifiers.verify(batches.pop())  # starts the workers
        for batch in batches:
            began, cpu_s = time.perf_counter(), used_s()
            found = verifiers.verify(batch)
            rates.append(workload.count / (time.perf_counter() - began))
            cpu_us.append((used_s() - cpu_s) / workload.count * 1e6)
            verdicts += [verdict for each in found for verdict in each]
    return {
        "where": "workers" if is_bounded(environment) else "caller",
        "per_second": statistics.median(rates),
        "pool_us": statistics.median(cpu_us),
        "inline_us": statistics.median(inline_us(environment, batch) for batch in batches),
        "ok": statistics.mean(verdict.status == "ok" for verdict in verdicts),
        "reward": statistics.mean(verdict.score.reward if verdict.score else 0.0 for verdict in verdicts),
    }


def jobs(workload: Workload, cases: Iterator[Case]) -> list[Job]:
    """One attempt a job."""
    return [
        Job(workload.kind, row, (attempt_at([answer]),))
        for (row, answer), _ in zip(cases, range(workload.count), strict=False)
    ]


def inline_us(environment: Environment, batch: Sequence[Job]) -> float:
    """CPU microseconds of a verdict in this process, once everything is imported."""
    sample = batch[: max(50, len(batch) // 10)]
    judged(environment, sample[0].row, sample[0].attempts)
    began = time.process_time()
    for job in sample:
        judged(environment, job.row, job.attempts)
    return (time.process_time() - began) / len(sample) * 1e6


def used_s() -> float:
    """CPU seconds of this process and of those below it."""
    times = [process.cpu_times() for process in psutil.Process().children(recursive=True)]
    return time.process_time() + sum(each.user + each.system for each in times)


def rows_of(environment: RowEnvironment, records: Sequence[Mapping[str, Any]]) -> list[Row]:
    return environment.rows_of(((str(number), dict(record)) for number, record in enumerate(records)), "records")


def real(name: str) -> list[dict[str, Any]]:
    """The records of a file below `$CASCADE_DATA`; none where it is missing."""
    file = DATA / name
    if not file.is_file():
        return []
    text = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
    return [json.loads(line) for line in text.splitlines()]


def prose(rng: random.Random, words: int) -> str:
    """Text that is never twice the same."""
    return " ".join(rng.choices(WORDS, k=words)).capitalize() + f", as in {rng.randrange(10**9)}."


def choices(environment: RowEnvironment, rng: random.Random) -> Iterator[Case]:
    made = [
        {"question": prose(rng, 12), "options": [str(rng.randrange(1000)) + letter for letter in "pqrst"], "answer": 2}
        for _ in range(500)
    ]
    rows = rows_of(environment, real("multiple_choice/rows.jsonl.gz") or made)
    while True:
        row = rng.choice(rows)
        yield row, f"{prose(rng, 60)}\n\nSo the answer is \\boxed{{{rng.choice('ABCD')}}}."


def objects(environment: RowEnvironment, rng: random.Random) -> Iterator[Case]:
    """Records of six fields, two of them nested; every third lacks one."""
    rows = rows_of(environment, [{"schema_str": json.dumps(_schema(rng))} for _ in range(100)])
    while True:
        row = rng.choice(rows)
        value = _value(json.loads(row.data["schema_str"]), rng)
        if rng.random() < 1 / 3:
            value.popitem()
        yield row, json.dumps(value)


def _schema(rng: random.Random) -> dict[str, Any]:
    plain = [{"type": "string"}, {"type": "integer", "minimum": 0}, {"type": "number"}, {"type": "boolean"}]
    fields = {f"{rng.choice(WORDS)}_{n}": rng.choice(plain) for n in range(4)}
    inner = {f"{rng.choice(WORDS)}_{n}": rng.choice(plain) for n in range(3)}
    fields["items"] = {"type": "array", "items": {"type": "object", "properties": inner, "required": list(inner)}}
    fields["kind"] = {"type": "string", "enum": WORDS[:5]}
    return {"type": "object", "properties": fields, "required": list(fields)}


def _value(schema: Mapping[str, Any], rng: random.Random) -> Any:
    if "enum" in schema:
        return rng.choice(schema["enum"])
    kind = schema["type"]
    if kind == "object":
        return {name: _value(inner, rng) for name, inner in schema["properties"].items()}
    if kind == "array":
        return [_value(schema["items"], rng) for _ in range(2)]
    plain = {"string": prose(rng, 4), "integer": rng.randrange(10**6), "number": rng.random(), "boolean": True}
    return plain[kind]


def instructions(environment: RowEnvironment, rng: random.Random) -> Iterator[Case]:
    """IFEval's rows; answers of some 100 words, or what follows all instructions."""
    made = [
        {
            "prompt": prose(rng, 20),
            "instruction_id_list": ["punctuation:no_comma", "length_constraints:number_words"],
            "kwargs": [{}, {"relation": "at least", "num_words": 20 + n}],
        }
        for n in range(200)
    ]
    rows = rows_of(environment, real("ifeval/input_data.jsonl") or made)
    gold = {row.id: _gold(environment, row) for row in rows}
    while True:
        row = rng.choice(rows)
        yield row, (gold[row.id] + "\n") * rng.randrange(2) + prose(rng, 100)


def _gold(environment: RowEnvironment, row: Row) -> str:
    try:
        return environment.gold(row)
    except DataError:
        return ""


def solutions(environment: RowEnvironment, rng: random.Random) -> Iterator[Case]:
    """Model solutions of GSM8K, right and wrong, their answer in a box, behind `####` or at the end of a sentence."""
    files = real("gsm8k/example_model_solutions.jsonl.gz")
    found = [
        ({"question": record["question"], "answer": record["ground_truth"].rpartition("A: ")[2]}, model["solution"])
        for record in files
        for model in record.values()
        if isinstance(model, Mapping) and "A: " in model["solution"]
    ]
    while not files and len(found) < 3000:
        a, b = rng.randrange(10**4), rng.randrange(10**4)
        said = a + b + rng.randrange(2)
        found.append(({"question": f"{a} + {b}?", "answer": str(a + b)}, f"{a} + {b} = {said}\nA: {said}"))
    rows = rows_of(environment, [record for record, _ in found])
    while True:
        number = rng.randrange(len(found))
        work, _, answer = found[number][1].rpartition("A: ")
        ending = rng.choice([f"\\boxed{{{answer}}}", f"#### {answer}", f"So the answer is ${answer}$."])
        yield rows[number], f"{prose(rng, 10)}\n{work}\n{ending}"


def episodes(environment: RowEnvironment, rng: random.Random) -> Iterator[Case]:
    """Assignments of the workplace with the gold calls, or with those of another assignment."""
    rows = list(environment.rows("train"))
    gold = {row.id: environment.gold(row) for row in rows}
    while True:
        row = rng.choice(rows)
        yield row, gold[row.id if rng.random() < 0.7 else rng.choice(rows).id] + " " * rng.randrange(10**4)


WORDS = ["time", "year", "people", "way", "day", "thing", "world", "life", "hand", "part", "work", "case"]
WORKLOADS = (
    Workload("instruction_following", "instruction_following", instructions, 2000),
    Workload("multiple_choice", "multiple_choice", choices, 20_000),
    Workload("structured_output", "structured_output", objects, 10_000),
    Workload("maths", "math", solutions, 1000),
    Workload("workplace", "tool_use", episodes, 1000),
)


if __name__ == "__main__":
    main()
