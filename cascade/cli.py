"""The `cascade` command. Heavy imports wait until a command needs them, so that a wrong key costs no seconds."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from cascade import __version__
from cascade.errors import CascadeError
from cascade.launching.environment import adopt_slurm

DESCRIPTION = "Staged reinforcement learning and multi-domain on-policy distillation, from one declared recipe."
EPILOG = """A recipe is composed by Hydra: `cascade run recipe=quickstart seed=3 stages.if_rl.max_steps=20`."""


class _Late:
    """The commands of a module that is imported when one of them is called."""

    def __init__(self, module: str) -> None:
        self._module = module

    def __getattr__(self, name: str) -> Callable[[argparse.Namespace, Sequence[str]], int | None]:
        return lambda options, arguments: getattr(importlib.import_module(self._module), name)(options, arguments)


class Command(argparse.ArgumentParser):
    """A command's own parser, in which options may stand before and between the other words."""

    _splitting = False

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:  # type: ignore[override]
        if self._splitting:  # parse_known_intermixed_args comes back here, for the options and for the rest
            return super().parse_known_args(args, namespace)
        self._splitting = True
        try:
            return self.parse_known_intermixed_args(args, namespace)
        finally:
            self._splitting = False


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Runs one command and exits: 0 when it did what was asked, 1 after an error, 2 for a wrong command line."""
    os.environ.setdefault(
        "OMP_WAIT_POLICY", "PASSIVE"
    )  # read when torch loads: waiting threads that spin starve others
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    arguments = [word for word in arguments if not word.startswith(("--local_rank", "--local-rank"))]  # deepspeed's
    if str(Path.cwd()) not in sys.path:  # where environments and rewards of the user's own are looked for
        sys.path.append(str(Path.cwd()))
    options = parser().parse_args(arguments)
    adopt_slurm()
    try:
        sys.exit(options.command(options, arguments) or 0)
    except CascadeError as error:
        print(f"cascade: {error}", file=sys.stderr, flush=True)
        sys.exit(1)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    commands = _Late("cascade.commands")
    top = argparse.ArgumentParser(prog="cascade", description=DESCRIPTION, epilog=EPILOG)
    top.add_argument("--version", action="version", version=f"cascade {__version__}")
    sub = top.add_subparsers(required=True, metavar="COMMAND", parser_class=Command)

    for name, command, text in (
        ("plan", commands.plan, "what a recipe will do, and on a cluster (cluster=h100) what it needs and costs"),
        ("run", commands.run, "run a recipe; what is done is skipped, what was killed goes on"),
        ("launch", commands.launch, "write what `run` would submit (launch=slurm, launch=kubernetes), and stop there"),
    ):
        added = sub.add_parser(name, help=text)
        added.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="recipe=NAME or FILE, then any key")
        added.set_defaults(command=command)
        if name == "plan":
            added.add_argument("--json", action="store_true", help="with a cluster: everything, for scripts")
            added.add_argument("--search", action="store_true", help="with a cluster: the fastest layout that fits")

    _simulate(sub)

    status = sub.add_parser("status", help="where a run stands, and its regression matrix")
    status.add_argument("run_dir", nargs="?", help="default: the newest run below runs/")
    status.add_argument("--json", action="store_true")
    status.set_defaults(command=commands.status)

    evaluate = sub.add_parser("eval", help="evaluate a checkpoint in every domain, or check the gold answers")
    evaluate.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="recipe=NAME or FILE, then any key")
    evaluate.add_argument("--model", help="Hugging Face folder, or an identity or stage of the run")
    evaluate.add_argument("--split", choices=("validation", "test"), action="append")
    evaluate.add_argument("--json", action="store_true")
    evaluate.add_argument("--check-gold", action="store_true", help="every row's gold answer must score 1")
    evaluate.set_defaults(command=commands.evaluate)

    _score(sub, commands)
    _sandbox(sub)
    _registry(sub, commands)

    export = sub.add_parser("export", help="copy a checkpoint as a Hugging Face folder with its model card")
    export.add_argument("checkpoint", help="identity (or its beginning) or stage")
    export.add_argument("out", help="folder to make")
    export.add_argument("--run-dir")
    export.set_defaults(command=commands.export)

    report = sub.add_parser("report", help="write report.html")
    report.add_argument("run_dir", nargs="?")
    report.set_defaults(command=commands.report)

    doctor = sub.add_parser("doctor", help="what is installed, what is missing, how to get it")
    doctor.add_argument("--json", action="store_true")
    doctor.add_argument("--cluster", action="store_true", help="check all nodes; started by the run's own launcher")
    doctor.add_argument("--shared", default="runs", metavar="FOLDER", help="--cluster: where run folders will be")
    doctor.add_argument("--timeout-s", type=float, default=60.0, metavar="S", help="--cluster: of each check")
    doctor.set_defaults(command=commands.doctor)
    return top


def _simulate(sub: argparse._SubParsersAction[Command]) -> None:
    simulate = sub.add_parser("simulate", help="a stage on a cluster: staleness, and who trains and samples")
    simulate.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="recipe=NAME, cluster=NAME, then any key")
    simulate.add_argument("--stage", required=True, help="a stage that samples")
    simulate.add_argument("--rollouts", metavar="FOLDER", help="of a run's stage, whose lengths are replayed")
    simulate.add_argument("--staleness", type=_numbers, default=[0, 1, 2, 4], metavar="N,N", help="default: 0,1,2,4")
    simulate.add_argument("--steps", type=int, default=24, metavar="N", help="optimiser steps; default: 24")
    simulate.add_argument("--failure-every-h", type=float, default=0.0, metavar="H", help="of one server; 0: never")
    simulate.add_argument("--restart-s", type=float, default=300.0, metavar="S", help="of one server; default: 300")
    simulate.add_argument("--json", action="store_true")
    simulate.set_defaults(command=_Late("cascade.simulate_command").run)


def _numbers(words: str) -> list[int]:
    """`0,1,4` as numbers. Raises `ArgumentTypeError` for anything else."""
    if not all(word.isdecimal() for word in words.split(",")):
        raise argparse.ArgumentTypeError("give whole numbers with commas between them")
    return [int(word) for word in words.split(",")]


def _score(sub: argparse._SubParsersAction[Command], commands: _Late) -> None:
    score = sub.add_parser("score", help="score completions in a file with any environment; no model, no recipe")
    score.add_argument("--environment", required=True, metavar="KIND", help="a built-in kind, or a dotted path")
    score.add_argument("--rows", required=True, help="rows, as the environment reads them")
    score.add_argument("--completions", required=True, help='one {"completion": TEXT or MESSAGES} a row')
    score.add_argument("--out", required=True, help="verdicts, one JSON object a line")
    score.add_argument("--param", action="append", default=[], metavar="KEY=VALUE", help="of the environment, in YAML")
    score.add_argument("--workers", type=_workers, help="verifier processes; default: one a core")
    score.set_defaults(command=commands.score)


def _sandbox(sub: argparse._SubParsersAction[Command]) -> None:
    sandbox = sub.add_parser("sandbox", help="run a program that nobody trusts, and say what became of it")
    sandbox.add_argument("action", choices=("run",))
    sandbox.add_argument("file", help="its source")
    sandbox.add_argument("--language", choices=("python", "cpp"), help="default: as the file's suffix says")
    sandbox.add_argument("--stdin", metavar="FILE", help="what it reads; `-`: this command's own; default: nothing")
    sandbox.add_argument("--sandbox", default="bwrap", metavar="NAME", help="back end; default: bwrap")
    sandbox.add_argument("--time-limit-s", type=float, default=10.0, metavar="S", help="default: 10")
    for name, default in (("memory-mib", 512), ("disk-mib", 64), ("processes", 64), ("output-kib", 1024)):
        sandbox.add_argument(f"--{name}", type=int, default=default, metavar="N", help=f"default: {default}")
    sandbox.add_argument("--json", action="store_true")
    sandbox.set_defaults(command=_Late("cascade.sandbox_command").run)


def _workers(word: str) -> int:
    """A number of workers. Raises `ArgumentTypeError` for anything else."""
    if not word.isdecimal() or int(word) < 1:
        raise argparse.ArgumentTypeError("workers are 1 or more")
    return int(word)


def _registry(sub: argparse._SubParsersAction[Command], commands: _Late) -> None:
    registry = sub.add_parser("registry", help="checkpoints, their lineage and scores")
    registry.add_argument("action", choices=("list", "show", "best", "verify"))
    registry.add_argument("checkpoint", nargs="?", help="identity (or its beginning) or stage, for show and verify")
    registry.add_argument("--run-dir", help="default: the newest run below runs/")
    registry.add_argument("--domain", help="for best")
    registry.add_argument("--split", choices=("validation", "test"), default="validation")
    registry.add_argument("--json", action="store_true")
    registry.set_defaults(command=commands.registry)
