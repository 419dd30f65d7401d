"""The tests' end: the program as its tests see it, and what the program may ask of the tests' own objects.

The program is hostile. Nothing that it says is more than a plain value, a number for an object of its own, or a name
from a short list; what tests compare are their own copies. What it is told must not help it to lie: an object of the
program never learns what a plain value is that it is compared with.
"""

import builtins
import io
import itertools
import sys
import types

from remote import End
from stand_ins import OPERATIONS, PROXIES
from wire import CannotCross, Malformed

TYPES = ("object", "int", "float", "complex", "bool", "str", "bytes", "bytearray", "list", "tuple", "dict", "set")
TYPES += ("frozenset", "range", "slice", "type", "memoryview", "property", "enumerate", "zip", "map", "filter")
NOT_RAISED = ("KeyboardInterrupt", "GeneratorExit")  # they would end more than a test
EXCEPTIONS_OF = ("json.decoder", "decimal", "queue", "struct", "binascii", "zlib", "re", "statistics", "configparser")
EXCEPTIONS_OF += ("dataclasses", "csv", "_csv", "graphlib", "ipaddress", "copy", "getopt", "argparse", "string")
ASKED_FREELY = ("get", "set", "del", "len", "iter", "next", "bool", "str", "repr", "dir", "enter", "exit", "reversed")
ASKED_FREELY += ("getitem", "setitem", "delitem", "deepcopy", "copy", "await", "isinstance", "issubclass", "format")
MAKES, MADE = 2, 1  # a class that tests name, or its method; an object that they have made by one
PREDICATES = ("startswith", "endswith", "issubset", "issuperset", "isdisjoint", "difference", "symmetric_difference")
REPLACEABLE = ((builtins, "input"), (builtins, "print"), (builtins, "open"), (sys, "stdin"))
OWN = {name: getattr(module, name) for module, name in REPLACEABLE}
NAMES_OF_FUNCTIONS = ("__name__", "__qualname__", "__doc__")
SPECIAL = ("__enter__", "__exit__", "__call__", "__len__", "__iter__", "__next__", "__getitem__", "__contains__")
OF_ITERATORS = ("send", "close", "throw")
FUNCTIONS = (
    types.FunctionType,
    types.MethodType,
    types.BuiltinFunctionType,
    types.MethodDescriptorType,
    types.MethodWrapperType,
    types.WrapperDescriptorType,
)
IN_MEMORY = (io.StringIO, io.BytesIO)  # as they are before tests replace them
MOST_ITERATED = 1 << 20


def is_proxy(value):
    """Whether it is an object of the program; `isinstance` would ask the object."""
    return type(value) in PROXIES


class TestsEnd(End):
    """See above. `modules`: names of the tests' own modules."""

    def __init__(self, descriptor, modules):
        super().__init__(descriptor)
        self._modules = modules
        self._replaced = {}

    # ------------------------------------------------------------------ what tests do with the program's objects

    def operate(self, name, *operands):
        """Operators between an object of the program and plain values are computed there only for objects that the
        tests have made themselves, by a class that they name; to others the value would tell what is expected."""
        proxies = [operand for operand in operands if is_proxy(operand)]
        if name == "get" and operands[1] in PREDICATES and not proxies[0]._wire_free_:
            return getattr(self._plain_or_refused(proxies[0], operands[1]), operands[1])
        free = min(proxy._wire_free_ for proxy in proxies)
        if name not in ASKED_FREELY and not free and len(proxies) < len(operands):
            return OPERATIONS[name](*(self._plain_or_refused(operand, name) for operand in operands))
        return self._asked_freely(free, name, *operands)

    def _plain_or_refused(self, value, name):
        plain = self.plain(value)
        if is_proxy(plain):
            raise TypeError(f"`{name}` of a plain value and an object of the program that is none.")
        return plain

    def _asked_freely(self, free, name, /, *operands, **named):
        """A `StopIteration` from anything but an iterator would silently end the loop that it comes out of."""
        before, self.free = self.free, _arriving(name, free)
        try:
            return self.ask(name, *operands, **named)
        except StopIteration as error:
            if name == "next":
                raise
            raise RuntimeError(f"`{name}` raised StopIteration({error}).") from None
        finally:
            self.free = before

    def call(self, proxy, arguments, named):
        self._tell_what_is_replaced()
        return self._asked_freely(proxy._wire_free_, "call", proxy, *arguments, **named)

    def _tell_what_is_replaced(self):
        """Tests that replace `input` or `print` mean the program's."""
        for module, name in REPLACEABLE:
            now = getattr(module, name)
            if now is not self._replaced.get(name, OWN[name]):
                self._replaced[name] = now
                self.ask("replace", module.__name__, name, None if now is OWN[name] else now)

    def get_of_module(self, module, name):
        """A module's attribute. Classes are known by their capital: what they make is made by the tests."""
        return self._asked_freely(MAKES * name.lstrip("_")[:1].isupper(), "get", module, name)

    def plain(self, value):
        """The plain value that an object of a class derived from a built-in one holds; else the object itself."""
        if not is_proxy(value) or value._wire_base_ is None:
            return value
        base = value._wire_base_
        if type(base) in (list, dict, set):  # may have changed since
            now = self.ask("plain", value)
            if type(now) is not type(base):
                raise TypeError("An object of the program has another base than before.")
            return now
        return base

    def equal(self, proxy, other):
        """An object of the program is never equal to a plain value, and to another if the program consistently
        says so: not if it is unequal at the same time, or equal to anything."""
        one, two = self.plain(proxy), self.plain(other)
        if is_proxy(one) and is_proxy(two):
            return self.ask("same", one, two) == (True, False, False, False)
        if is_proxy(one) or is_proxy(two):
            return False
        return one == two

    def unequal(self, proxy, other):
        """Not simply the opposite: who is inconsistent is neither."""
        one, two = self.plain(proxy), self.plain(other)
        if is_proxy(one) and is_proxy(two):
            said = self.ask("same", one, two)
            return type(said) is tuple and said[:2] == (False, True)
        return True if is_proxy(one) or is_proxy(two) else one != two

    def hash(self, proxy):
        value = self.plain(proxy)
        return super().hash(proxy) if is_proxy(value) else hash(value)

    def contains(self, proxy, value):
        if proxy._wire_free_ or is_proxy(value):
            return super().contains(proxy, value)
        held = self.plain(proxy)
        if not is_proxy(held):
            return value in held
        return any(each == value for each in itertools.islice(iter(proxy), MOST_ITERATED))

    def heard(self, text):
        sys.stdout.write(text)

    # ------------------------------------------------------------------ names

    def name_of(self, value):
        if isinstance(value, type):
            module = value.__module__
            return f"{module}:{value.__qualname__}" if module not in self._modules and module != "program" else ""
        if type(value) is types.MethodDescriptorType and value.__objclass__.__module__ == "builtins":
            return f"builtins:{value.__objclass__.__name__}.{value.__name__}"
        if type(value) is types.BuiltinFunctionType and value.__self__ is builtins:
            return f"builtins:{value.__name__}"
        return ""

    def named(self, name):
        found = getattr(builtins, name.partition(":")[2], None)
        if not name.startswith("builtins:") or not isinstance(found, type):
            raise Malformed("No class that both ends have.")
        if issubclass(found, BaseException):
            return STAND_INS.get(found.__name__, found)
        if found.__name__ not in TYPES:
            raise Malformed("No class that both ends have.")
        return found

    def known_exception(self, module, name):
        found = getattr(sys.modules.get(module), name, None) if module in EXCEPTIONS_OF else None
        return found if isinstance(found, type) and issubclass(found, Exception) else None

    # ------------------------------------------------------------------ what the program does with the tests' objects

    def exported(self, value):
        """Functions, iterators, files in memory, mocks, and objects of classes that the tests define."""
        if isinstance(value, type):
            allowed = value.__module__ in self._modules
        else:
            allowed = isinstance(value, (*FUNCTIONS, *IN_MEMORY)) or type(value) is object
            allowed = allowed or _is_iterator(value) or _is_mock(value) or type(value).__module__ in self._modules
            allowed = allowed or type(value).__module__ in ("functools", "operator")
        if not allowed or _is_test(value):
            raise CannotCross(f"Tests cannot pass a {type(value).__name__} to the program, which lives elsewhere.")

    def perform(self, name, operands, named):
        """Raises `PermissionError` for what the program must not do."""
        if not any(self.is_own(operand) for operand in operands[:2] if not is_proxy(operand)):
            raise PermissionError("Tests do that with their own objects only.")
        target = operands[0]
        if name == "call":
            if not self.is_own(target) or is_proxy(target):
                raise PermissionError("That is nothing to call.")
            return target(*operands[1:], **named)
        if name in ("get", "set", "del"):
            _touch(target, operands[1] if len(operands) > 1 else None, name)
        if name not in OPERATIONS or name in ("dir", "deepcopy", "copy"):
            raise PermissionError(f"Tests do not do {name}.")
        return OPERATIONS[name](*operands)


def _arriving(name, free):
    """How far an object is trusted that an operation on another comes to; what methods return is what tests judge."""
    if name in ("get", "call"):
        return (MAKES if name == "get" else MADE) if free == MAKES else 0
    return min(free, MADE) if name in ("enter", "copy", "deepcopy") or name not in ASKED_FREELY else 0


STAND_INS = {name: type(name, (BaseException,), {"__module__": "program"}) for name in NOT_RAISED}


def _is_iterator(value):
    kind = type(value)
    return kind.__module__ in ("builtins", "itertools") and hasattr(kind, "__next__")


def _mocks():
    module = sys.modules.get("unittest.mock")
    return module.NonCallableMock if module else ()


def _is_mock(value):
    return bool(_mocks()) and issubclass(type(value), _mocks())


def _is_test(value):
    case = sys.modules.get("unittest.case")
    return case is not None and issubclass(value if isinstance(value, type) else type(value), case.TestCase)


def _touch(target, name, how):
    """Raises `PermissionError` for an attribute that leads to the tests' inside, or to what counts calls."""
    if type(name) is not str or is_proxy(target):
        raise PermissionError("Not the name of an attribute.")
    if how == "get" and name in NAMES_OF_FUNCTIONS:
        return
    if _is_iterator(target):
        allowed = how == "get" and name in OF_ITERATORS
    elif _is_mock(target):
        allowed = how == "get" and (name in SPECIAL or name not in dir(_mocks()))
    elif isinstance(target, type):
        allowed = how == "get" and name not in dir(type)
    else:
        allowed = not isinstance(target, FUNCTIONS) and type(target).__module__ not in ("functools", "operator")
    special = how == "get" and name in SPECIAL
    if not allowed or (name.startswith("_") and not special):
        raise AttributeError(name)


def compares_plain_values(case):
    """Makes assertions that ask their operands more than equality refuse an object of the program for a plain value."""

    def refusing(method):
        def assertion(self, first, second, *arguments, **named):
            end = next((each._wire_end_ for each in (first, second) if is_proxy(each)), None)
            if end is not None:
                first, second = end.plain(first), end.plain(second)
            if is_proxy(first) != is_proxy(second):
                raise self.failureException("An object of the program stands in the place of a plain value.")
            return method(self, first, second, *arguments, **named)

        return assertion

    for name in ("AlmostEqual", "NotAlmostEqual", "Greater", "GreaterEqual", "Less", "LessEqual", "SetEqual"):
        setattr(case, f"assert{name}", refusing(getattr(case, f"assert{name}")))
