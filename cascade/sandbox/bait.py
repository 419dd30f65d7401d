"""What attacks are after: a secret, listeners, and a process of this machine, watched from outside."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType

MARKER = "cascade-attack-"
"""How processes call themselves that mean to outlive their room."""


class Bait:
    """Things outside that no room may reach. A context manager; forgets everything at its end."""

    def __init__(self) -> None:
        self.secret = secrets.token_hex(16)
        self.marker = MARKER + secrets.token_hex(8)
        places = [place for place in (tempfile.gettempdir(), "/var/tmp", "/dev/shm") if os.access(place, os.W_OK)]
        self._folders = [Path(tempfile.mkdtemp(prefix="cascade-bait-", dir=place)) for place in dict.fromkeys(places)]
        for folder in self._folders:
            folder.chmod(0o777)
            self._lay(folder)
        self._tcp = self._listener(socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", 0))
        self._udp = self._listener(socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.1", 0))
        self._named = self._listener(socket.AF_UNIX, socket.SOCK_STREAM, str(self._folders[0] / "door"))
        self._abstract = self._listener(socket.AF_UNIX, socket.SOCK_STREAM, f"\0{self.marker}")
        self._process = self._prey()

    def __enter__(self) -> Bait:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for each in (self._tcp, self._udp, self._named, self._abstract):
            each.close()
        self._process.kill()
        self._process.wait()
        self._end_survivors()
        for folder in self._folders:
            shutil.rmtree(folder, ignore_errors=True)

    def variables(self) -> dict[str, str]:
        """Where everything is; an attacker may know that."""
        return {
            "FOLDERS": ":".join(map(str, self._folders)),
            "TCP": str(self._tcp.getsockname()[1]),
            "UDP": str(self._udp.getsockname()[1]),
            "ABSTRACT": self.marker,
            "PREY": str(self._process.pid),
            "SELF": str(os.getpid()),
            "MARKER": self.marker,
        }

    def traces(self) -> list[str]:
        """What has been done to it since the last look, in words; lays it anew."""
        found = [f"connected to the {name}" for name, door in self._doors().items() if _was_opened(door)]
        for folder in self._folders:
            names = sorted(path.name for path in folder.iterdir())
            if names != sorted(self._expected(folder)) or (folder / "secret").read_text() != self.secret:
                found.append(f"changed {folder}")
                self._lay(folder)
        if self._process.poll() is not None or _is_stopped(self._process.pid):
            found.append("ended or stopped a process outside")
            self._process.kill()
            self._process.wait()
            self._process = self._prey()
        if survivors := self._end_survivors():
            found.append(f"left {survivors} processes behind")
        return found

    def _doors(self) -> dict[str, socket.socket]:
        return {
            "TCP port": self._tcp,
            "UDP port": self._udp,
            "named socket": self._named,
            "abstract socket": self._abstract,
        }

    def _expected(self, folder: Path) -> list[str]:
        return ["secret", "door"] if folder == self._folders[0] else ["secret"]

    def _lay(self, folder: Path) -> None:
        for path in folder.iterdir():
            if path.name != "door":
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        (folder / "secret").write_text(self.secret)
        (folder / "secret").chmod(0o666)

    def _listener(self, family: int, kind: int, address: tuple[str, int] | str) -> socket.socket:
        listener = socket.socket(family, kind)
        listener.setblocking(False)
        listener.bind(address)
        if family == socket.AF_UNIX and not str(address).startswith("\0"):
            Path(str(address)).chmod(0o777)
        if kind == socket.SOCK_STREAM:
            listener.listen()
        return listener

    def _prey(self) -> subprocess.Popen[bytes]:
        environment = {"CASCADE_BAIT": self.secret}
        return subprocess.Popen(["sleep", "120"], env=environment, stdin=subprocess.DEVNULL, start_new_session=True)

    def _end_survivors(self) -> int:
        count = 0
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                if self.marker.encode() in path.read_bytes():
                    os.kill(int(path.parent.name), signal.SIGKILL)
                    count += 1
            except (OSError, ValueError):
                continue  # it ended meanwhile, or belongs to somebody else
        return count


def _was_opened(door: socket.socket) -> bool:
    try:
        if door.type == socket.SOCK_DGRAM:
            door.recv(1 << 16)
        else:
            door.accept()[0].close()
    except BlockingIOError:
        return False
    return True


def _is_stopped(process: int) -> bool:
    return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] in "tT"
