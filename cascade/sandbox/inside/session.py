"""A Python session that keeps its variables from call to call. Run as `session.py serve` once, and `call` for each.

Before a call the session makes a copy of itself, which does nothing but watch. When the call ends well or raises, the
copy is killed. When it takes too long, or ends its process, the copy kills what is left of it and goes on as the
session, with the variables from before the call. Everything here belongs to the program: whatever it does to the
session it does to itself, and `cascade.sandbox.python_session` believes none of it but takes it for text.
"""

import ast
import linecache
import os
import select
import signal
import socket
import sys
import traceback

PLACE = "/tmp/.session"  # the socket, and what a call has written
SAID = "/tmp/.said"
DONE, LATE, DIED = b"0", b"1", b"2"
FULL = 1 << 20  # bytes that a call may write


def serve():
    """Leaves a session behind that listens."""
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(PLACE)
    listening.listen(1)
    if os.fork():
        os._exit(0)
    os.setsid()
    nowhere = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(nowhere, standard)
    sys.argv = [""]
    space = {"__name__": "__main__", "__builtins__": __builtins__}
    number = 0
    while True:
        caller = listening.accept()[0]
        time_s, _, code = received(caller).partition(b"\n")
        number += 1
        caller.sendall(carried_out(code.decode(errors="replace"), f"<call {number}>", space, float(time_s)))
        caller.close()


def carried_out(code, name, space, time_s):
    """Runs code in this process while a copy watches. Returns in the process that is the session afterwards."""
    ended, ending = os.pipe()
    mine = os.getpgrp()
    copy = os.fork()
    if not copy:
        os.close(ending)
        os.setpgid(0, 0)
        said = LATE if not select.select([ended], [], [], time_s)[0] else DIED
        os.close(ended)
        os.killpg(mine, signal.SIGKILL)
        return said
    os.close(ended)
    session = os.getpid()
    play(code, name, space)
    if os.getpid() != session:  # the code forked, and this is the other one
        os._exit(0)
    os.kill(copy, signal.SIGKILL)
    os.waitpid(copy, 0)
    os.close(ending)
    return DONE


def play(code, name, space):
    """What a cell of a notebook does: all statements, and the value of the last one where that is an expression."""
    import resource

    said = os.open(SAID, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    os.dup2(said, 1)
    os.dup2(said, 2)
    os.close(said)
    sys.stdout = sys.stderr = open(1, "w", buffering=1, errors="replace", closefd=False)  # noqa: SIM115  stays open
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (FULL if hard < 0 else min(FULL, hard), hard))
    linecache.cache[name] = (len(code), None, code.splitlines(True), name)  # for tracebacks
    try:
        tree = ast.parse(code, name)
        last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, name, "exec"), space)
        if last is not None:
            value = eval(compile(ast.Expression(last.value), name, "eval"), space)
            if value is not None:
                print(repr(value))
    except BaseException as error:  # noqa: BLE001  whatever it is, it is the code's
        trace = error.__traceback__
        while trace is not None and trace.tb_frame.f_code.co_filename == __file__:
            trace = trace.tb_next
        lines = traceback.format_exception(type(error), error, trace)
        tell("".join(lines))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    tell("")
    os.dup2(0, 1)
    os.dup2(0, 2)


def tell(text):
    """Writes behind what was printed. Where the file is full, what was printed has to do."""
    try:
        sys.stdout.flush()
    except (OSError, ValueError, AttributeError):
        pass
    try:
        os.write(1, text.encode(errors="replace"))
    except OSError:
        pass


def received(caller):
    """All that the other end sends."""
    parts = []
    while part := caller.recv(1 << 16):
        parts.append(part)
    return b"".join(parts)


def call(time_s):
    """Hands standard input to the session, prints what it wrote, and returns what became of it."""
    to = socket.socket(socket.AF_UNIX)
    to.connect(PLACE)
    to.sendall(time_s.encode() + b"\n" + sys.stdin.buffer.read())
    to.shutdown(socket.SHUT_WR)
    ended = received(to)
    with open(SAID, "rb") as file:
        sys.stdout.buffer.write(file.read(FULL))
    sys.stdout.flush()
    return int(ended or b"9")


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve()
    sys.exit(call(sys.argv[2]))
