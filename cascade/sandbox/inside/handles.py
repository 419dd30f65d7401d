"""Objects that stay where they are: what is said of them on the line, and what is made of what is said."""

from stand_ins import PROXIES, SLOTS, Awaitable, Callable, Proxy, exact, number_of, plain_base
from wire import MAX_HANDLES, CannotCross, Malformed, Writer

MAX_BASES = 16
STANDS_FOR = "_wire_stands_for_"
SAID = "_wire_said_"


class Handles:
    """The objects of this end that the other knows by number, and what stands for those of the other.

    What may be said and what is understood is for the classes derived from this one.
    """

    def __init__(self):
        self.free = 0  # how far objects that arrive now are trusted: see `seen_by_tests`
        self._objects = []  # of this end that the other knows, by number
        self._numbers = {}  # id -> number
        self._stands = {}  # id of an exception of the other end -> its number there
        self._proxies = {}  # number -> what stands for an object of the other end

    def describe(self, value):
        """What is said of an object without a plain form. Raises `CannotCross`."""
        kind = type(value)
        if kind in PROXIES:
            return number_of(value)
        if isinstance(value, type):
            return self._describe_class(value)
        if isinstance(value, BaseException):
            if id(value) in self._stands:
                return self._stands[id(value)]
            arguments = tuple(argument if self._crosses(argument) else repr(argument) for argument in value.args)
            return "raised", self._number(value), kind, arguments, _text(value)
        name = self.name_of(value)
        if name:
            return "type", name
        self.exported(value)
        base = plain_base(value, kind)
        return ("object", self._number(value), _name(kind), callable(value), *base)

    def _describe_class(self, value):
        number = value.__dict__.get(STANDS_FOR)
        if type(number) is int and issubclass(value, BaseException):
            return number
        name = self.name_of(value)
        if name:
            return "type", name
        if issubclass(value, BaseException):
            bases = tuple(value.__bases__)[:MAX_BASES]
            return "exception", self._number(value), _name(value), bases, f"{value.__module__}"
        self.exported(value)
        return "object", self._number(value), _name(type(value)), True

    def _crosses(self, value):
        try:
            Writer(self.describe).put(value)
        except (CannotCross, RecursionError):
            return False
        return True

    def _number(self, value):
        number = self._numbers.get(id(value))
        if number is None:
            if len(self._objects) >= MAX_HANDLES:
                raise CannotCross("Too many objects.")
            number = self._numbers[id(value)] = len(self._objects)
            self._objects.append(value)
        return number

    def own(self, number):
        """The object of this end with a number. Raises `Malformed`."""
        if not 0 <= number < len(self._objects):
            raise Malformed("It speaks of an object that it was not given.")
        return self._objects[number]

    def is_own(self, value):
        """Whether the other end has been given this very object."""
        number = self._numbers.get(id(value))
        return number is not None and self._objects[number] is value

    def foreign(self, said):
        """What stands for an object of the other end. Raises `Malformed`."""
        if type(said) is not tuple or len(said) < 2 or type(said[0]) is not str:
            raise Malformed("Not a description.")
        what, number, *more = said
        if what == "type" and type(number) is str and not more:
            return self.named(number)
        if type(number) is not int or number < 0:
            raise Malformed("Not the number of an object.")
        if what == "object" and len(more) in (2, 3) and type(more[0]) is str and type(more[1]) is bool:
            return self._proxy(number, *more)
        if what == "exception" and len(more) == 3:
            return self._exception_class(number, *more)
        if what == "raised" and len(more) == 3:
            return self._exception(number, *more)
        raise Malformed("Not a description.")

    def _proxy(self, number, name, calls, base=None):
        proxy = self._proxies.get(number)
        if proxy is None:
            self._room_for_one_more()
            proxy = object.__new__(Callable if calls else Awaitable if name == "coroutine" else Proxy)
            for slot, value in zip(SLOTS, (self, number, self.free, base, name[:200]), strict=True):
                object.__setattr__(proxy, slot, value)
            self._proxies[number] = proxy
        else:
            object.__setattr__(proxy, "_wire_base_", base)
            object.__setattr__(proxy, "_wire_free_", min(self.free, proxy._wire_free_))
        return proxy

    def _room_for_one_more(self):
        if len(self._proxies) >= MAX_HANDLES:
            raise Malformed("Too many objects.")

    def _exception_class(self, number, name, bases, module):
        made = self._proxies.get(("class", number))
        if made is None:
            self._room_for_one_more()
            if type(name) is not str or type(module) is not str or type(bases) is not tuple or len(bases) > MAX_BASES:
                raise Malformed("Not an exception class.")
            if self.known_exception(module, name):
                return self.known_exception(module, name)
            bases = tuple(base for base in bases if isinstance(base, type) and issubclass(base, BaseException))
            body = {STANDS_FOR: number, "__module__": "program", "__str__": _said}
            body["__getattr__"] = lambda error, name: self._attribute(error, name)
            try:
                made = type(name[:200], bases or (Exception,), body)
            except TypeError:  # bases that go together there, and not here
                made = type(name[:200], (Exception,), body)
            self._proxies["class", number] = made
        return made

    def _attribute(self, error, name):
        number = error.__dict__.get(STANDS_FOR)
        if name.startswith("__") or type(number) is not int:
            raise AttributeError(name)
        return self.ask("get", error, name)

    def _exception(self, number, kind, arguments, text):
        made = self._proxies.get(("raised", number))
        if made is None:
            self._room_for_one_more()
            if not isinstance(kind, type) or not issubclass(kind, BaseException):
                raise Malformed("Not the class of an exception.")
            if type(arguments) is not tuple or type(text) is not str:
                raise Malformed("Not an exception.")
            made = _instance(kind, arguments)
            if kind.__dict__.get(STANDS_FOR) is not None:
                made.__dict__.update({STANDS_FOR: number, SAID: text})
            self._proxies["raised", number] = made
            self._stands[id(made)] = number
        return made

    # ------------------------------------------------------------------ for the classes derived from this one

    def ask(self, name, /, *operands, **named):
        """The answer to a question."""
        raise NotImplementedError

    def perform(self, name, operands, named):
        """The answer to a question of the other end."""
        raise NotImplementedError

    def exported(self, value):
        """Raises `CannotCross` where the other end must not get hold of an object."""

    def name_of(self, value):
        """What both ends call a class or a function; empty where only this one has it."""
        raise NotImplementedError

    def named(self, name):
        """The inverse of `name_of`. Raises `Malformed`."""
        raise NotImplementedError

    def known_exception(self, module, name) -> type | None:
        """This end's own class, where an exception of the standard library is meant; else None."""
        return None

    def said(self):
        """What has been printed while the latest question was answered."""
        return ""

    def heard(self, text):
        """Takes what the other end has printed."""

    def call(self, proxy, arguments, named):
        """What a proxy does when it is called."""
        return self.ask("call", proxy, *arguments, **named)

    def hash(self, proxy):
        """Its hash."""
        return exact(int, self.ask("hash", proxy))

    def contains(self, proxy, value):
        """Whether a proxy holds a value."""
        return exact(bool, self.ask("contains", proxy, value))

    def unequal(self, proxy, other):
        """What a proxy is unequal to."""
        return self.operate("ne", proxy, other)

    def operate(self, name, *operands):
        """What a proxy does when an operator is applied to it."""
        return self.ask(name, *operands)

    def equal(self, proxy, other):
        """What a proxy is equal to."""
        return self.operate("eq", proxy, other)


def _said(error):
    text = error.__dict__.get(SAID)
    return text if type(text) is str else BaseException.__str__(error)


def _instance(kind, arguments):
    """An exception without running more of its class than the built-in part."""
    for given in (arguments, ()):
        try:
            made = kind(*given)
        except Exception:  # noqa: BLE001  classes differ in what they can be made of
            continue
        if isinstance(made, BaseException):
            made.args = arguments
            return made
    return RuntimeError(*arguments)


def _text(error):
    try:
        return str(error)[:10_000]
    except Exception:  # noqa: BLE001  a `__str__` of the program's
        return ""


def _name(kind):
    name = kind.__name__
    return name if type(name) is str else ""
