"""The program's end: runs in the program's room, imports its modules when asked, and does with them what tests ask.

Nothing here needs to be trusted: the program may change all of it, and can thereby only answer differently.
"""

import builtins
import os
import sys

from remote import End, Gone
from stand_ins import OPERATIONS, plain_base

LINE = 3
PRINTED = 1 << 16  # characters that tests get to see of what one call prints


class ProgramEnd(End):
    """Answers everything."""

    def __init__(self, descriptor, printed):
        super().__init__(descriptor)
        self._printed = printed

    def perform(self, name, operands, named):
        if name == "call":
            return operands[0](*operands[1:], **named)
        return (OPERATIONS.get(name) or OWN[name])(*operands)

    def name_of(self, value):
        name = value.__name__ if isinstance(value, type) and value.__module__ == "builtins" else ""
        return f"builtins:{name}" if getattr(builtins, name or " ", None) is value else ""

    def named(self, name):
        module, _, path = name.partition(":")
        found = imported(module)
        for part in path.split("."):
            found = getattr(found, part)
        return found

    def said(self):
        return self._printed.take()


class Printed:
    """Standard output that is remembered for the tests, too."""

    def __init__(self, stream):
        self._stream = stream
        self._text = []
        self._left = PRINTED

    def write(self, text):
        """Writes to both."""
        count = self._stream.write(text)
        if self._left > 0:
            self._text.append(text[: self._left])
            self._left -= len(text)
        return count

    def writelines(self, lines):
        """Writes to both."""
        for line in lines:
            self.write(line)

    def take(self):
        """What was written since the last time."""
        text = "".join(self._text)
        self._text, self._left = [], PRINTED
        return text

    def __getattr__(self, name):
        return getattr(self._stream, name)


def imported(name):
    """A module by its dotted name."""
    __import__(name)
    return sys.modules[name]


def replace(module, name, value):
    """As tests replace a function of the language, e.g. `input`; None puts its own back."""
    module = sys.modules[module]
    own = _replaced.setdefault(name, getattr(module, name))
    setattr(module, name, own if value is None else value)


def awaited(value):
    """What a coroutine comes to."""
    import asyncio

    async def main():
        return await value

    return asyncio.run(main())


_replaced = {}


class Stranger:
    """What no object of a program is equal to."""

    __slots__ = ()


def same(one, other):
    """Whether two objects are equal, and what they say of that otherwise, for the tests to see whether they lie."""
    return bool(one == other), bool(one != other), _is_a_stranger(one), _is_a_stranger(other)


def _is_a_stranger(value):
    try:
        return bool(value == Stranger())
    except Exception:  # noqa: BLE001  many look for what they know in what they are compared with
        return False


def plain(value: object) -> object:
    """What an object of a class derived from a built-in one holds of the latter."""
    return plain_base(value, type(value))[0]


def seed(value):
    """As tests seed the generator of their own process."""
    import random

    random.seed(value)


OWN = {"import": imported, "same": same, "plain": plain, "seed": seed, "replace": replace, "await": awaited}


def main():
    """Serves until the tests hang up, then ends at once, whatever the program has left to do."""
    for name, module in list(sys.modules.items()):
        if name != "__main__" and (getattr(module, "__file__", None) or "").startswith(sys.path[0]):
            del sys.modules[name]  # a program may have modules of these names
    sys.path[0] = os.getcwd()
    sys.stdout = Printed(sys.stdout)
    line = os.dup(LINE)  # not inherited by what the program executes
    os.close(LINE)
    try:
        ProgramEnd(line, sys.stdout).serve_for_ever()
    except Gone:
        os._exit(0)
    except BaseException as error:  # noqa: BLE001  a failure of ours; the tests see that the line ends
        os.write(2, f"{type(error).__name__}: {error}\n".encode(errors="replace"))
        os._exit(1)


if __name__ == "__main__":
    main()
