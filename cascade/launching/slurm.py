"""The SLURM job of a run, as a batch script: training, servers and verifiers as the parts of one job.

Everything that is done is skipped and a killed stage resumes exactly, so a job that comes near its time limit, is
preempted or loses a node is simply queued again, and goes on.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from cascade.atomic import write_text
from cascade.config import Recipe
from cascade.errors import EngineError
from cascade.launching.commands import job_file
from cascade.launching.environment import LAUNCH

SUBMIT_S = 120.0  # for sbatch


@dataclass(frozen=True, slots=True)
class Part:
    """Nodes that do the same, e.g. `Part("train", 2, 8, 8, ["-m", "cascade", "run", "recipe=quickstart"])`."""

    name: str
    nodes: int
    tasks: int  # on a node
    gpus: int  # of a node
    words: Sequence[str]  # behind `python`


def write_job(recipe: Recipe, words: Sequence[str]) -> Path:
    """Writes the script into the run folder. `words`: recipe and overrides, as they were typed."""
    file = job_file(recipe)
    (file.parent / "logs").mkdir(parents=True, exist_ok=True)
    write_text(file, job_script(recipe, words))
    file.chmod(0o755)
    return file


def submit(file: Path) -> str:
    """Submits a script; returns the job's id. Raises `EngineError` with what sbatch says."""
    try:
        done = subprocess.run(
            ["sbatch", "--parsable", str(file)], capture_output=True, text=True, timeout=SUBMIT_S, check=False
        )
    except FileNotFoundError:
        raise EngineError("There is no sbatch here.", f"Submit {file} from a login node of the cluster.") from None
    except subprocess.TimeoutExpired:
        raise EngineError(f"sbatch did not answer in {SUBMIT_S:.0f} s.", "See `sinfo` and `scontrol ping`.") from None
    if done.returncode != 0:
        raise EngineError(f"sbatch refused {file}: {done.stderr.strip()}", "Correct `launch.slurm`.")
    return done.stdout.strip().split(";")[0]


def job_script(recipe: Recipe, words: Sequence[str], folder: Path | None = None) -> str:
    """The whole script. `folder`: where relative paths of the recipe begin; default: the current one."""
    return "\n".join([*_head(recipe), *_body(recipe, words, folder or Path.cwd()), ""])


def parts(recipe: Recipe, words: Sequence[str]) -> list[Part]:
    """The training first."""
    launch, rollout = recipe.launch, recipe.rollout
    found = [Part("train", launch.nodes, launch.processes, launch.processes, ["-m", "cascade", "run", *words])]
    for name, nodes, servers in (
        ("rollout", launch.rollout_nodes, rollout.replicas),
        ("teachers", launch.teacher_nodes, recipe.teachers.replicas),
    ):
        if nodes:
            tasks = servers // nodes
            server = ["-m", "cascade.launching.server_node", name, *words]
            found.append(Part(name, nodes, tasks, tasks * rollout.tensor_parallel, server))
    if launch.verifier_nodes:
        ray = ["-m", "cascade.launching.ray_node", *words]
        found.append(Part("verifiers", launch.verifier_nodes, 1, 0, ray))
    return found


def _head(recipe: Recipe) -> Iterator[str]:
    slurm, made = recipe.launch.slurm, parts(recipe, [])
    yield "#!/bin/bash"
    yield f"# {recipe.name}: written by `cascade launch`, submitted by `cascade run` or sbatch."
    yield _option("job-name", re.sub(r"[^\w.-]", "_", recipe.name))
    yield _option("output", str(job_file(recipe).parent.absolute() / "logs" / "job-%j.log"))
    yield "#SBATCH --open-mode=append"
    if slurm.requeue:
        yield "#SBATCH --requeue"
        yield f"#SBATCH --signal=B:USR1@{slurm.signal_s}"
    else:
        yield "#SBATCH --no-requeue"
    for number, part in enumerate(made):
        if number:
            yield "#SBATCH hetjob"
        yield from _asked(recipe, part)


def _asked(recipe: Recipe, part: Part) -> Iterator[str]:
    slurm = recipe.launch.slurm
    yield f"#SBATCH --nodes={part.nodes} --ntasks-per-node={part.tasks}"
    if part.name == "train" and slurm.cpus_per_process:
        yield f"#SBATCH --cpus-per-task={slurm.cpus_per_process}"
    if slurm.gres and part.gpus:
        yield _option("gres", f"{slurm.gres}:{part.gpus}")
    options = {
        "partition": slurm.partition,
        "account": slurm.account,
        "time": slurm.time_limit,
        "constraint": slurm.constraint,
        "mem": f"{slurm.memory_gib}G" if slurm.memory_gib else None,
    }
    yield from (_option(name, value) for name, value in options.items() if value)
    yield from (f"#SBATCH {line.removeprefix('#SBATCH').strip()}" for line in slurm.lines)


def _body(recipe: Recipe, words: Sequence[str], folder: Path) -> Iterator[str]:
    slurm, made = recipe.launch.slurm, parts(recipe, words)
    logs = job_file(recipe).parent.absolute() / "logs"
    python = "python" if slurm.container else shlex.quote(sys.executable)
    yield ""
    yield f"cd {shlex.quote(str(folder.absolute()))} || exit 1"
    yield from slurm.setup
    yield f'export {LAUNCH}="slurm-$SLURM_JOB_ID-${{SLURM_RESTART_COUNT:-0}}"'
    yield ""
    yield from _signal_lines(slurm.requeues)
    for number, part in enumerate(made):
        group = [f"--het-group={number}"] if len(made) > 1 else []
        options = [*group, "--kill-on-bad-exit=1", "--unbuffered", "--label", "--open-mode=append"]
        options += [f"--output={logs}/{part.name}-%j.log"]
        options += [f"--cpus-per-task={slurm.cpus_per_process}"] if number == 0 and slurm.cpus_per_process else []
        if slurm.container:
            mounts = ",".join(slurm.container_mounts)
            options += [f"--container-image={slurm.container}", f"--container-workdir={folder.absolute()}"]
            options += [f"--container-mounts={mounts}"] if mounts else []
        yield f"srun {shlex.join(options)} \\"
        yield f"    {python} {shlex.join(part.words)} &"
    yield ""
    yield "# Whatever ends first decides: servers only end when they fail. The end of this script ends the other parts."
    yield "wait -n; code=$?"
    yield 'while [ "$signalled" = 1 ]; do signalled=0; wait -n; code=$?; done'
    yield 'if [ "$code" != 0 ]; then'
    yield f"    {python} -m cascade.launching.failures {shlex.quote(str(Path(recipe.run_dir).absolute()))}"
    yield "fi"
    yield "kill $(jobs -p) 2> /dev/null"
    yield 'exit "$code"'


def _signal_lines(requeues: int) -> Iterator[str]:
    """Near the time limit SLURM sends USR1 to this script alone; `wait` then returns before anything has ended."""
    yield "signalled=0"
    yield "near_the_end() {"
    yield "    signalled=1"
    yield f'    if [ "${{SLURM_RESTART_COUNT:-0}}" -ge {requeues} ]; then'
    yield '        echo "cascade: near the time limit, and queued again often enough"; return'
    yield "    fi"
    yield '    echo "cascade: near the time limit: job $SLURM_JOB_ID is queued again, and goes on from its checkpoint"'
    yield '    scontrol requeue "$SLURM_JOB_ID"'
    yield "}"
    yield "trap near_the_end USR1"
    yield ""


def _option(name: str, value: str) -> str:
    return f"#SBATCH --{name}={shlex.quote(value)}"
