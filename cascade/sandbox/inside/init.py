"""The first process of a room: starts programs as it is told, watches their clocks, and ends all they leave behind.

Run by the room's own interpreter, with nothing but the standard library; Python 3.9 or newer. Programs that are scripts
run in a copy of this process, which takes a millisecond; all others are executed. It is told what to do on a socket,
whose other end is `cascade.sandbox.room`, and programs get only the descriptors that came with the order.
"""

import gc
import json
import os
import resource
import select
import signal
import socket
import sys
import time

HOME = "/tmp/work"
ORDER_BYTES = 1 << 18
LOOK_S = 0.02  # between two looks at what only polling shows
SPARE_S = 1  # CPU seconds beyond the wall clock, which is the limit meant
OPEN_FILES = 256


def main():
    """Serves until the other end hangs up. Returns only in the copy that is to run a script: its command."""
    settings = json.loads(sys.argv[1])
    line = socket.socket(fileno=settings["line"])
    with open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")  # where the machine itself has no memory left, rooms go first
    become(settings)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.makedirs(HOME, exist_ok=True)
    gc.collect()
    gc.freeze()
    say(line, {"up": True})
    nowhere = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(nowhere, standard)
    while True:
        data, descriptors, _, _ = socket.recv_fds(line, ORDER_BYTES, 8)
        if not data:
            os._exit(0)
        order = json.loads(data)
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
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


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


def run(order, descriptors, line, settings):
    """One command from start to end. In the copy that is to run a script it returns the command, else None."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.monotonic()
    child = os.fork()
    if not child:
        return begin(order, descriptors, line, settings)
    ended_by = watch(child, began, order, settings, line)
    status, starved = None, ended_by == "timeout" and waited_s(child) > 0.25 * order["time_s"]
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
                return "told" if line.recv(1) else os._exit(0)
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
    return pages * resource.getpagesize() + (disk.f_blocks - disk.f_bfree) * disk.f_frsize


def end_all():
    """Ends every process of the room but this one, and waits until they are gone."""
    while True:
        try:
            os.kill(-1, signal.SIGKILL)
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
            os.dup2(descriptor, 100 + place)  # out of the way of what they become
        for place in range(len(descriptors)):
            os.dup2(100 + place, place)
        os.closerange(len(descriptors), 100 + len(descriptors))
        descriptors.clear()  # nobody closes the new ones
        os.setsid()
        limit(order, settings)
        os.chdir(order["folder"])
        os.environ.update(order["variables"])
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if order["command"][0] == "python" and len(order["command"]) > 1:
            return order["command"]
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
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


def say(line, message):
    """Tells the other end."""
    line.send(json.dumps(message).encode())


def as_main(command):
    """Makes this copy look like a fresh interpreter; returns the script's code and the globals it runs with."""
    import _sitebuiltins
    import builtins

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
    import atexit

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
