"""Plain values as bytes: what may cross between a program and its tests, with bounds, and nothing that runs code.

A value is a tag of one byte and what the tag asks for. Lists, dictionaries and other things that can be changed are
numbered as they come, so that one that comes twice is one at the other end too. What has no plain form crosses as a
handle: the number of an object that stays where it is, with a description.
"""

import _struct as struct  # what is below the modules of the library, which take longer to import than most tests run
import sys
from _collections import OrderedDict, defaultdict, deque  # pyright: ignore[reportMissingImports]

MAX_BYTES = 1 << 24  # of one frame
MAX_VALUES = 1 << 20
MAX_DEPTH = 120
MAX_HANDLES = 1 << 18

_CHANGEABLE = frozenset((list, dict, set, bytearray, deque, OrderedDict, defaultdict))
_TIMES = ("datetime", "date", "time", "timedelta", "timezone")
_LENGTH = struct.Struct(">I")
_NUMBER = struct.Struct(">q")
_FLOAT = struct.Struct(">d")
_COMPLEX = struct.Struct(">dd")


class Malformed(Exception):
    """Bytes that no honest sender writes."""


class CannotCross(Exception):
    """A value that has no form on the line: too deep, too large, or of a kind that must stay where it is."""


class Writer:
    """Values as bytes.

    Args:
        describe: what is said of an object without a plain form: an integer for one that lives at the other end, else a
            plain value that tells the other end what it is. Raises `CannotCross` where it must not be spoken of.
        known: `id` of changeable objects that came with the request which this answers -> their numbers there.
    """

    def __init__(self, describe, known=None):
        self.out = bytearray()
        self.changeable = []
        self._describe = describe
        self._known = known or {}
        self._places = {}
        self._depth = 0

    def put(self, value):
        """Appends a value. Raises `CannotCross`."""
        kind = type(value)
        out = self.out
        if kind is int:
            self._int(value)
        elif kind is str:
            self._block(b"s", value.encode("utf-8", "surrogatepass"))
        elif kind is float:
            out += b"f"
            out += _FLOAT.pack(value)
        elif value is None:
            out += b"N"
        elif kind is bool:
            out += b"T" if value else b"F"
        elif kind is tuple:
            self._many(b"t", value)
        elif kind in _CHANGEABLE or _is_counter(kind):
            self._container(value, kind)
        else:
            self._rare(value, kind)
        if len(out) > MAX_BYTES:
            raise CannotCross(f"A value of more than {MAX_BYTES} bytes cannot cross.")

    def _int(self, value):
        if -(1 << 63) <= value < 1 << 63:
            self.out += b"i"
            self.out += _NUMBER.pack(value)
        else:
            self._block(b"I", value.to_bytes(value.bit_length() // 8 + 1, "big", signed=True))

    def _block(self, tag, data):
        if len(data) > MAX_BYTES:
            raise CannotCross(f"A value of more than {MAX_BYTES} bytes cannot cross.")
        self.out += tag
        self.out += _LENGTH.pack(len(data))
        self.out += data

    def _many(self, tag, values):
        self.out += tag
        self.out += _LENGTH.pack(len(values))
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise CannotCross(f"A value nested deeper than {MAX_DEPTH} cannot cross.")
        for value in values:
            self.put(value)
        self._depth -= 1

    def _container(self, value, kind):
        place = self._known.get(id(value))
        if place is not None:
            self.out += b"A" + _LENGTH.pack(place)
            return
        place = self._places.get(id(value))
        if place is not None:
            self.out += b"R" + _LENGTH.pack(place)
            return
        self._places[id(value)] = len(self.changeable)
        self.changeable.append(value)
        if kind is list:
            self._many(b"l", value)
        elif kind is set:
            self._many(b"S", value)
        elif kind is bytearray:
            self._block(b"y", value)
        elif kind is deque:
            self._many(b"q", (value.maxlen, *value))
        else:
            tag = b"o" if kind is OrderedDict else b"C" if _is_counter(kind) else b"d"
            self._many(tag, [half for pair in value.items() for half in pair])

    def _rare(self, value, kind):
        if kind is bytes:
            self._block(b"b", value)
        elif kind is complex:
            self.out += b"c" + _COMPLEX.pack(value.real, value.imag)
        elif kind is frozenset:
            self._many(b"z", value)
        elif kind is range or kind is slice:
            self._many(b"r" if kind is range else b"L", (value.start, value.stop, value.step))
        elif value is Ellipsis or value is NotImplemented:
            self.out += b"E" if value is Ellipsis else b"X"
        elif _is_of(kind, "decimal", ("Decimal",)):
            self._block(b"m", str(value).encode())
        elif _is_of(kind, "fractions", ("Fraction",)):
            self._many(b"Q", (value.numerator, value.denominator))
        elif _is_of(kind, "datetime", _TIMES):
            self._many(b"D", _moment(value, kind.__name__))
        else:
            self._foreign(value)

    def _foreign(self, value):
        said = self._describe(value)
        self._many(b"Y" if type(said) is int else b"H", (said,))


def _is_counter(kind):
    return issubclass(kind, dict) and _is_of(kind, "collections", ("Counter",))


def _is_of(kind, module, names):
    """Whether a type is one of a module's, which is not imported for the question."""
    name = kind.__name__
    return kind.__module__ == module and name in names and getattr(sys.modules.get(module), name, None) is kind


def _moment(value, name):
    """A value of `datetime` as its name and arguments."""
    if name == "timedelta":
        return name, value.days, value.seconds, value.microseconds
    if name == "timezone":
        return name, value.utcoffset(None)
    if name == "date":
        return name, value.year, value.month, value.day
    zone = value.tzinfo
    if zone is not None and not _is_of(type(zone), "datetime", ("timezone",)):
        raise CannotCross("A time cannot cross with a time zone of its own making.")
    clock = (value.hour, value.minute, value.second, value.microsecond, zone, value.fold)
    return (name, *clock) if name == "time" else (name, value.year, value.month, value.day, *clock)


class Reader:
    """Bytes as values; the inverse of `Writer`. Trusts nothing.

    Args:
        foreign: the object that stands for one of the other end, by its description.
        own: the object of this end with that number.
        known: the changeable objects of the request that is answered, by their numbers.
    """

    def __init__(self, data, foreign, own, known=()):
        self.changeable = []
        self._data = data
        self._at = 0
        self._foreign = foreign
        self._own = own
        self._known = known
        self._depth = 0
        self._values = 0

    def done(self):
        """Raises `Malformed` where bytes are left."""
        if self._at != len(self._data):
            raise Malformed("There is more in the frame than it says.")

    def take(self):
        """The next value. Raises `Malformed`."""
        self._values += 1
        if self._values > MAX_VALUES:
            raise Malformed(f"More than {MAX_VALUES} values in a frame.")
        tag = self._bytes(1)
        if tag == b"i":
            return _NUMBER.unpack(self._bytes(8))[0]
        take = _TAKE.get(tag)
        if take is None:
            raise Malformed("A tag that does not exist.")
        try:
            return take(self)
        except (ValueError, TypeError, ArithmeticError, LookupError) as error:
            raise Malformed(f"{type(error).__name__}: a value that cannot be.") from None

    def _bytes(self, count):
        end = self._at + count
        if end > len(self._data):
            raise Malformed("A frame that ends within a value.")
        data = self._data[self._at : end]
        self._at = end
        return data

    def _length(self):
        return _LENGTH.unpack(self._bytes(4))[0]

    def _block(self):
        return self._bytes(self._length())

    def _many(self, into=None):
        count = self._length()
        if count > len(self._data) - self._at:
            raise Malformed("More values than bytes.")
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise Malformed(f"Values nested deeper than {MAX_DEPTH}.")
        values = [] if into is None else into
        for _ in range(count):
            values.append(self.take())
        self._depth -= 1
        return values

    def _list(self):
        self.changeable.append([])
        return self._many(self.changeable[-1])

    def _fill(self, container, fill):
        """A container that is numbered before what lies in it."""
        self.changeable.append(container)
        fill(self._many())
        return container

    def _dict(self, kind):
        made = kind()

        def fill(halves):
            if len(halves) % 2:
                raise Malformed("A key without a value.")
            for key, value in zip(halves[::2], halves[1::2], strict=True):
                made[key] = value

        return self._fill(made, fill)

    def _counter(self):
        import collections

        return self._dict(collections.Counter)

    def _set(self):
        made = set()
        return self._fill(made, made.update)

    def _bytearray(self):
        self.changeable.append(bytearray(self._block()))
        return self.changeable[-1]

    def _deque(self):
        place = len(self.changeable)
        self.changeable.append(None)  # a deque learns its length from its first value
        values = self._many()
        self.changeable[place] = deque(values[1:], values[0])
        return self.changeable[place]

    def _whole(self, count):
        values = self._many()
        if len(values) != count or not all(type(value) is int for value in values):
            raise Malformed("Not the integers that were to come.")
        return values

    def _slice(self):
        return slice(*self._exactly(3))

    def _exactly(self, count):
        values = self._many()
        if len(values) != count:
            raise Malformed("Not as many values as were to come.")
        return values

    def _moment(self):
        import datetime

        name, *arguments = self._many()
        if type(name) is not str or name not in _TIMES or not 0 < len(arguments) <= 9:
            raise Malformed("No such kind of time.")
        if name in ("time", "datetime"):
            *arguments, fold = arguments
            return getattr(datetime, name)(*arguments).replace(fold=fold)
        return getattr(datetime, name)(*arguments)

    def _decimal(self):
        import decimal

        return decimal.Decimal(self._block().decode("ascii"))

    def _fraction(self):
        import fractions

        return fractions.Fraction(*self._whole(2))

    def _one_of(self, table):
        place = self._length()
        if place >= len(table) or table[place] is None:
            raise Malformed("No such object.")
        return table[place]

    def _own_object(self):
        (number,) = self._whole(1)
        return self._own(number)


_TAKE = {
    b"N": lambda reader: None,
    b"T": lambda reader: True,
    b"F": lambda reader: False,
    b"I": lambda reader: int.from_bytes(reader._block(), "big", signed=True),
    b"f": lambda reader: _FLOAT.unpack(reader._bytes(8))[0],
    b"c": lambda reader: complex(*_COMPLEX.unpack(reader._bytes(16))),
    b"s": lambda reader: reader._block().decode("utf-8", "surrogatepass"),
    b"b": lambda reader: bytes(reader._block()),
    b"y": Reader._bytearray,
    b"l": Reader._list,
    b"t": lambda reader: tuple(reader._many()),
    b"S": Reader._set,
    b"z": lambda reader: frozenset(reader._many()),
    b"d": lambda reader: reader._dict(dict),
    b"o": lambda reader: reader._dict(OrderedDict),
    b"C": Reader._counter,
    b"q": Reader._deque,
    b"r": lambda reader: range(*reader._whole(3)),
    b"L": Reader._slice,
    b"m": Reader._decimal,
    b"Q": Reader._fraction,
    b"E": lambda reader: Ellipsis,
    b"X": lambda reader: NotImplemented,
    b"D": Reader._moment,
    b"R": lambda reader: reader._one_of(reader.changeable),
    b"A": lambda reader: reader._one_of(reader._known),
    b"H": lambda reader: reader._foreign(reader._exactly(1)[0]),
    b"Y": Reader._own_object,
}
