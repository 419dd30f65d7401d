"""What stands for an object of the other end: whatever is done to it is asked there."""

import _operator as operator
import builtins

SLOTS = ("_wire_end_", "_wire_number_", "_wire_free_", "_wire_base_", "_wire_name_")


class Proxy:
    """Stands for an object of the other end: whatever is done to it is asked there."""

    __slots__ = SLOTS

    def __getattribute__(self, name):
        if name in _LOCAL:
            return object.__getattribute__(self, name)
        return object.__getattribute__(self, "_wire_end_").operate("get", self, name)

    def __setattr__(self, name, value):
        self._wire_end_.operate("set", self, name, value)

    def __delattr__(self, name):
        self._wire_end_.operate("del", self, name)

    @property
    def __class__(self):  # pyright: ignore[reportIncompatibleMethodOverride]
        base = self._wire_base_
        return type(self) if base is None else type(base)

    def __eq__(self, other):
        return self._wire_end_.equal(self, other)

    def __ne__(self, other):
        return self._wire_end_.unequal(self, other)

    def __hash__(self):
        return self._wire_end_.hash(self)

    def __bool__(self):
        return exact(bool, self._wire_end_.operate("bool", self))

    def __str__(self):
        return exact(str, self._wire_end_.operate("str", self))

    def __repr__(self):
        return exact(str, self._wire_end_.operate("repr", self))

    def __dir__(self):
        return [name for name in self._wire_end_.operate("dir", self) if type(name) is str]

    def __contains__(self, value):
        return self._wire_end_.contains(self, value)

    def __instancecheck__(self, value):
        return type(value) in PROXIES and exact(bool, self._wire_end_.operate("isinstance", value, self))

    def __subclasscheck__(self, value):
        return type(value) in PROXIES and exact(bool, self._wire_end_.operate("issubclass", value, self))

    def __exit__(self, kind, error, traceback):
        return self._wire_end_.operate("exit", self, kind, error, None)

    def __deepcopy__(self, memory):
        return self._wire_end_.operate("deepcopy", self)

    def __copy__(self):
        return self._wire_end_.operate("copy", self)

    def __reduce_ex__(self, protocol):
        raise TypeError("An object of the program cannot be pickled by its tests.")

    def __mro_entries__(self, bases):
        raise TypeError("Tests cannot derive a class from one of the program, which lives elsewhere.")


class Callable(Proxy):
    """One that can be called."""

    __slots__ = ()

    def __call__(self, *arguments, **named):
        return self._wire_end_.call(self, arguments, named)


class Awaitable(Proxy):
    """A coroutine, which runs to its end at the other end when it is waited for."""

    __slots__ = ()

    def __await__(self):
        return self._wire_end_.operate("await", self)
        yield  # so that it is an iterator, of nothing


PROXIES = frozenset((Proxy, Callable, Awaitable))
_LOCAL = frozenset((*SLOTS, "__class__", "__deepcopy__", "__copy__", "__reduce_ex__", "__mro_entries__"))
_UNARY = ("len", "iter", "next", "int", "float", "complex", "index", "abs", "neg", "pos", "invert", "trunc", "floor")
_UNARY += ("ceil", "reversed", "enter")
_BINARY = ("lt", "le", "gt", "ge", "add", "sub", "mul", "truediv", "floordiv", "mod", "divmod", "matmul", "and", "or")
_BINARY += ("xor", "lshift", "rshift", "pow", "iadd", "isub", "imul", "iand", "ior", "ixor", "getitem", "delitem")
_BINARY += ("round", "format", "setitem")
_ANSWERS = {"len": int, "index": int, "int": int, "float": float, "complex": complex, "format": str}


def _special(name):
    """The method of a proxy for an operator."""
    kind = _ANSWERS.get(name)

    def method(self, *operands):
        value = self._wire_end_.operate(name, self, *operands)
        return value if kind is None else exact(kind, value)

    return method


def _reflected(name):
    def method(self, other):
        return self._wire_end_.operate(name, other, self)

    return method


for _each in (*_UNARY, *_BINARY):
    setattr(Proxy, f"__{_each}__", _special(_each))
for _each in ("add", "sub", "mul", "truediv", "floordiv", "mod", "divmod", "matmul", "and", "or", "xor", "pow"):
    setattr(Proxy, f"__r{_each}__", _reflected(_each))


def exact(kind, value):
    if type(value) is not kind:
        raise TypeError(f"The program's answer is no {kind.__name__}.")
    return value


def number_of(proxy):
    """Of the object that it stands for, at the other end."""
    return proxy._wire_number_


def plain_base(value, kind) -> tuple:
    """(What a built-in class that the object's own class derives from holds of it,), or () where there is none."""
    if issubclass(kind, int):
        return (int.__int__(value),)
    if issubclass(kind, float):
        return (float.__float__(value),)
    if issubclass(kind, str):
        return (str.__str__(value),)
    if issubclass(kind, bytes):
        return (bytes(memoryview(value)),)
    for base in (list, tuple, set, frozenset):
        if issubclass(kind, base):
            return (base(base.__iter__(value)),)
    return (dict(dict.items(value)),) if issubclass(kind, dict) else ()


def special_of(value, name):
    """A method that the interpreter would look for in the class alone."""
    method = getattr(type(value), name, None)
    if method is None:
        raise TypeError(f"{type(value).__name__} object has no {name}")
    return method


def _enter(value):
    return special_of(value, "__enter__")(value)


def _exit(value, kind, error, traceback):
    return special_of(value, "__exit__")(value, kind, error, error.__traceback__ if error is not None else None)


def _copying():
    import copy

    return copy


OPERATIONS = {
    "get": getattr,
    "set": setattr,
    "del": delattr,
    "enter": _enter,
    "exit": _exit,
    "setitem": operator.setitem,
    "and": operator.and_,
    "or": operator.or_,
    "deepcopy": lambda value: _copying().deepcopy(value),
    "copy": lambda value: _copying().copy(value),
    "trunc": lambda value: special_of(value, "__trunc__")(value),
    "floor": lambda value: special_of(value, "__floor__")(value),
    "ceil": lambda value: special_of(value, "__ceil__")(value),
}
"""What can be asked besides `call`, by the names above."""
for _each in ("len", "bool", "str", "repr", "hash", "iter", "next", "int", "float", "complex", "dir", "reversed"):
    OPERATIONS[_each] = getattr(builtins, _each)
for _each in ("divmod", "round", "format", "isinstance", "issubclass", "abs"):
    OPERATIONS[_each] = getattr(builtins, _each)
for _each in (*_UNARY, *_BINARY, "eq", "ne", "contains"):
    if _each not in OPERATIONS:
        OPERATIONS[_each] = getattr(operator, _each)
