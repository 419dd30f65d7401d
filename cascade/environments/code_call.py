"""Run in a room: a program as LiveCodeBench runs it, or one call of a function of it, whose value it writes as JSON.

Of its two files `main.py` is the program; `given.py` has what LiveCodeBench imports before every program. With the
argument `call` a call comes on stdin as JSON: `{"function", "args", "kwargs"}`, and what the program prints goes
nowhere. What is right is nowhere in the room, so that the program may do with this process as it likes. Python 3.9 or
newer, nothing but the standard library.
"""

import json
import os
import sys

DEPTH = 50_000  # of calls, as LiveCodeBench has it


def main():
    sys.setrecursionlimit(DEPTH)
    if sys.argv[1:] == ["call"]:
        one_call()
    else:
        sys.argv[:] = ["main.py"]
        module = sys.modules["__main__"] = type(sys)("__main__")
        module.__file__ = "main.py"
        run(module)


def run(module):
    """The program, in a module."""
    for name in ("given.py", "main.py"):
        with open(name, "rb") as file:  # noqa: PTH123  every module costs a millisecond
            code = compile(file.read(), name, "exec")
        exec(code, module.__dict__)


def one_call():
    """Calls, and writes the value."""
    call = json.loads(sys.stdin.buffer.read())
    out = os.dup(1)
    nowhere = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1):
        os.dup2(nowhere, standard)
    if hasattr(sys, "set_int_max_str_digits"):
        sys.set_int_max_str_digits(0)
    module = type(sys)("solution")
    sys.modules["solution"] = module
    run(module)
    value = found(module, call["function"])(*call.get("args", ()), **call.get("kwargs", {}))
    try:
        text = json.dumps(value).encode()
    except (TypeError, ValueError, RecursionError):
        text = b""  # no value that JSON knows is no answer
    while text:
        text = text[os.write(out, text) :]


def found(module, path):
    """A function of the module, or the method of a `Solution`, as LeetCode has it."""
    first, _, rest = path.partition(".")
    owner = module.__dict__.get("Solution")
    if owner is not None and hasattr(owner, first):
        return getattr(owner(), first)
    value = getattr(module, first)
    if rest and isinstance(value, type):
        value = value()
    for name in filter(None, rest.split(".")):
        value = getattr(value, name)
    return value


main()
