"""One end of the line between a program and its tests: calls that go over it, and objects that stay where they are.

The two ends ask each other in turn, each answer belonging to the latest question that has none. A question is an
operation with operands; the answer is a value or an exception, and what the operation has changed in the lists,
dictionaries and sets among its operands. What each end lets be asked of its objects is for the classes derived here.
"""

import _struct as struct
import _thread
import os

from changes import contents, is_as_before, refill, snapshot
from handles import Handles
from wire import MAX_BYTES, Malformed, Reader, Writer

MAX_NESTED = 60  # questions that wait for an answer at once
CHUNK_BYTES = 1 << 16
ASKED, ANSWERED, RAISED = b"?", b"=", b"!"
_HEADER = struct.Struct(">IcQ")


class Gone(BaseException):
    """The other end has hung up, or broken the rules. No `except Exception` takes it for a program's exception."""


class End(Handles):
    """See above. `descriptor`: of a connected socket."""

    def __init__(self, descriptor):
        super().__init__()
        self.broken = ""
        self._descriptor = descriptor
        self._lock = _thread.RLock()
        self._buffer = bytearray()
        self._asked = 0
        self._nested = 0

    # ------------------------------------------------------------------ questions

    def ask(self, name, /, *operands, **named):
        """The answer to a question. Raises what the other end raises, `CannotCross`, and `Gone`."""
        with self._lock:
            if self.broken:
                raise Gone(self.broken)
            self._asked += 1
            number = self._asked
            writer = Writer(self.describe)
            for part in (name, operands, named):
                writer.put(part)
            self._nested += 1
            try:
                if self._nested > MAX_NESTED:
                    raise RecursionError("Program and tests call each other too deeply.")
                self._send(ASKED, number, writer.out)
                return self._answer(number, writer.changeable)
            finally:
                self._nested -= 1

    def _answer(self, number, changeable):
        free = self.free
        while True:
            mark, count, data = self._receive()
            self.free = free
            if mark == ASKED:
                self._serve(count, data)
                continue
            if count != number or mark not in (ANSWERED, RAISED):
                self._break("It answers what was not asked.")
            try:
                reader = Reader(data, self.foreign, self.own, changeable)
                value, changes, said = reader.take(), reader.take(), reader.take()
                reader.done()
                self._apply(changes, changeable)
                if type(said) is not str:
                    raise Malformed("It prints what is no text.")
                if mark == RAISED and not isinstance(value, BaseException):
                    raise Malformed("It raises what is no exception.")
            except Exception as error:  # noqa: BLE001  whatever its bytes do to the reader
                self._break(f"Its answer is malformed. {error}")
            if said:
                self.heard(said)
            if mark == RAISED:
                raise value
            return value

    def _apply(self, changes, changeable):
        if type(changes) is not tuple:
            raise Malformed("Not a list of changes.")
        for change in changes:
            if type(change) is not tuple or len(change) != 2 or type(change[0]) is not int:
                raise Malformed("Not a change.")
            if not 0 <= change[0] < len(changeable):
                raise Malformed("A change of nothing that was given.")
            refill(changeable[change[0]], change[1])

    def serve_for_ever(self):
        """Answers until the other end hangs up. Raises `Gone` then."""
        while True:
            mark, number, data = self._receive()
            if mark != ASKED:
                self._break("It answers what was not asked.")
            self._serve(number, data)

    def _serve(self, number, data):
        reader = Reader(data, self.foreign, self.own)
        try:
            name, operands, named = reader.take(), reader.take(), reader.take()
            reader.done()
            if type(name) is not str or type(operands) is not tuple or type(named) is not dict:
                raise Malformed("Not a question.")
            if not all(type(key) is str for key in named):
                raise Malformed("Not the names of arguments.")
        except Exception as error:  # noqa: BLE001  whatever its bytes do to the reader
            self._break(f"Its question is malformed. {error}")
        before = [snapshot(container) for container in reader.changeable]
        free, self.free = self.free, 0
        self._nested += 1
        try:
            if self._nested > MAX_NESTED:
                raise RecursionError("Program and tests call each other too deeply.")
            mark, value = ANSWERED, self.perform(name, operands, named)
        except Gone:
            raise
        except BaseException as error:  # noqa: BLE001  whatever it is, the other end gets it
            mark, value = RAISED, error
        finally:
            self._nested -= 1
            self.free = free
        self._reply(number, mark, value, reader.changeable, before)

    def _reply(self, number, mark, value, given, before):
        known = {id(container): place for place, container in enumerate(given)}
        try:
            changes = tuple(
                (place, contents(container))
                for place, (container, then) in enumerate(zip(given, before, strict=True))
                if not is_as_before(container, then)
            )
            writer = Writer(self.describe, known)
            for part in (value, changes, self.said()):
                writer.put(part)
        except Exception as error:  # noqa: BLE001  e.g. a value that is too large, or lies about its own length
            mark, writer = RAISED, Writer(self.describe)
            for part in (RuntimeError(f"{type(error).__name__}: {error}"[:500]), (), ""):
                writer.put(part)
        self._send(mark, number, writer.out)

    # ------------------------------------------------------------------ bytes

    def _send(self, mark, number, data):
        if self.broken:
            raise Gone(self.broken)
        frame = memoryview(_HEADER.pack(len(data), mark, number) + data)
        try:
            while frame:
                frame = frame[os.write(self._descriptor, frame) :]
        except OSError as error:
            self._break(f"It has hung up ({type(error).__name__}).")

    def _receive(self):
        length, mark, number = _HEADER.unpack(self._exactly(_HEADER.size))
        if length > MAX_BYTES + CHUNK_BYTES:
            self._break("It sends more at once than may be sent.")
        return mark, number, self._exactly(length)

    def _exactly(self, count):
        buffer = self._buffer
        while len(buffer) < count:
            try:
                data = os.read(self._descriptor, max(CHUNK_BYTES, min(count - len(buffer), MAX_BYTES)))
            except OSError:
                data = b""
            if not data:
                self._break("It has ended, or hung up, before it answered.")
            buffer += data
        data = bytes(buffer[:count])
        del buffer[:count]
        return data

    def _break(self, why):
        self.broken = self.broken or why
        raise Gone(self.broken)
