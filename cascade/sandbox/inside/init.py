"""The first process of a room: starts programs as it is told, watches their clocks, and ends all they leave behind.

Run by the room's own interpreter, with nothing but the standard library; Python 3.9 or newer. Programs that are scripts
run in a copy of this process, which takes a millisecond; all others are executed. It is told what to do on a socket,
whose other end is `cascade.sandbox.room`, and programs get only the descriptors that came with the order.
"""

import _json  # what is below the modules of the library, which would take longer to import than all else takes
import _signal  # pyright: ignore[reportMissingImports]
import _sitebuiltins
import _socket
import atexit
import builtins
import gc
import os
import resource
import select
import sys
import time

HOME = "/tmp/work"
LINE = 63  # the descriptor of the socket on which orders come
ASIDE = 100  # descriptors from here on are free
ORDER_BYTES = 1 << 18
LOOK_BYTES = 1 << 16  # of a script, in which its imports are looked for
QUIET = {
    *("array", "bisect", "collections", "copy", "dataclasses", "datetime", "decimal", "enum", "fractions", "functools"),
    *("heapq", "itertools", "json", "math", "operator", "random", "re", "statistics", "string", "typing"),
}  # modules of the library that do nothing but define things when they are imported
own = set()  # modules that were written into the room
DESCRIPTOR_BYTES = 4
STOP, LATE = b"!", b"?"
LOOK_S = 0.02  # between two looks at what only polling shows
SPARE_S = 1  # CPU seconds beyond the wall clock, which is the limit meant
OPEN_FILES = 256
FILE_BYTES = 1 << 10  # what the kernel keeps for a file without content
RLIMIT_SIGPENDING, QUEUED_SIGNALS = 11, 1024  # has no name in Python


def main():
    """Serves until the other end hangs up. Returns only in the copy that is to run a script: its command."""
    settings = parsed(sys.argv[1])
    line = alone_with(settings["line"])
    with open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")  # where the machine itself has no memory left, rooms go first
    become(settings)
    _signal.signal(_signal.SIGINT, _signal.SIG_IGN)
    os.makedirs(HOME, exist_ok=True)
    gc.collect()
    gc.freeze()
    say(line, {"up": True})
    nowhere = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(nowhere, standard)
    while True:
        data, descriptors = heard(line)
        if not data:
            os._exit(0)
        if data in (STOP, LATE):  # the program that was to be stopped has ended by itself meanwhile
            continue
        order = parsed(data.decode())
        try:
            if order["do"] == "write":
                write(order, descriptors[0])
                say(line, {"done": True})
            elif order["do"] == "run":
                script = run(order, descriptors, line, settings)
                if script:
                    return script
        except OSError as error:
            say(line, {"failed": f"{type(error).__name__}: {error}"})
        finally:
            for descriptor in descriptors:
                os.close(descriptor)


def alone_with(descriptor):
    """The line, at a place of its own below those that `begin` closes; whatever else came along is closed."""
    os.dup2(descriptor, LINE)
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2 and int(name) != LINE:
            try:
                os.close(int(name))
            except OSError:
                pass  # the listing's own
    return _socket.socket(fileno=LINE)


def become(settings):
    """Gives up root, where the room was made by root, and keeps programs from looking into this process."""
    if os.getuid() != settings["uid"]:
        for folder in settings["own"]:
            os.chown(folder, settings["uid"], settings["gid"])
        os.setgroups([])
        os.setresgid(settings["gid"], settings["gid"], settings["gid"])
        os.setresuid(settings["uid"], settings["uid"], settings["uid"])
    else:
        import ctypes  # costs milliseconds, and the kernel has done it where the user was changed

        set_dumpable = 4
        ctypes.CDLL(None).prctl(set_dumpable, 0, 0, 0, 0)
    hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
    core = min(hard % 2**64, 1)  # byte: no file, and nothing for a program of this machine either; no limit is -1
    resource.setrlimit(resource.RLIMIT_CORE, (core, core))


def write(order, source):
    """A file with what lies in the descriptor."""
    path = os.path.join(HOME, order["path"])
    os.makedirs(os.path.dirname(path), exist_ok=True)
    if os.path.lexists(path) and not os.path.isdir(path):
        os.unlink(path)  # never through a link, and never into a file that a program holds open
    target = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o755 if order["executable"] else 0o644)
    try:
        left, offset = os.fstat(source).st_size, 0
        while left:
            count = os.sendfile(target, source, offset, left)
            left, offset = left - count, offset + count
    finally:
        os.close(target)
    name, suffix = os.path.splitext(os.path.basename(path))
    if suffix == ".py":
        preload(name, os.pread(source, LOOK_BYTES, 0))


def preload(name, source):
    """Imports once here what every run of a script would import for itself. Modules of its own come first."""
    own.add(name)
    if name in QUIET:
        sys.modules.pop(name, None)
    for line in source.decode(errors="replace").splitlines():
        kind, _, rest = line.strip().partition(" ")
        if kind in ("import", "from"):
            for part in rest.partition(" import ")[0].split(","):
                found = part.split(" as ")[0].partition(".")[0].strip()
                if found in QUIET and found not in own:
                    try:
                        __import__(found)
                    except ImportError:
                        pass  # the script will say so
    gc.freeze()


def run(order, descriptors, line, settings):
    """One command from start to end. In the copy that is to run a script it returns the command, else None."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.monotonic()
    child = fork()
    if not child:
        return begin(order, descriptors, line, settings)
    ended_by = watch(child, began, order, settings, line)
    status, starved = None, ended_by == "timeout" and waited_s(child) + began - order["sent"] > 0.25 * order["time_s"]
    if ended_by is None:
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    wall_s = time.monotonic() - began
    if ended_by is not None or not order["keep"]:
        end_all()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    starved = starved and cpu_s < 0.5 * order["time_s"]
    say(line, {"code": status, "ended_by": ended_by, "wall_s": wall_s, "cpu_s": cpu_s, "starved": starved})
    return None


def fork():
    """A copy of this process. What was kept running may have taken all processes or memory there are: then it ends."""
    try:
        return os.fork()
    except OSError:
        end_all()
        return os.fork()


def watch(child, began, order, settings, line):
    """Waits for the end of a process. Returns what it must be ended for, or None."""
    poll = select.poll()
    handle = os.pidfd_open(child)
    try:
        poll.register(handle, select.POLLIN)
        poll.register(line, select.POLLIN)
        while True:
            left_s = began + order["time_s"] - time.monotonic()
            if left_s <= 0:
                return "timeout"
            events = dict(poll.poll(1000 * min(left_s, LOOK_S) if settings["look"] else 1000 * left_s))
            if line.fileno() in events:
                return {STOP: "told", LATE: "timeout"}.get(line.recv(1)) or os._exit(0)
            if handle in events:
                return None
            if settings["look"] and (excess := too_much(settings)):
                return excess
    finally:
        os.close(handle)


def too_much(settings):
    """What processes use beyond the limits that nobody else holds: `memory`, `disk`, or None."""
    if settings["memory_bytes"] and memory_bytes() > settings["memory_bytes"]:
        return "memory"
    for folder in settings["disks"]:
        disk = os.statvfs(folder)
        if (disk.f_blocks - disk.f_bfree) * disk.f_frsize > settings["disk_bytes"]:
            return "disk"
    return None


def memory_bytes():
    """Resident memory of all processes but this one, shared pages counted in each, and of the files in /tmp."""
    pages = 0
    for name in os.listdir("/proc"):
        if name.isdigit() and name != "1":
            try:
                with open(f"/proc/{name}/statm") as file:
                    pages += int(file.read().split()[1])
            except (OSError, IndexError):
                continue  # it has ended
    disk = os.statvfs("/tmp")
    files = (disk.f_files - disk.f_ffree) * FILE_BYTES
    return pages * resource.getpagesize() + (disk.f_blocks - disk.f_bfree) * disk.f_frsize + files


def end_all():
    """Ends every process of the room but this one, and waits until they are gone."""
    while True:
        try:
            os.kill(-1, _signal.SIGKILL)
        except ProcessLookupError:
            pass
        try:
            while True:
                os.waitpid(-1, 0)
        except ChildProcessError:
            return


def waited_s(child):
    """Seconds that a process was ready to run and had no core; 0 where the system does not say."""
    try:
        with open(f"/proc/{child}/schedstat") as file:
            return int(file.read().split()[1]) / 1e9
    except (OSError, IndexError, ValueError):
        return 0.0


def begin(order, descriptors, line, settings):
    """In the copy: takes its descriptors, limits and folder, then executes the command, or returns it as a script."""
    try:
        line.detach()
        for place, descriptor in enumerate(descriptors):
            os.dup2(descriptor, ASIDE + place)  # out of the way of what they become
        for place in range(len(descriptors)):
            os.dup2(ASIDE + place, place)
        os.closerange(len(descriptors), ASIDE + len(descriptors))
        descriptors.clear()  # nobody closes the new ones
        os.setsid()
        limit(order, settings)
        os.chdir(order["folder"])
        os.environ.update(order["variables"])
        _signal.signal(_signal.SIGINT, _signal.default_int_handler)
        if order["command"][0] == "python" and len(order["command"]) > 1:
            return order["command"]
        _signal.signal(_signal.SIGINT, _signal.SIG_DFL)
        _signal.signal(_signal.SIGPIPE, _signal.SIG_DFL)
        os.execvp(order["command"][0], order["command"])
    except BaseException as error:  # noqa: BLE001  this copy must not go on as the room's first process
        os.write(2, f"{order['command'][0]}: {type(error).__name__}: {error}\n".encode(errors="replace")[:4000])
        os._exit(127)


def limit(order, settings):
    """What the kernel holds for every single process."""
    seconds = int(order["time_s"]) + 1 + SPARE_S
    limits = {
        resource.RLIMIT_CPU: seconds,
        resource.RLIMIT_FSIZE: settings["disk_bytes"],
        resource.RLIMIT_NOFILE: OPEN_FILES,
        resource.RLIMIT_MEMLOCK: 0,
        resource.RLIMIT_MSGQUEUE: 0,
        RLIMIT_SIGPENDING: QUEUED_SIGNALS,
    }
    if settings["address_bytes"]:
        limits[resource.RLIMIT_AS] = settings["address_bytes"]
    if settings["processes"]:
        limits[resource.RLIMIT_NPROC] = settings["processes"] + 1
    if order["command"][0] != "python":
        limits[resource.RLIMIT_STACK] = settings["stack_bytes"]
    for name, value in limits.items():
        hard = resource.getrlimit(name)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(name, (value, value))


class Plain:
    """JSON as it is read by default."""

    strict, memo = True, {}
    object_hook = object_pairs_hook = None
    parse_float, parse_int, parse_constant = float, int, float


_scan = _json.make_scanner(Plain)  # pyright: ignore[reportArgumentType]
_encode = _json.make_encoder(
    None,
    None,  # pyright: ignore[reportArgumentType]
    _json.encode_basestring_ascii,
    None,
    ": ",
    ", ",
    False,
    False,
    False,
)


def parsed(text):
    """What a JSON document says."""
    return _scan(text, 0)[0]


def heard(line):
    """The next order, as bytes, and the descriptors that came with it."""
    data, others, _, _ = line.recvmsg(ORDER_BYTES, _socket.CMSG_LEN(8 * DESCRIPTOR_BYTES))
    descriptors = []
    for level, kind, given in others:
        if level == _socket.SOL_SOCKET and kind == _socket.SCM_RIGHTS:
            for start in range(0, len(given), DESCRIPTOR_BYTES):
                descriptors.append(int.from_bytes(given[start : start + DESCRIPTOR_BYTES], sys.byteorder))
    return data, descriptors


def say(line, message):
    """Tells the other end."""
    line.send("".join(_encode(message, 0)).encode())


def as_main(command):
    """Makes this copy look like a fresh interpreter; returns the script's code and the globals it runs with."""
    for name in ("exit", "quit"):
        setattr(builtins, name, _sitebuiltins.Quitter(name, "Ctrl-D (i.e. EOF)"))
    path = command[1]
    sys.argv = list(command[1:])
    sys.path[0] = os.getcwd() if path == "-" else os.path.dirname(os.path.abspath(path))
    module = type(sys)("__main__")
    module.__file__ = path
    module.__builtins__ = builtins
    sys.modules["__main__"] = module
    if path == "-":
        source = sys.stdin.buffer.read()
    else:
        with open(path, "rb") as file:
            source = file.read()
    return compile(source, "<stdin>" if path == "-" else path, "exec"), module.__dict__


def end(error):
    """Ends this copy as an interpreter ends, without taking every object apart, which costs more than most scripts."""
    code = 0
    if isinstance(error, SystemExit):
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
        if code and not isinstance(error.code, int):
            print(error.code, file=sys.stderr)
    elif error is not None:
        code = 1
        own = error.__traceback__  # the last frame of ours
        sys.excepthook(type(error), error.with_traceback(own and own.tb_next), error.__traceback__)
    if "threading" in sys.modules:
        sys.modules["threading"]._shutdown()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError, AttributeError):
            code = code or 120
    os._exit(code & 0xFF)


def play(command):
    """Runs a script in this copy to its end."""
    error = None
    try:
        exec(*as_main(command))
    except BaseException as raised:  # noqa: BLE001  whatever it is, it is the script's
        error = raised
    end(error)


if __name__ == "__main__":
    play(main())
