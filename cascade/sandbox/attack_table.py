"""Programs that mean harm. Each is small, and bounded should it get out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

BEGAN, ESCAPED = "The attack began.", "The attack succeeded:"

PREAMBLE = f"""
import ctypes, os, resource, signal, socket, stat, subprocess, sys, threading, time
folders, prey, marker = os.environ["FOLDERS"].split(":"), int(os.environ["PREY"]), os.environ["MARKER"]
libc = ctypes.CDLL(None, use_errno=True)
arm = os.uname().machine == "aarch64"
print("{BEGAN}", flush=True)
def escaped(how=""): print("{ESCAPED}", how, flush=True)
def attempt(what, *arguments):
    try: return what(*arguments)
    except (OSError, ValueError): return None
def call(x86, aarch64, *arguments):
    return libc.syscall(*(ctypes.c_long(each) for each in (aarch64 if arm else x86, *arguments)))
"""
"""What every Python program starts with: where the bait lies, and how to say that it was caught."""


@dataclass(frozen=True, slots=True)
class Attack:
    """A program and what it is after.

    It says what `escaped` where only itself can know; all else is seen by its traces outside.
    """

    name: str
    aim: str
    source: str
    language: Literal["python", "shell"] = "python"
    time_s: float | None = None  # limit; None: the usual one


def _python(name: str, aim: str, source: str, time_s: float | None = None) -> Attack:
    return Attack(name, aim, source, "python", time_s)


READING = (
    _python("read a file", "the secret in folders that everybody may read", """
for folder in folders:
    print(attempt(lambda: open(folder + "/secret").read()))
"""),
    _python("read the passwords", "/etc/shadow, /root, /home", """
if attempt(lambda: open("/etc/shadow").read()): escaped("/etc/shadow")
for folder in ("/root", "/home"):
    if attempt(os.listdir, folder): escaped(folder)
"""),
    _python("read environments", "variables of every process", """
for name in filter(str.isdigit, os.listdir("/proc")):
    said = attempt(lambda: open(f"/proc/{name}/environ", errors="replace").read()) or ""
    if "CASCADE_BAIT" in said: print(said)
"""),
    _python("read memory", "memory of a process outside, and of this room's first", """
import io
for process in (prey, int(os.environ["SELF"]), 1):
    if attempt(lambda: open(f"/proc/{process}/mem", "rb")): escaped(f"/proc/{process}/mem")
    if call(310, 270, process, 0, 0, 0, 0, 0) >= 0: escaped("process_vm_readv")
"""),
    _python("follow links out", "symbolic and hard links, /proc/PID/root and cwd", """
for folder in folders:
    attempt(os.symlink, folder, "link"); print(attempt(lambda: open("link/secret").read())); attempt(os.unlink, "link")
    if attempt(lambda: os.link(folder + "/secret", "hard") or 1): os.unlink("hard"); escaped("hard link")
    for process in ("1", str(prey), str(os.getppid())):
        for door in ("root", "cwd"):
            print(attempt(lambda: open(f"/proc/{process}/{door}{folder}/secret").read()))
"""),
)  # fmt: skip

WRITING = (
    _python("write outside", "folders that everybody may write", """
for folder in folders:
    attempt(lambda: open(folder + "/planted", "w").write("x"))
    attempt(lambda: open(folder + "/secret", "w").write("x"))
"""),
    _python("write to the system", "/, /usr, /etc, /home, /var/tmp, /run, /dev", """
for folder in ("/", "/usr", "/usr/lib", "/etc", "/root", "/home", "/var", "/var/tmp", "/run", "/dev", "/opt", "/sys"):
    path = os.path.join(folder, marker)
    if attempt(lambda: open(path, "w")): os.unlink(path); escaped(folder)
"""),
    _python("tamper with Python", "the interpreter, its library, and the room's first process", """
import json
targets = [os.path.realpath(sys.executable), json.__file__, os.__file__, "/proc/self/exe", "/.cascade/init.py"]
for path in targets:
    if attempt(lambda: open(path, "r+b")): escaped(path)
for folder in {os.path.dirname(path) for path in targets}:
    if attempt(lambda: open(folder + "/" + marker, "w")): os.unlink(folder + "/" + marker); escaped(folder)
"""),
    _python("change the kernel", "/proc/sys, /sys, control groups, devices", """
for path in ("/proc/sys/kernel/core_pattern", "/proc/sys/kernel/hostname", "/proc/sys/vm/drop_caches",
             "/proc/sysrq-trigger", "/sys/kernel/mm/ksm/run", "/dev/mem", "/dev/kmsg", "/dev/sda", "/dev/vda"):
    if attempt(os.open, path, os.O_WRONLY) is not None: escaped(path)
for folder, _, names in os.walk("/sys/fs/cgroup"):
    if attempt(os.open, folder + "/cgroup.procs", os.O_WRONLY) is not None: escaped(folder); break
if attempt(lambda: os.mknod("disk", 0o600 | stat.S_IFBLK, os.makedev(8, 0)) or 1): os.unlink("disk"); escaped("mknod")
"""),
)  # fmt: skip

REACHING = (
    _python("connect by TCP", "a port of this machine", """
attempt(lambda: socket.create_connection(("127.0.0.1", int(os.environ["TCP"])), 1))
"""),
    _python("send by UDP", "a port of this machine", """
attempt(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("127.0.0.1", int(os.environ["UDP"]))))
"""),
    _python("connect to sockets of this machine", "a named and an abstract one", """
for address in ("\\0" + os.environ["ABSTRACT"], folders[0] + "/door"):
    attempt(lambda: socket.socket(socket.AF_UNIX).connect(address))
"""),
    _python("open other sockets", "raw, packet, netlink, kernel cryptography, virtual machines", """
for family, kind in ((2, 3), (10, 3), (17, 3), (16, 3), (38, 5), (40, 1), (2, 1), (10, 1), (30, 1)):
    if attempt(socket.socket, family, kind): escaped(f"family {family}, type {kind}")
"""),
    _python("resolve a name", "the domain name system", """
if attempt(socket.getaddrinfo, "example.com", 80): escaped()
"""),
    _python("signal a process outside", "to end it, or to stop it", """
for number in (signal.SIGSTOP, signal.SIGTERM, signal.SIGKILL):
    attempt(os.kill, prey, number); attempt(os.killpg, prey, number)
"""),
    _python("trace processes", "ptrace, pidfd_getfd and process_vm_writev on all that can be seen", """
for process in [int(name) for name in os.listdir("/proc") if name.isdigit() and int(name) != os.getpid()]:
    if call(101, 117, 0x4206, process, 0, 0) >= 0: escaped(f"traces {process}")
    if call(311, 271, process, 0, 0, 0, 0, 0) >= 0: escaped("process_vm_writev")
    handle = attempt(os.pidfd_open, process)
    if handle is not None and call(438, 438, handle, 1, 0) >= 0: escaped("pidfd_getfd")
"""),
    _python("use what was left open", "descriptors beyond the standard ones", """
for descriptor in range(3, 256):
    if attempt(os.fstat, descriptor): escaped(f"descriptor {descriptor}")
"""),
    _python("write to a terminal", "characters into its input", """
import fcntl
for descriptor in range(3):
    if attempt(lambda: fcntl.ioctl(descriptor, 0x5412, b"x")) is not None: escaped()
if attempt(os.open, "/dev/tty", os.O_RDWR) is not None: escaped("/dev/tty")
"""),
)  # fmt: skip

RISING = (
    _python("become root", "setuid, capabilities, programs with the setuid bit", """
with open("/proc/self/status") as file: status = dict(line.split(":", 1) for line in file)
if os.geteuid() == 0 or attempt(lambda: os.setuid(0) or 1): escaped("root")
if int(status["CapEff"], 16) or int(status["CapPrm"], 16): escaped("capabilities")
if status["NoNewPrivs"].strip() != "1": escaped("programs with the setuid bit work")
"""),
    _python("make namespaces", "unshare, clone, clone3, setns", """
for flag in (0x10000000, 0x20000, 0x40000000, 0x20000000, 0x8000000, 0x4000000, 0x2000000):
    if call(272, 97, flag) == 0: escaped(f"unshare {flag:#x}")
    child = call(56, 220, flag | 17, 0, 0, 0, 0)
    if child == 0: os._exit(0)
    if child > 0: escaped(f"clone {flag:#x}")
words = (ctypes.c_uint64 * 11)(0x10000000, 0, 0, 0, 17)
child = call(435, 435, ctypes.addressof(words), 88)
if child == 0: os._exit(0)
if child > 0: escaped("clone3")
for kind in ("user", "net", "mnt"):
    handle = attempt(os.open, f"/proc/1/ns/{kind}", os.O_RDONLY)
    if handle is not None and call(308, 268, handle, 0) == 0: escaped(f"setns {kind}")
"""),
    _python("mount", "whether the calls do more than refuse", """
nowhere = ctypes.cast(ctypes.c_char_p(b"/no/such/folder"), ctypes.c_void_p).value
for name, numbers in {"mount": (165, 40, 0, nowhere, nowhere, 0, 0), "umount2": (166, 39, nowhere, 2),
        "pivot_root": (155, 41, nowhere, nowhere), "chroot": (161, 51, nowhere), "fsopen": (430, 430, nowhere, 0),
        "open_tree": (428, 428, -100, nowhere, 1), "move_mount": (429, 429, -100, nowhere, -100, nowhere, 0)}.items():
    if call(*numbers) >= 0 or ctypes.get_errno() not in (1, 38): escaped(name)
"""),
    _python("call the deeper kernel", "bpf, perf, io_uring, userfaultfd, keys, modules", """
space = ctypes.addressof(ctypes.create_string_buffer(4096))
for name, numbers in {"bpf": (321, 280, 0, space, 72), "perf_event_open": (298, 241, space, 0, -1, -1, 0),
        "io_uring_setup": (425, 425, 1, space), "userfaultfd": (323, 282, 1), "keyctl": (250, 219, 0, -3, 1),
        "add_key": (248, 217, space, space, 0, 0, -3), "finit_module": (313, 273, 0, space, 0),
        "syslog": (103, 116, 10), "adjtimex": (159, 171, space), "personality": (135, 92, 0x40000)}.items():
    if call(*numbers) >= 0: escaped(name)
"""),
    _python("raise its limits", "rlimits beyond the hard ones", """
for name in (resource.RLIMIT_CPU, resource.RLIMIT_FSIZE, resource.RLIMIT_NOFILE):
    soft, hard = resource.getrlimit(name)
    if hard == resource.RLIM_INFINITY or attempt(lambda: resource.setrlimit(name, (hard + 1, hard + 1)) or 1):
        escaped(str(name))
"""),
)  # fmt: skip

USING = (
    _python("fork 400 times", "more processes than allowed", """
made = 0
for _ in range(400):
    child = attempt(os.fork)
    if child == 0: time.sleep(2); os._exit(0)
    made += child is not None
    if child is None: break
if made > 36: escaped(f"{made} processes")
"""),
    _python("start 400 threads", "more threads than allowed", """
threading.stack_size(65536)
made = 0
try:
    for _ in range(400):
        threading.Thread(target=time.sleep, args=(2,), daemon=True).start(); made += 1
except RuntimeError: pass
if made > 36: escaped(f"{made} threads")
os._exit(0)
"""),
    _python("use up memory", "256 MiB in one process", """
held = []
for _ in range(32): held.append(b"x" * (8 << 20))
escaped("256 MiB")
"""),
    _python("use up memory in many processes", "8 times 32 MiB at once", """
here, there = os.pipe()
for _ in range(8):
    if os.fork() == 0:
        held = b"x" * (32 << 20); os.write(there, b"x"); time.sleep(0.5); os._exit(0)
os.close(there)
made = 0
while made < 8 and os.read(here, 1): made += 1
if made == 8: escaped("256 MiB")
"""),
    _python("use up memory in files", "memfd, shared mappings, /dev/shm: 256 MiB", """
import mmap
held = []
for _ in range(16):
    shared = mmap.mmap(-1, 8 << 20); shared.write(b"x" * (8 << 20)); held.append(shared)
    handle = attempt(os.memfd_create, "held")
    if handle is None: continue
    held.append(handle)
    for _ in range(8): os.write(handle, b"x" * (1 << 20))
else:
    escaped("256 MiB")
"""),
    _python("write a large file", "64 MiB in one", """
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
with open("large", "wb", buffering=0) as file:
    for _ in range(64):
        if attempt(file.write, b"x" * (1 << 20)) is None: break
    os.unlink("large")
    if file.tell() > 17.6 * 2**20: escaped(f"{file.tell() >> 20} MiB")
"""),
    _python("write many files", "64 of 1 MiB, wherever it can", """
for folder in ("/tmp", "/dev/shm", "/var/tmp", "/run", os.getcwd()):
    for index in range(64):
        try:
            with open(f"{folder}/{marker}-{len(folder)}-{index}", "wb", buffering=0) as file: file.write(b"x" * 2**20)
        except OSError: break
sizes = {}
for folder in ("/tmp", "/dev/shm", "/var/tmp", "/run", os.getcwd()):
    for name in attempt(os.listdir, folder) or ():
        path = f"{folder}/{name}"
        if marker in name: sizes[os.stat(path).st_ino] = os.stat(path).st_size; os.unlink(path)
if sum(sizes.values()) > 17.6 * 2**20: escaped(f"{sum(sizes.values()) >> 20} MiB")
"""),
    _python("loop for ever", "more time than allowed", "while True: pass\n", 0.5),
    _python("sleep for ever", "more time than allowed, with no work", "time.sleep(20)\n", 0.5),
    _python("ignore every signal", "to go on after its end", """
for number in range(1, 65):
    attempt(signal.signal, number, signal.SIG_IGN)
while True: attempt(lambda: sum(range(10**6)))
""", 0.5),
    _python("loop in many processes", "more cores and more time than allowed", """
for _ in range(7):
    if os.fork() == 0: break
while True: pass
""", 0.5),
    _python("leave a daemon", "a process in a session of its own, which holds the output open", """
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0: os.execvp("sleep", [marker, "20"])
    os._exit(0)
os.wait(); time.sleep(0.1)
"""),
    _python("leave a daemon after a kill", "as before, after an endless loop", """
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0: os.execvp("sleep", [marker, "20"])
    os._exit(0)
while True: pass
""", 0.5),
    _python("flood the output", "64 MiB to the one who reads", """
for _ in range(1024): os.write(1, b"x" * 65536)
escaped("64 MiB were taken")
"""),
    Attack("flood from a daemon", "output that goes on after the end", f"""
echo "{BEGAN}"
(while true; do echo flood; done) &
(while true; do echo flood >&2; done) &
""", "shell"),
    Attack("fork from a shell", "processes that start processes", f"""
echo "{BEGAN}"
bomb() {{ [ "$1" -gt 0 ] && {{ bomb $(($1 - 1)) & bomb $(($1 - 1)) & }}; exec sleep 2; }}
bomb 7 2>/dev/null
""", "shell", 0.5),
)  # fmt: skip

GROUPS: Mapping[str, tuple[Attack, ...]] = {
    "reading": READING,
    "writing": WRITING,
    "reaching out": REACHING,
    "rising": RISING,
    "using up": USING,
}
ATTACKS: tuple[Attack, ...] = tuple(attack for group in GROUPS.values() for attack in group)
