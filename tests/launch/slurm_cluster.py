"""A real SLURM of three nodes on this machine: munged, slurmctld and three slurmd, in a folder of its own."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cascade.serving.replica import free_port
from tests.processes import environment

DAEMONS = ("munged", "slurmctld", "slurmd")
MISSING = "a SLURM on this machine needs root and `apt-get install slurm-wlm munge`"
CONFIGURATION = """
ClusterName=cascade
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CryptoType=crypto/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
ReturnToService=2
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=1,sched_interval=1,batch_sched_delay=0,requeue_delay=1
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
KillWait=5
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={port1} CPUs=4 RealMemory=8000
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={port2} CPUs=4 RealMemory=8000
NodeName=n3 NodeHostname={host} NodeAddr=127.0.0.1 Port={port3} CPUs=4 RealMemory=8000
PartitionName=test Nodes=n[1-3] Default=YES MaxTime=INFINITE State=UP OverSubscribe=YES
"""


class Slurm:
    """The cluster, by its commands."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = environment(SLURM_CONF=str(folder / "slurm.conf"))
        self._daemons: list[subprocess.Popen[bytes]] = []

    def open(self) -> None:
        self._configure()
        munge = [f"--{name}={self.folder}/munge.{name.split('-')[0]}" for name in ("socket", "pid-file", "log-file")]
        munge += [f"--key-file={self.folder}/munge.key", f"--seed-file={self.folder}/munge.seed"]
        self._start("munged", "--foreground", "--force", *munge)
        self._start("slurmctld", "-D")
        for node in ("n1", "n2", "n3"):
            self._start("slurmd", "-D", "-N", node)
        until = time.monotonic() + 60
        while self.ask("sinfo", "-h", "-o", "%T %D", check=False).strip() != "idle 3":
            assert time.monotonic() < until, self.logs()
            time.sleep(0.2)

    def close(self) -> None:
        self.ask("scancel", "--me", "--full", check=False)
        until = time.monotonic() + 15
        while self.ask("squeue", "-h", check=False).strip() and time.monotonic() < until:
            time.sleep(0.2)
        for daemon in reversed(self._daemons):
            daemon.terminate()
            try:
                daemon.wait(10)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()

    def ask(self, *words: str, check: bool = True) -> str:
        """What a command of SLURM prints."""
        done = subprocess.run(words, env=self.environment, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0 or not check, f"{words}: {done.stdout}{done.stderr}{self.logs()}"
        return done.stdout

    def state(self, job: str) -> str:
        """PENDING, RUNNING, COMPLETED ..."""
        shown = self.ask("scontrol", "show", "job", job)
        return shown.partition("JobState=")[2].split()[0]

    def wait(self, job: str, states: tuple[str, ...], timeout_s: float) -> str:
        """The state of the job, once it is one of `states`."""
        until = time.monotonic() + timeout_s
        while (state := self.state(job)) not in states:
            assert time.monotonic() < until, f"job {job} is {state} after {timeout_s} s\n{self.logs()}"
            time.sleep(0.3)
        return state

    def logs(self) -> str:
        return "\n".join(f"== {file.name}\n{file.read_text()[-1500:]}" for file in self.folder.glob("*.log"))

    def _configure(self) -> None:
        ports = {name: free_port() for name in ("port", "port1", "port2", "port3")}
        text = CONFIGURATION.format(host=socket.gethostname().split(".")[0], folder=self.folder, **ports)
        (self.folder / "slurm.conf").write_text(text)
        (self.folder / "state").mkdir()
        key = self.folder / "munge.key"
        key.write_bytes(secrets.token_bytes(128))
        key.chmod(0o600)

    def _start(self, name: str, *words: str) -> None:
        command = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
        with (self.folder / f"daemon-{len(self._daemons)}-{name}.log").open("wb") as log:
            self._daemons.append(subprocess.Popen([str(command), *words], env=self.environment, stdout=log, stderr=log))


@contextmanager
def slurm() -> Iterator[Slurm]:
    """A cluster of three nodes, or a skipped test."""
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    if os.geteuid() != 0 or any(shutil.which(name, path=path) is None for name in DAEMONS):
        pytest.skip(MISSING)
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))  # short: a socket's path has at most 107 characters
    folder.chmod(0o755)
    cluster = Slurm(folder)
    try:
        cluster.open()
        yield cluster
    finally:
        cluster.close()
        shutil.rmtree(folder, ignore_errors=True)
