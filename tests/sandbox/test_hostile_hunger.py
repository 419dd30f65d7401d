"""Programs that want more memory or disk than they were given."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from cascade.sandbox.backends import sandbox
from cascade.sandbox.bait import Bait
from cascade.sandbox.ports import Sandbox
from tests.sandbox.hostile import SHORT, Hostile, run_hostile

OUT = ("memory", "runtime_error", "killed", "timeout")

MEMORY = (
    Hostile("fills one process", "held = []\nwhile True: held.append(b'x' * 2**20)\n", ("memory",)),
    Hostile("asks for all at once", "held = bytearray(1 << 40)\n", ("memory",)),
    Hostile("fills many processes", """
for _ in range(15):
    if os.fork() == 0: break
held = []
while True: held.append(b'x' * 2**20)
""", ("memory",)),
    Hostile("fills files in memory", """
for index in range(200):
    handle = os.memfd_create("x")
    for _ in range(16): os.write(handle, b"x" * 2**20)
""", OUT),
    Hostile("fills shared mappings and forgets them", """
import mmap
held = []
for _ in range(100):
    held.append(mmap.mmap(-1, 4 << 20, mmap.MAP_SHARED)); held[-1].write(b"x" * (4 << 20)); held[-1].madvise(4)
""", OUT),
    Hostile("fills shared memory of System V", """
for _ in range(100):
    number = call(29, 194, 0, 4 << 20, 0o1600)
    if number >= 0: escaped("shmget")
"""),
    Hostile("fills page tables", """
libc.mmap.restype = ctypes.c_void_p
for index in range(10**6):
    place = libc.mmap(ctypes.c_void_p(0x100000000000 + (index << 30)), ctypes.c_size_t(4096), 3, 0x22, -1, 0)
    if place in (None, 2**64 - 1): break
    ctypes.memset(place, 1, 1)
""", OUT),
    Hostile("fills sockets", """
held = []
while True:
    pair = attempt(socket.socketpair)
    if not pair:
        if attempt(os.fork) is None: break
        held.clear(); continue
    held.append(pair); pair[0].setblocking(False)
    while attempt(pair[0].send, b"x" * 65536): pass
""", (*OUT, "ok"), limits=SHORT, destroys=True),
    Hostile("fills pipes", """
import fcntl
for _ in range(20):
    if os.fork() == 0: break
held = []
while True:
    pair = attempt(os.pipe)
    if not pair: time.sleep(60)
    held.append(pair); os.set_blocking(pair[1], False); attempt(fcntl.fcntl, pair[1], 1031, 1 << 20)
    while attempt(os.write, pair[1], b"x" * 65536): pass
""", OUT, limits=SHORT, destroys=True),
    Hostile("recurses without end", "sys.setrecursionlimit(10**9)\ndef f(): f()\nf()\n", OUT),
    Hostile("doubles a text", "x = 'x'\nwhile True: x += x\n", ("memory",)),
    Hostile("holds a mapping of many keys", "d = {}\nfor i in range(10**9): d[i] = str(i)\n", OUT, limits=SHORT),
    Hostile("queues signals", """
signal.pthread_sigmask(signal.SIG_BLOCK, range(34, 65))
count, words = 0, ctypes.create_string_buffer(b"\\x28" + bytes(7) + b"\\xff" * 4, 128)
while count < 10**4 and call(129, 138, os.getpid(), 40, ctypes.addressof(words)) == 0: count += 1
print(count)
if count > 1100: escaped(f"{count} signals")
"""),
)  # fmt: skip

DISK = (
    Hostile("writes one endless file", """
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
with open("large", "wb", 0) as file:
    while attempt(file.write, b"x" * 2**20): pass
    if file.tell() > 17.6 * 2**20: escaped(f"{file.tell()} bytes")
"""),
    Hostile("writes many files everywhere", """
total = 0
for folder in ("/tmp", "/dev/shm", os.getcwd()):
    for index in range(100):
        try:
            with open(f"{folder}/{len(folder)}-{index}", "wb", 0) as file: total += file.write(b"x" * 2**20)
        except OSError: break
if total > 17.6 * 2**20: escaped(f"{total} bytes")
"""),
    Hostile("reserves space", """
for index in range(50):
    handle = os.open(f"f{index}", os.O_RDWR | os.O_CREAT)
    if attempt(lambda: os.posix_fallocate(handle, 0, 8 << 20) or 1) is None: break
if index > 2: escaped(f"{index} files")
"""),
    Hostile("makes sparse files of terabytes", """
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
handle = os.open("sparse", os.O_RDWR | os.O_CREAT)
if attempt(lambda: os.ftruncate(handle, 1 << 44) or 1): escaped("ftruncate")
if attempt(os.pwrite, handle, b"x", 1 << 44): escaped("pwrite")
"""),
    Hostile("keeps deleted files open", """
held = []
for index in range(100):
    file = open("deleted", "wb", 0); held.append(file); os.unlink("deleted")
    if attempt(file.write, b"x" * 2**20) != 2**20: break
if index > 17: escaped(f"{index} MiB")
"""),
    Hostile("makes files without content", """
for index in range(10**9): os.close(os.open(f"/tmp/{index}", os.O_CREAT | os.O_WRONLY))
""", (*OUT, "ok"), limits=SHORT, destroys=True),
    Hostile("makes folders 10,000 deep", """
for depth in range(10000): os.mkdir("d"); os.chdir("d")
print(depth)
""", (*OUT, "ok"), destroys=True),
    Hostile("makes links without end", """
os.symlink("a", "b"); os.symlink("b", "a"); attempt(open, "a")
for index in range(10**6): os.link("main.py", f"l{index}") if index < 100000 else os.symlink("x" * 4000, f"s{index}")
""", (*OUT, "ok"), limits=SHORT, destroys=True),
    Hostile("opens all descriptors", """
held = []
while (handle := attempt(os.open, "/dev/null", os.O_RDONLY)) is not None: held.append(handle)
if len(held) > 256: escaped(f"{len(held)}")
for _ in range(10): attempt(os.fork)
"""),
    Hostile("gives arguments of megabytes", """
attempt(os.execv, '/bin/echo', ['x' * 100000] * 1000); attempt(os.execv, '/bin/echo', ['x' * 2**20])
""", ("ok", *OUT)),
)  # fmt: skip


@pytest.fixture(scope="module")
def box() -> Sandbox:
    return sandbox("bwrap")


@pytest.fixture(scope="module")
def bait() -> Iterator[Bait]:
    with Bait() as laid:
        yield laid


@pytest.mark.parametrize("program", (*MEMORY, *DISK), ids=lambda program: program.name)
def test_no_more_is_had_than_was_given(box: Sandbox, bait: Bait, program: Hostile) -> None:
    run_hostile(box, program, bait)
