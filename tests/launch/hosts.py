"""Several hosts on one machine: network namespaces with addresses and host names of their own, joined by a bridge."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.processes import ROOT, environment


class Hosts:
    """`node1`, `node2` ...: they see one file system and each other, and each can be cut off."""

    def __init__(self, count: int, folder: Path) -> None:
        self.folder = folder
        self.names = [f"node{number}" for number in range(1, count + 1)]
        self._switch = f"cascade-{os.getpid()}"
        self._started: list[subprocess.Popen[str]] = []
        addresses = [f"10.77.0.{number} {name}" for number, name in enumerate(self.names, 1)]
        self._table = folder / "hosts"
        self._table.write_text("\n".join(["127.0.0.1 localhost", *addresses, ""]))

    def open(self) -> None:
        ip("netns", "add", self._switch)
        ip("-n", self._switch, "link", "add", "bridge", "type", "bridge")
        ip("-n", self._switch, "link", "set", "bridge", "up")
        for number, name in enumerate(self.names, 1):
            space = self._space(name)
            ip("netns", "add", space)
            ip("-n", self._switch, "link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", space)
            ip("-n", self._switch, "link", "set", name, "master", "bridge", "up")
            ip("-n", space, "addr", "add", f"10.77.0.{number}/24", "dev", "eth0")
            ip("-n", space, "link", "set", "eth0", "up")
            ip("-n", space, "link", "set", "lo", "up")

    def close(self) -> None:
        for process in self._started:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        for space in [*map(self._space, self.names), self._switch]:
            subprocess.run(["ip", "netns", "del", space], check=False, capture_output=True)

    def cut(self, name: str) -> None:
        """Pulls the cable: what is sent to and from the host is lost, and nobody is told."""
        ip("-n", self._switch, "link", "set", name, "down")

    def mend(self, name: str) -> None:
        """Puts it back."""
        ip("-n", self._switch, "link", "set", name, "up")

    def start(
        self, name: str, words: Sequence[str], log: str, private: Path | None = None, **more: str
    ) -> subprocess.Popen[str]:
        """Starts `python WORDS` on the host; its output is in `folder / log`. `private`: a folder of its own there."""
        own = f"mount -t tmpfs none {private} && " if private else ""
        inside = f'hostname {name} && mount --bind {self._table} /etc/hosts && {own}exec "$@"'
        enter = ["ip", "netns", "exec", self._space(name), "unshare", "--uts", "sh", "-c", inside, "sh"]
        with (self.folder / log).open("a") as output:
            process = subprocess.Popen(
                [*enter, sys.executable, *words],
                cwd=ROOT,
                env=environment(GLOO_SOCKET_IFNAME="eth0", **more),
                stdout=output,
                stderr=output,
                text=True,
                start_new_session=True,
            )
        self._started.append(process)
        return process

    def _space(self, name: str) -> str:
        return f"{self._switch}-{name}"


@contextmanager
def hosts(count: int, folder: Path) -> Iterator[Hosts]:
    """`count` hosts, or a skipped test where this machine makes none."""
    if os.geteuid() != 0 or not shutil.which("ip") or not shutil.which("unshare"):
        pytest.skip("network namespaces need root, and the commands `ip` (iproute2) and `unshare`")
    made = Hosts(count, folder)
    try:
        try:
            made.open()
        except subprocess.CalledProcessError as error:
            pytest.skip(f"this machine makes no network namespaces: {error.stderr.strip()}")
        yield made
    finally:
        made.close()


def ip(*words: str) -> None:
    """Runs `ip WORDS`."""
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)
