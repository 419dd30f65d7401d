"""Programs that run beside hostile ones end as they do alone."""

from __future__ import annotations

import threading

import pytest

from cascade.sandbox.backends import sandbox
from cascade.sandbox.limits import Limits
from cascade.sandbox.ports import Sandbox

LIMITS = Limits(time_s=20.0, memory_mib=128, disk_mib=16, processes=24, output_kib=64)
HOSTILE_LIMITS = Limits(time_s=0.7, memory_mib=96, disk_mib=32, processes=32, output_kib=64)

PEACEFUL = {
    "computes": "print(sum(i * i for i in range(10**5)))",
    "fails": "raise ValueError(7)",
    "uses memory": "x = b'x' * (80 << 20); print(len(x))",
    "uses too much memory": "x = [b'x' * 2**20 for _ in range(300)]",
    "uses the disk": "open('f', 'wb').write(b'x' * (14 << 20)); print(len(open('f', 'rb').read()))",
    "starts processes": """
import subprocess
print([subprocess.run(["echo", str(i)], capture_output=True, text=True).stdout.strip() for i in range(10)])
""",
    "starts threads": """
from concurrent.futures import ThreadPoolExecutor
with ThreadPoolExecutor(16) as threads: print(sum(threads.map(lambda x: x * x, range(1000))))
""",
    "shares memory between processes": """
from multiprocessing import Pool
if __name__ == "__main__":
    with Pool(4) as pool: print(pool.map(abs, range(-5, 5)))
""",
    "fills a pipe": """
import os
here, there = os.pipe(); os.set_blocking(there, False)
print(os.write(there, b"x" * 65536), len(os.read(here, 65536)))
""",
    "queues signals and watches files": """
import ctypes, os, signal
signal.pthread_sigmask(signal.SIG_BLOCK, [40])
libc = ctypes.CDLL(None)
print([libc.sigqueue(os.getpid(), 40, None) for _ in range(100)].count(0))
print([libc.inotify_init() >= 0 for _ in range(20)].count(True))
""",
    "sends descriptors": """
import os, socket
a, b = socket.socketpair()
for _ in range(50): socket.send_fds(a, [b"x"], [0, 1, 2])
print(len(socket.recv_fds(b, 1, 3)[1]))
""",
    "writes much": "print('x' * 60000)",
    "is silent": "",
}
HOSTILE = {
    "forks": "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass\n",
    "loops": "import os\nfor _ in range(4): os.fork()\nwhile True: pass\n",
    "fills memory": "x = []\nwhile True: x.append(b'x' * 2**20)\n",
    "fills the disk": """
import os
while True:
    try: open('/tmp/f', 'ab').write(b'x' * 2**20)
    except OSError: pass
""",
    "floods": "import os\nwhile True: os.write(1, b'x' * 65536)\n",
    "kills": """
import os
while True:
    for process in range(1, 3000):
        try: os.kill(process, 9) if process != os.getpid() else None
        except OSError: pass
""",
    "takes pipes, signals, watches and descriptors": """
import ctypes, os, signal, socket, time
libc = ctypes.CDLL(None)
for _ in range(20):
    if os.fork() == 0: break
signal.pthread_sigmask(signal.SIG_BLOCK, range(34, 65))
for _ in range(20000):
    if libc.sigqueue(os.getpid(), 40, None): break
for _ in range(40): libc.inotify_init()
a, b = socket.socketpair()
try:
    for _ in range(200): socket.send_fds(a, [b"x"], [0] * 20)
except OSError: pass
try:
    while True: os.pipe()
except OSError: pass
time.sleep(60)
""",
}  # fmt: skip


@pytest.fixture(scope="module")
def box() -> Sandbox:
    return sandbox("bwrap")


def outcomes(box: Sandbox) -> dict[str, tuple[str, int | None, bytes]]:
    ended = {}
    for name, source in PEACEFUL.items():
        with box.open(LIMITS) as room:
            room.write("main.py", source.encode())
            outcome = room.run(("python", "main.py"))
            ended[name] = (outcome.status, outcome.exit_code, outcome.stdout)
    return ended


def test_programs_beside_hostile_ones_end_as_alone(box: Sandbox) -> None:
    alone = outcomes(box)
    assert [status for status, _, _ in alone.values()].count("ok") == len(PEACEFUL) - 2, alone
    done = threading.Event()
    tried: list[str] = []

    def attack(names: list[str]) -> None:
        while not done.is_set():
            for name in names:
                with box.open(HOSTILE_LIMITS) as room:
                    room.write("main.py", HOSTILE[name].encode())
                    room.run(("python", "main.py"))
                    tried.append(name)

    threads = [threading.Thread(target=attack, args=(list(HOSTILE)[::step],)) for step in (1, -1)]
    for thread in threads:
        thread.start()
    try:
        beside = outcomes(box)
    finally:
        done.set()
        for thread in threads:
            thread.join()
    assert beside == alone
    assert set(tried) == set(HOSTILE)
