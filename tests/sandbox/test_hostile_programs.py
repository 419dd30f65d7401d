"""Programs that read, write, reach and rise where they must not: every one is run in a real room, and gets nothing."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from cascade.sandbox.backends import sandbox
from cascade.sandbox.bait import Bait
from cascade.sandbox.ports import Sandbox
from tests.sandbox.hostile import LIMITS, Hostile, run_hostile

READING = (
    Hostile("reads the passwords by every way there", """
import glob
ways = ["/etc/shadow", "/etc/gshadow", "/etc/sudoers", "/proc/1/root/etc/shadow", "/proc/self/root/etc/shadow",
        "/proc/self/cwd/../../../../etc/shadow", "../" * 40 + "etc/shadow", "/usr/../etc/shadow", "/etc/shadow-"]
for way in ways:
    if attempt(lambda: open(way, "rb").read()): escaped(way)
"""),
    Hostile("reads homes", """
for folder in ("/root", "/home", "/root/.ssh", "/var", "/opt", "/srv", "/mnt", "/run", "/boot", "/sys", "/work"):
    if attempt(os.listdir, folder): escaped(folder)
"""),
    Hostile("climbs out by open folders", """
top = os.open("/", os.O_PATH | os.O_DIRECTORY)
for path in ("..", "../..", "../../../../../tmp", "./../root"):
    handle = attempt(os.open, path, os.O_RDONLY | os.O_DIRECTORY, 0o777, )
    for folder in folders:
        print(attempt(lambda: os.read(os.open(f"{path}{folder}/secret", os.O_RDONLY, dir_fd=top), 99)))
"""),
    Hostile("reads the first process", """
for name in ("environ", "mem", "maps", "auxv", "stack", "syscall", "io", "mountstats", "pagemap", "personality"):
    data = attempt(lambda: open(f"/proc/1/{name}", "rb").read(64))
    if data: escaped(f"/proc/1/{name}: {data!r}")
for name in ("fd", "map_files", "ns"):
    if attempt(os.listdir, f"/proc/1/{name}"): escaped(name)
for name in ("exe", "cwd", "root", "fd/3", "fd/4", "ns/user", "ns/mnt"):
    if attempt(os.readlink, f"/proc/1/{name}"): escaped(name)
"""),
    Hostile("reads every process's memory, variables and descriptors", """
for name in filter(str.isdigit, os.listdir("/proc")):
    if int(name) == os.getpid(): continue
    for what in ("environ", "mem", "fd"):
        way = f"/proc/{name}/{what}"
        if attempt(os.listdir if what == "fd" else lambda path: open(path, "rb").read(1), way): escaped(way)
"""),
    Hostile("sees processes of the machine", """
seen = [name for name in os.listdir("/proc") if name.isdigit()]
if len(seen) > 2: escaped(str(seen))
for process in (prey, int(os.environ["SELF"])):
    if process > 2 and os.path.exists(f"/proc/{process}"): escaped(f"process {process}")
"""),
    Hostile("reads the kernel", """
for path in ("/proc/kcore", "/proc/kmsg", "/dev/kmsg", "/dev/mem", "/dev/port", "/dev/kvm", "/dev/fuse", "/dev/tty",
             "/dev/ptmx", "/dev/vda", "/dev/sda", "/dev/loop0", "/dev/loop-control", "/dev/net/tun", "/proc/slabinfo"):
    if attempt(os.open, path, os.O_RDONLY) is not None: escaped(path)
with open("/proc/kallsyms") as file:
    if int(file.readline().split()[0], 16): escaped("addresses of the kernel")
"""),
    Hostile("reads what the fork server remembers", """
import gc
frame, seen = sys._getframe(), []
while frame: seen.append(frame.f_globals); seen.append(frame.f_locals); frame = frame.f_back
for each in seen + gc.get_objects():
    if isinstance(each, socket.socket) and each.fileno() >= 0: escaped(f"socket {each}")
"""),
    Hostile("looks for another program's files", """
found = [os.path.join(folder, name) for folder, _, names in os.walk("/tmp") for name in names]
if found != ["/tmp/work/main.py"]: escaped(str(found))
"""),
)  # fmt: skip

WRITING = (
    Hostile("writes into every folder there is", """
for folder, below, _ in os.walk("/"):
    if folder == "/": below[:] = [name for name in below if name not in ("proc", "tmp")]
    if folder.count("/") > 4: below.clear()
    if os.access(folder, os.W_OK) or attempt(os.mkdir, folder + "/" + marker, 0o700) is not None: escaped(folder)
"""),
    Hostile("writes into every file of /proc", """
for folder, below, names in os.walk("/proc"):
    own = ("self", "thread-self")
    if folder == "/proc": below[:] = [name for name in below if not name.isdigit() and name not in own]
    for name in names:
        handle = attempt(os.open, f"{folder}/{name}", os.O_WRONLY)
        if handle is not None and attempt(os.write, handle, b"1"): escaped(f"{folder}/{name}")
"""),
    Hostile("changes what belongs to others", """
for path in ("/", "/usr", "/usr/bin/env", "/etc/passwd", sys.executable, "/dev/null", "/tmp", "/.cascade/init.py"):
    for what, arguments in ((os.chmod, (0o777,)), (os.chown, (os.getuid(), -1)), (os.utime, ()),
                            (os.rename, (path + "x",)), (os.unlink, ()), (os.truncate, (0,)),
                            (os.setxattr, ("user.x", b"x"))):
        if path in ("/dev/null", "/tmp") and what in (os.utime, os.truncate): continue  # anybody may
        if attempt(lambda: what(path, *arguments) or 1): escaped(f"{what.__name__} {path}")
"""),
    Hostile("rewrites the interpreter that runs it", """
for path in ("/proc/self/exe", os.path.realpath(sys.executable), os.__file__, "/lib64/ld-linux-x86-64.so.2", "/bin/sh"):
    for flags in (os.O_WRONLY, os.O_RDWR, os.O_WRONLY | os.O_TRUNC, os.O_WRONLY | os.O_APPEND):
        if attempt(os.open, path, flags) is not None: escaped(path)
"""),
    Hostile("plants links for the next file that is written", """
os.unlink("main.py"); os.symlink(folders[0] + "/secret", "main.py"); os.symlink("/usr/bin", "bin")
"""),
    Hostile("puts a link in the place of its home", """
os.chdir("/tmp"); os.rename("work", "elsewhere"); os.symlink("/usr", "work")
""", destroys=True),
    Hostile("shuts its home", """
os.chmod(os.getcwd(), 0); os.chmod('/tmp', 0) if os.access('/', os.W_OK) else None
""", destroys=True),
    Hostile("leaves modules for later interpreters", """
for name in ("sitecustomize.py", "usercustomize.py", "json.py", "os.py", "encodings.py", "codecs.py"):
    open(name, "w").write("raise SystemExit('planted')")
os.makedirs(".local/lib/python3.11/site-packages")
open(".local/lib/python3.11/site-packages/x.pth", "w").write("import y")
"""),
    Hostile("leaves a library to be preloaded", """
os.environ["LD_PRELOAD"] = os.getcwd() + "/evil.so"; os.environ["PYTHONSTARTUP"] = "evil.py"
open("evil.so", "wb").write(b"x"); libc.setenv(b"LD_PRELOAD", b"/tmp/work/evil.so", 1)
for path in ("/etc/ld.so.preload", "/etc/environment", "/etc/profile"):
    if attempt(os.open, path, os.O_WRONLY | os.O_CREAT): escaped(path)
"""),
    Hostile("dumps core", """
resource.setrlimit(resource.RLIMIT_CORE, (resource.getrlimit(resource.RLIMIT_CORE)[1],) * 2)
if attempt(lambda: resource.setrlimit(resource.RLIMIT_CORE, (1 << 20, 1 << 20)) or 1): escaped("limit")
if os.fork() == 0: libc.prctl(4, 1, 0, 0, 0); os.abort()
status = os.wait()[1]
if os.WCOREDUMP(status) or os.listdir() != ["main.py"]: escaped("core")
"""),
    Hostile("writes into its input", """
for what in (lambda: os.write(0, b"x"), lambda: os.ftruncate(0, 1 << 30), lambda: os.truncate("/proc/self/fd/0", 0),
             lambda: os.pwrite(os.open("/proc/self/fd/0", os.O_RDWR), b"x" * 4096, 0),
             lambda: os.posix_fallocate(0, 0, 1 << 20)):
    if attempt(lambda: what() or 1): escaped()
"""),
    Hostile("writes to every descriptor", """
for descriptor in range(3, 256):
    if attempt(os.write, descriptor, b'{"code": 0, "ended_by": null, "wall_s": 0, "cpu_s": 0}') is not None: escaped()
os.write(1, b'{"code": 0, "ended_by": null}'); os.write(2, b"!"); os.closerange(0, 256)
"""),
)  # fmt: skip

REACHING = (
    Hostile("opens sockets of every family", """
for family in range(46):
    for kind in range(1, 7):
        made = attempt(socket.socket, family, kind)
        if made and family != socket.AF_UNIX: escaped(f"family {family}, type {kind}")
"""),
    Hostile("asks the names of the network", """
import subprocess
for name in ("example.com", "localhost", "169.254.169.254"):
    if attempt(socket.getaddrinfo, name, 80) and attempt(socket.create_connection, (name, 80), 1): escaped(name)
if attempt(socket.if_nameindex): escaped("interfaces")
with open("/proc/net/dev") as file:
    if [line for line in file if ":" in line and not line.strip().startswith("lo:")]: escaped("interfaces")
with open("/proc/net/unix") as file:
    if marker in file.read(): escaped("sockets of this machine")
"""),
    Hostile("connects to sockets of the machine", """
for address in ("\\0" + os.environ["ABSTRACT"], folders[0] + "/door", "/run/docker.sock", "/var/run/docker.sock",
                "/run/dbus/system_bus_socket", "/run/systemd/private", "/tmp/.X11-unix/X0", "\\0/tmp/.X11-unix/X0"):
    if attempt(lambda: socket.socket(socket.AF_UNIX).connect(address) or 1): escaped(repr(address))
"""),
    Hostile("kills all it can", "attempt(os.kill, -1, 9); attempt(os.killpg, 0, 0)\n"),
    Hostile("sends every signal to the first process", """
for number in range(1, 65):
    attempt(os.kill, 1, number); attempt(os.kill, os.getppid(), number); call(424, 424, os.pidfd_open(1), number, 0, 0)
    call(129, 138, 1, number, 0); call(234, 131, 1, 1, number)
"""),
    Hostile("signals every number", """
for process in range(2, 5000):
    if process != os.getpid(): attempt(os.kill, process, 9)
attempt(os.kill, prey, 9); attempt(os.killpg, prey, 9)
"""),
    Hostile("lames the first process", """
for name in (resource.RLIMIT_CPU, resource.RLIMIT_NOFILE, resource.RLIMIT_AS, resource.RLIMIT_FSIZE):
    if attempt(lambda: resource.prlimit(1, name, (0, 0)) or 1): escaped(f"rlimit {name}")
text = ctypes.create_string_buffer(64)
call(144, 119, 1, 5, ctypes.addressof(text)); call(141, 140, 0, 1, 19); call(141, 140, 2, 0, 19)
call(203, 122, 1, 8, ctypes.addressof(ctypes.c_ulong(1))); call(251, 30, 1, 1, 3 << 13)
with open("/proc/1/stat") as file: words = file.read().rpartition(")")[2].split()
if words[16] != "0": escaped(f"nice {words[16]}")
for name in ("oom_score_adj", "timerslack_ns", "comm", "coredump_filter", "autogroup", "sched", "clear_refs"):
    if attempt(lambda: os.write(os.open(f"/proc/1/{name}", os.O_WRONLY), b"1")): escaped(name)
"""),
    Hostile("traces and rewrites the first process", """
space = ctypes.create_string_buffer(64)
for request in (16, 0x4206, 0, 4, 17):
    if call(101, 117, request, 1, 0, 0) >= 0: escaped(f"ptrace {request}")
vector = (ctypes.c_uint64 * 2)(ctypes.addressof(space), 8)
remote = (ctypes.c_uint64 * 2)(0x400000, 8)
for numbers in ((310, 270), (311, 271)):
    if call(*numbers, 1, ctypes.addressof(vector), 1, ctypes.addressof(remote), 1, 0) >= 0: escaped("process_vm")
if attempt(lambda: open("/proc/1/mem", "r+b")): escaped("mem")
if call(438, 438, os.pidfd_open(1), 3, 0) >= 0: escaped("pidfd_getfd")
if call(312, 272, os.getpid(), 1, 0, 0, 0) >= 0: escaped("kcmp")
"""),
    Hostile("stands in for a descendant's tracer", """
child = os.fork()
if child == 0: time.sleep(3); os._exit(0)
if call(101, 117, 0x4206, child, 0, 0) >= 0: escaped("ptrace of a child")
if call(101, 117, 0, 0, 0, 0) >= 0: escaped("ptrace of itself")
"""),
)  # fmt: skip

RISING = (
    Hostile("changes its user", """
for what, arguments in ((os.setuid, (0,)), (os.setgid, (0,)), (os.setresuid, (0, 0, 0)), (os.setgroups, ([0],)),
                        (os.setuid, (1000,)), (os.setreuid, (0, 0)), (os.seteuid, (0,))):
    if attempt(lambda: what(*arguments) or 1): escaped(what.__name__)
for right in range(41):
    if libc.prctl(47, 2, right, 0, 0) == 0: escaped(f"ambient capability {right}")
header, data = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)(*[0xFFFFFFFF] * 6)
if libc.capset(header, data) == 0: escaped("capset")
"""),
    Hostile("executes programs with the setuid bit", """
for name in ("su", "mount", "passwd", "sudo", "newgrp", "chsh", "umount", "gpasswd"):
    path = "/usr/bin/" + name
    if os.path.exists(path) and os.stat(path).st_mode & stat.S_ISUID:
        child = os.fork()
        if child == 0:
            os.dup2(os.open("/dev/null", os.O_RDWR), 1); os.dup2(1, 2)
            attempt(os.execv, path, [path, "-c", "id"]); os._exit(9)
        time.sleep(0.05)
        status = attempt(lambda: open(f"/proc/{child}/status").read()) or ""
        if "Uid:\\t0" in status or "\\t0\\t0\\t0" in status.partition("Uid:")[2][:30]: escaped(path)
        attempt(os.kill, child, 9); os.wait()
os.chmod("main.py", 0o6755)
"""),
    Hostile("makes namespaces in every way", """
for flag in (0x10000000, 0x20000, 0x40000000, 0x20000000, 0x8000000, 0x4000000, 0x2000000, 0x80, 0x7E020000):
    if libc.unshare(flag) == 0: escaped(f"unshare {flag:#x}")
    if flag != 0x80:
        child = call(56, 220, flag | 17, 0, 0, 0, 0)
        if child == 0: os._exit(0)
        if child > 0: escaped(f"clone {flag:#x}")
handle = os.open("/proc/self/ns/user", os.O_RDONLY)
if call(308, 268, handle, 0) == 0 or call(308, 268, os.pidfd_open(os.getpid()), 0x10000000) == 0: escaped("setns")
"""),
    Hostile("mounts in every way", """
buffers = [ctypes.create_string_buffer(text) for text in (b"tmpfs", b"/tmp", b"proc", b"/proc", b"cgroup", b"overlay")]
at = [ctypes.addressof(each) for each in buffers]
for kind in (at[0], at[2], at[4], at[5]):
    for flags in (0, 0x1000, 0x20, 0x100000):
        if call(165, 40, kind, at[1], kind, flags, 0) == 0: escaped("mount")
for numbers in ((166, 39, at[3], 2), (155, 41, at[1], at[1]), (161, 51, at[1]), (430, 430, at[0], 0),
                (442, 442, -100, at[1], 0, 0, 0), (428, 428, -100, at[1], 1), (429, 429, -100, at[1], -100, at[1], 0),
                (433, 433, -100, at[1], 0), (467, 467, -100, at[1], 1)):
    if call(*numbers) >= 0: escaped(str(numbers[0]))
"""),
    Hostile("calls every number there is", """
spared = {0, 1, 3, 7, 9, 10, 11, 12, 13, 14, 15, 23, 25, 26, 28, 34, 35, 37, 38, 56, 57, 58, 59, 60, 61, 62, 63, 65, 66,
          68, 69, 70, 71, 128, 130, 131, 149, 150, 151, 152, 154, 157, 158, 160, 200, 202, 218, 219, 230, 231, 232, 234,
          240, 247, 270, 271, 273, 281, 302, 317, 322, 334, 435, 449, 455}  # they wait, or end what asks them
child = os.fork()
if child == 0:
    for number in [*range(470), 512, 548, 1000, 2**30 - 1]:
        if number not in spared and not arm: call(number, number, -1, -1, -1, -1, -1, -1)
    os._exit(0)
print(os.wait())
"""),
    Hostile("uses calls of other architectures", """
child = os.fork()
if child == 0: call(0x40000000 + 39, 0x40000000 + 172); os._exit(0)
status = os.wait()[1]
if not os.WIFSIGNALED(status) or os.WTERMSIG(status) != 31: escaped(f"x32: {status}")
"""),
    Hostile("puts characters into a terminal", """
import fcntl
for descriptor in (0, 1, 2):
    for request in (0x5412, 0x541C):
        if attempt(fcntl.ioctl, descriptor, request, b"x") is not None: escaped()
if attempt(os.open, "/dev/ptmx", os.O_RDWR) is not None or attempt(os.openpty): escaped("a terminal")
"""),
    Hostile("writes what terminals obey", "print('\\x1b]52;c;aGk=\\x07\\x1b[2J\\x1bP+q\\x1b\\\\ \\x9b6n')\n"),
    Hostile("sets clocks, names and keys", """
space = ctypes.addressof(ctypes.create_string_buffer(256))
for name, numbers in {"settimeofday": (164, 170, space, 0), "clock_settime": (227, 112, 0, space),
        "adjtimex": (159, 171, space), "sethostname": (170, 161, space, 3), "setdomainname": (171, 162, space, 3),
        "add_key": (248, 217, space, space, 0, 0, -3), "keyctl": (250, 219, 0, -3, 1),
        "request_key": (249, 218, space, space, 0, -3), "reboot": (169, 142, 0, 0, 0, 0),
        "swapon": (167, 224, space, 0), "acct": (163, 89, space), "iopl": (172, 999, 3),
        "ioperm": (173, 999, 0, 8, 1)}.items():
    if call(*numbers) >= 0: escaped(name)
if attempt(lambda: time.clock_settime(0, 0) or 1): escaped("clock")
"""),
    Hostile("filters its own calls", """
# a filter of its own may only narrow, and must not hold up the room's first process
program = (ctypes.c_uint64 * 1)(0x7FFF000000000006)
words = (ctypes.c_uint64 * 2)(1, ctypes.addressof(program))
print(call(317, 277, 1, 8, ctypes.addressof(words)))
"""),
)  # fmt: skip

SHELL = (
    Hostile("tries the system's own tools", """
for word in "unshare -Ur id" "nsenter -t 1 -a id" "chroot /tmp id" "su -c id" "sudo id" "setpriv --reuid 0 id" \\
            "bwrap --unshare-user id" "unshare -n id" "setpriv --inh-caps +all id" "newgrp root" "chrt -f 99 id"; do
  if timeout 1 $word </dev/null 2>/dev/null | grep -q "uid=0"; then echo "The attack succeeded: $word"; fi
done
""", language="shell"),
    Hostile("looks for what it may write", """
find / -xdev -path /proc -prune -o -path /tmp -prune -o -writable ! -type l -print 2>/dev/null | grep -v "^/dev/" |
  while read path; do echo "The attack succeeded: $path"; done
""", ("ok", "runtime_error"), language="shell"),
    Hostile("copies programs with the setuid bit", """
cp /usr/bin/su /tmp/work/su; chmod 6755 /tmp/work/su
/tmp/work/su -c id </dev/null 2>&1 | grep "uid=0" && echo "The attack succeeded:"
true
""", language="shell"),
)  # fmt: skip

ALL = (*READING, *WRITING, *REACHING, *RISING, *SHELL)


@pytest.fixture(scope="module")
def box() -> Sandbox:
    return sandbox("bwrap")


@pytest.fixture(scope="module")
def bait() -> Iterator[Bait]:
    with Bait() as laid:
        yield laid


@pytest.mark.parametrize("program", ALL, ids=lambda program: program.name)
def test_nothing_is_read_written_reached_or_gained(box: Sandbox, bait: Bait, program: Hostile) -> None:
    run_hostile(box, program, bait)


def test_the_next_room_finds_nothing_of_an_earlier_program(box: Sandbox) -> None:
    leave = b"import os\nfor place in ('/tmp', '/dev/shm', '/tmp/work'): open(place + '/left', 'w').write('x')\n"
    look = b"import os\nprint(sorted(os.listdir('/tmp')), os.listdir('/tmp/work'), sorted(os.environ))\n"
    with box.open(LIMITS) as room:
        clean = room.run(("python", "-"), look)
    with box.open(LIMITS) as room:
        assert room.run(("python", "-"), leave).status == "ok"
        assert b"left" in room.run(("python", "-"), look).stdout
    with box.open(LIMITS) as room:
        assert room.run(("python", "-"), look).stdout == clean.stdout


def test_a_file_is_never_written_through_a_link_of_the_program(box: Sandbox, bait: Bait) -> None:
    link = b"import os\nos.symlink('/tmp/target', 'answer')\nopen('/tmp/target', 'w').write('old')\n"
    with box.open(LIMITS) as room:
        assert room.run(("python", "-"), link).status == "ok"
        room.write("answer", b"new")
        said = room.run(("python", "-"), b"print(open('/tmp/target').read(), open('answer').read())")
    assert said.stdout == b"old new\n"
