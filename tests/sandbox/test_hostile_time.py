"""Programs that want more time, processes or attention than they were given."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from cascade.sandbox.backends import sandbox
from cascade.sandbox.bait import Bait
from cascade.sandbox.ports import Sandbox
from tests.sandbox.hostile import SHORT, Hostile, run_hostile

OUT = ("memory", "runtime_error", "killed", "timeout")

TIME = (
    Hostile("forks for ever", "while True: attempt(os.fork)\n", ("timeout",), limits=SHORT),
    Hostile("starts threads for ever", """
threading.stack_size(65536)
def work():
    while True: attempt(lambda: sum(range(10**5)))
while True:
    try: threading.Thread(target=work).start()
    except RuntimeError: pass
""", ("timeout",), limits=SHORT),
    Hostile("makes zombies for ever", """
while True:
    if attempt(os.fork) == 0: os._exit(0)
""", ("timeout",), limits=SHORT),
    Hostile("loops in many processes", """
for _ in range(4): os.fork()
while True: pass
""", ("timeout",), limits=SHORT),
    Hostile("ignores all signals", """
for number in range(1, 65): attempt(signal.signal, number, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))
while True: pass
""", ("timeout",), limits=SHORT),
    Hostile("stops itself", "os.kill(os.getpid(), signal.SIGSTOP)\n", ("timeout",), limits=SHORT),
    Hostile("stops itself and its children", """
for _ in range(5):
    if os.fork() == 0: os.setsid(); os.kill(os.getpid(), signal.SIGSTOP)
os.kill(os.getpid(), signal.SIGSTOP)
""", ("timeout",), limits=SHORT),
    Hostile("sleeps with its output closed", "os.close(1); os.close(2); time.sleep(60)\n", ("timeout",), limits=SHORT),
    Hostile("waits for itself", """
here, there = os.pipe(); os.mkfifo("pipe")
threading.Thread(target=os.read, args=(here, 1)).start(); open("pipe").read()
""", ("timeout",), limits=SHORT),
    Hostile("waits with the time set off by timers", """
signal.signal(signal.SIGALRM, lambda *_: None); signal.setitimer(signal.ITIMER_REAL, 0.0001, 0.0001)
resource.setrlimit(resource.RLIMIT_CPU, resource.getrlimit(resource.RLIMIT_CPU))
signal.signal(signal.SIGXCPU, signal.SIG_IGN)
while True: attempt(time.sleep, 1)
""", ("timeout",), limits=SHORT),
    Hostile("leaves daemons in sessions of their own", """
for _ in range(5):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            libc.prctl(36, 1, 0, 0, 0)
            os.execvp("sleep", [marker, "30"])
        os._exit(0)
    os.wait()
""", limits=SHORT),
    Hostile("leaves daemons that hold and flood the output", """
if os.fork() == 0:
    os.setsid(); signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    while True: attempt(os.write, 1, b"x" * 4096)
os._exit(0)
""", ("ok", "output_limit"), limits=SHORT),
    Hostile("leaves siblings by CLONE_PARENT", """
for _ in range(3):
    child = call(56, 220, 0x8000 | 17, 0, 0, 0, 0)
    if child == 0: os.setsid(); time.sleep(30); os._exit(0)
os._exit(0)
""", limits=SHORT),
    Hostile("matches a pattern that backtracks", """
import re; re.match(r'(a+)+$', 'a' * 60 + 'b')
""", ("timeout",), limits=SHORT),
    Hostile("raises powers of powers", "9 ** 9 ** 9\n", ("timeout", *OUT), limits=SHORT),
    Hostile("prints a number of millions of digits", """
sys.set_int_max_str_digits(0); print(10 ** 10 ** 8)
""", OUT, limits=SHORT),
    Hostile("compiles source that nests", "compile('(' * 10**7, 'x', 'exec')\n", (*OUT, "output_limit"), limits=SHORT),
    Hostile("multiplies in the compiler", """
compile('x=' + '(1,)*' * 50 + '9**9', 'x', 'exec'); while_ = eval('[' + '0,' * 10**7 + ']')
""", OUT, limits=SHORT),
    Hostile("finishes when it is collected", """
class Endless:
    def __del__(self):
        while True: pass
x = Endless()
del x
""", ("timeout",), limits=SHORT),
    Hostile("goes on at exit", "import atexit; atexit.register(time.sleep, 60)\n", ("timeout",), limits=SHORT),
    Hostile("executes itself for ever", """
os.execv(sys.executable, [sys.executable, '-S', __file__])
""", ("timeout", "output_limit"), limits=SHORT),
    Hostile("asks for a higher place", """
for what in (lambda: os.nice(-20), lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(99))): attempt(what)
if os.getpriority(os.PRIO_PROCESS, 0) < 0 or os.sched_getscheduler(0) != os.SCHED_OTHER: escaped()
"""),
)  # fmt: skip

OUTPUT = (
    Hostile("floods stdout", "while True: os.write(1, b'x' * 65536)\n", ("output_limit",)),
    Hostile("floods stderr", "while True: os.write(2, b'x' * 65536)\n", ("output_limit",)),
    Hostile("floods both from many processes", """
for _ in range(3): os.fork()
while True: os.write(1, b'x' * 65536); os.write(2, b'x' * 65536)
""", ("output_limit",)),
    Hostile("writes bytes one by one", "while True: os.write(1, b'x')\n", ("output_limit", "timeout"), limits=SHORT),
    Hostile("floods by splicing", """
here, there = os.pipe()
while True: os.write(there, b"x" * 65536); os.splice(here, 1, 65536)
""", ("output_limit",)),
    Hostile("widens the pipe that is read", """
import fcntl
attempt(fcntl.fcntl, 1, 1031, 1 << 20); os.set_blocking(1, False)
while True: attempt(os.write, 1, b"x" * 2**20)
""", ("output_limit",)),
    Hostile("writes what is no text", "os.write(1, bytes(range(256)) * 16); os.write(2, b'\\xff' * 999)\n"),
    Hostile("sends its output away", """
os.dup2(os.open("/dev/null", os.O_WRONLY), 1); os.dup2(os.open("file", os.O_WRONLY | os.O_CREAT), 2)
print("x" * 10**6); sys.stderr.write("x" * 10**6)
"""),
    Hostile("closes all and goes on", "os.closerange(0, 1000)\nwhile True: pass\n", ("timeout",), limits=SHORT),
)  # fmt: skip

SHELL = (
    Hostile("the classical bomb", """
:() { : | : & }; :
sleep 60
""", ("timeout", "runtime_error", "output_limit", "ok"), "shell", SHORT),
    Hostile("says yes", "yes\n", ("output_limit",), "shell"),
    Hostile("fills memory with zeros", """
head -c 2G /dev/zero | tail -c 2G | wc -c
""", ("ok", "memory", "timeout"), "shell", SHORT),
    Hostile("fills the disk with zeros", """
cat /dev/zero > /tmp/zero; cat /dev/zero > /tmp/one; du -k /tmp | tail -1
""", ("ok", *OUT), "shell"),
    Hostile("traps signals", """
trap '' TERM INT HUP XCPU ALRM; while :; do sleep 1; done
""", ("timeout",), "shell", SHORT),
    Hostile("leaves the background running", """
nohup sleep 60 & setsid sleep 60 & (sleep 60 &) ; exit 0
""", language="shell"),
    Hostile("asks for a core", """
ulimit -c unlimited; sh -c 'kill -SEGV $$'; ls core* 2>/dev/null && echo 'The attack succeeded:'; true
""", language="shell"),
    Hostile("waits for a pipe", "mkfifo p; cat p\n", ("timeout",), "shell", SHORT),
)  # fmt: skip


@pytest.fixture(scope="module")
def box() -> Sandbox:
    return sandbox("bwrap")


@pytest.fixture(scope="module")
def bait() -> Iterator[Bait]:
    with Bait() as laid:
        yield laid


@pytest.mark.parametrize("program", (*TIME, *OUTPUT, *SHELL), ids=lambda program: program.name)
def test_nobody_is_held_up(box: Sandbox, bait: Bait, program: Hostile) -> None:
    run_hostile(box, program, bait)
