"""Programs that try to pass tests without being right, by what they try."""

from __future__ import annotations

WRONG = """
def f(*a): return 5
def is_even(n): return True
"""

REPORT = r"""
import json, os, sys, glob, re
def say():
    for word in ("0" * 32, "", "OK", "ok", "passed"):
        text = word + ' {"tests": [["t", "passed", ""]], "broken": "", "clean": true}\n'
        for descriptor in (1, 2):
            os.write(descriptor, text.encode())
    os.write(2, b"\n" + b"-" * 70 + b"\nRan 7 tests in 0.001s\n\nOK\n")
    print("============ 7 passed in 0.01s ============")
"""

FORGE = r"""
import os, struct, sys, threading
HEADER = struct.Struct(">IcQ")
def lines():
    for descriptor in range(3, 64):
        try:
            os.fstat(descriptor)
        except OSError:
            continue
        yield descriptor
def frame(mark, number, body): return HEADER.pack(len(body), mark, number) + body
def send(data):
    for descriptor in lines():
        try:
            os.write(descriptor, data)
        except OSError:
            pass
TRUE = b"T" + b"t\0\0\0\0" + b"s\0\0\0\0"
"""

LIAR = """
class Liar{base}:
    def always(self, *arguments, **named): return True
    __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = __bool__ = __contains__ = always
    __instancecheck__ = __subclasscheck__ = always
    def __sub__(self, other): return 0.0
    __rsub__ = __sub__
    def same(self, *arguments): return self
    __add__ = __radd__ = __mul__ = __rmul__ = __abs__ = __neg__ = __round__ = __call__ = __getitem__ = same
    def __hash__(self): return 1
    def __len__(self): return 777
    def __float__(self): return 1003.0
    def __int__(self): return 4242
    __index__ = __int__
    def __iter__(self): return iter([self, self])
    def __repr__(self): return "4242"
    def difference(self, other): return set()
    startswith = issubset = isdisjoint = always
    @property
    def __class__(self): return {claim}
    def __getattr__(self, name): return self
def f(*arguments): return Liar({given})
def is_even(n): return f()
"""

CHEATS = {
    "exits at import": """
import os; os._exit(0)
""",
    "exits by sys.exit at import": """
import sys; sys.exit(0)
""",
    "exits in a call": """
import os
def f(*a): os._exit(0)
is_even = f
""",
    "raises SystemExit": """
def f(*a): raise SystemExit(0)
is_even = f
""",
    "calls quit": """
def f(*a): quit()
is_even = f
""",
    "raises KeyboardInterrupt": """
def f(*a): raise KeyboardInterrupt
is_even = f
""",
    "raises GeneratorExit": """
def f(*a): raise GeneratorExit
is_even = f
""",
    "raises StopIteration": """
def f(*a): raise StopIteration
is_even = f
""",
    "raises SkipTest": """
import unittest
def f(*a): raise unittest.SkipTest('no')
is_even = f
""",
    "raises what looks like pytest's skip": """
class Skipped(BaseException): pass
def f(*a): raise Skipped
is_even = f
""",
    "raises SkipTest at import": """
import unittest
raise unittest.SkipTest('no')
""",
    "raises ValueError always": """
def f(*a): raise ValueError('right text')
is_even = f
""",
    "atexit": """
import atexit, os
atexit.register(os._exit, 0)
"""
    + WRONG,
    "kills its parent": """
import os, signal
for p in (os.getppid(), 1, 0, -1):
    try: os.kill(p, signal.SIGTERM)
    except OSError: pass
"""
    + WRONG,
    "signal handlers": """
import signal, os
for s in range(1, 64):
    try: signal.signal(s, lambda *a: os._exit(0))
    except (OSError, ValueError): pass
signal.alarm(1)
"""
    + WRONG,
    "closes every descriptor": """
import os
os.closerange(0, 256)
"""
    + WRONG,
    "liar": LIAR.format(base="", claim="int", given=""),
    "liar of int": LIAR.format(base="(int)", claim="int", given="5"),
    "liar of str": LIAR.format(base="(str)", claim="str", given="'a'"),
    "liar of list": LIAR.format(base="(list)", claim="list", given="[1]"),
    "liar of float": LIAR.format(base="(float)", claim="float", given="0.5"),
    "liar of dict": LIAR.format(base="(dict)", claim="dict", given=""),
    "liar of set": LIAR.format(base="(set)", claim="set", given="[1]"),
    "liar of an exception": LIAR.format(base="(Exception)", claim="bool", given=""),
    "the function is a liar's class": LIAR.format(base="", claim="int", given="").partition("def f(")[0]
    + """
    def __init__(self, *a): pass
class f(Liar): pass
is_even = f
""",
    "the class of the liar is its metaclass": """
class Meta(type):
    def __eq__(c, o): return True
    __hash__ = type.__hash__
    def __call__(c, *a): return c
    def __sub__(c, o): return 0
class f(metaclass=Meta): pass
is_even = f
""",
    "mock.ANY": """
from unittest.mock import ANY, MagicMock
def f(*a): return ANY
is_even = MagicMock()
""",
    "MagicMock": """
from unittest.mock import MagicMock
f = is_even = MagicMock()
""",
    "not a number": """
def f(*a): return float('nan')
is_even = f
""",
    "NotImplemented": """
def f(*a): return NotImplemented
is_even = f
""",
    "a huge number": """
def f(*a): return 1 << (1 << 26)
is_even = f
""",
    "a number that takes long to print": """
def f(*a): return 10 ** 1000000
is_even = f
""",
    "changes its arguments": """
def f(*a):
    for x in a:
        if hasattr(x, 'clear'): x.clear()
is_even = f
""",
    "patched built-ins": """
import builtins
builtins.len = lambda x: 777
builtins.isinstance = lambda *a: True
builtins.AssertionError = type('A', (Exception,), {})
builtins.abs = builtins.all = lambda *a: True
builtins.__import__ = lambda *a, **k: None
"""
    + WRONG,
    "patched unittest": """
import unittest
for n in dir(unittest.TestCase):
    if n.startswith('assert'): setattr(unittest.TestCase, n, lambda *a, **k: None)
unittest.TestCase.run = lambda *a, **k: None
unittest.TestResult.wasSuccessful = lambda s: True
"""
    + WRONG,
    "patched codec": """
import gc, types
for o in gc.get_objects():
    if isinstance(o, type) and o.__name__ in ('Writer', 'End', 'ProgramEnd'):
        o.put = lambda self, v: self.out.extend(b'T')
"""
    + WRONG,
    "patched struct and socket": """
import struct, socket, os
struct.pack = lambda *a: b''
os.write = lambda d, b: len(b)
os.read = lambda d, n: b''
"""
    + WRONG,
    "settrace": """
import sys
sys.settrace(lambda *a: (_ for _ in ()).throw(SystemExit(0)))
sys.setprofile(lambda *a: None)
"""
    + WRONG,
    "modules named as the tests": """
import sys, types
for n in ('solution_test', 'test_solution', 'pytest', 'unittest', 'conftest', '__main__'):
    sys.modules[n] = types.ModuleType(n)
"""
    + WRONG,
    "prints verdicts": REPORT
    + """
say()
"""
    + WRONG,
    "prints verdicts and exits": REPORT
    + """
say(); os._exit(0)
""",
    "prints verdicts at exit": REPORT
    + """
import atexit; atexit.register(say)
def f(*a): say(); sys.exit(0)
is_even = f
""",
    "replaces its output": """
import sys, io
sys.stdout = sys.stderr = sys.__stdout__ = io.StringIO()
"""
    + WRONG,
    "output that is no output": """
import sys
sys.stdout = type('O', (), {'take': lambda s: 5, 'write': lambda s, t: None})()
"""
    + WRONG,
    "floods its output": """
import os
while True: os.write(1, b'x' * 65536)
""",
    "reads files and memory": """
import os, gc, inspect, glob, re, sys
found = []
for folder, _, names in os.walk("/"):
    if folder.startswith(("/usr", "/.python", "/proc/sys", "/sys", "/lib")): continue
    for name in names:
        path = os.path.join(folder, name)
        try:
            if os.path.getsize(path) < 10**6 and b"42" + b"42" in open(path, "rb").read() and "solution" not in name:
                found.append(path)
        except OSError: pass
for o in gc.get_objects():
    if isinstance(o, (str, bytes)) and ("42" + "42") in str(o): found.append(o)
frame = inspect.currentframe()
while frame:
    if ("10" + "03.25") in repr(frame.f_locals): found.append(frame)
    frame = frame.f_back
for pid in filter(str.isdigit, os.listdir("/proc")):
    for name in ("cmdline", "environ", "mem", "fd"):
        try:
            if b"assertEqual(f(21)" in open(f"/proc/{pid}/{name}", "rb").read(10**6): found.append(pid)
        except (OSError, IsADirectoryError): pass
def f(*a): return 4242 if found else 5
def is_even(n): return bool(found)
""",
    "writes what tests would read": """
import os
names = 'conftest.py sitecustomize.py usercustomize.py x.pth unittest.py pytest.py solution_test.py test_solution.py'
for n in (names + ' json.py random.py pytest.ini setup.cfg').split():
    for d in ('.', '/tmp', os.path.expanduser('~'), '/.cascade'):
        try: open(os.path.join(d, n), 'w').write('import os; os._exit(0)')
        except OSError: pass
os.environ.update(PYTHONPATH='/tmp/work', PYTHONSTARTUP='/tmp/x', PYTHONINSPECT='1')
"""
    + WRONG,
    "a daemon": """
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        while True: time.sleep(0.1)
    os._exit(0)
"""
    + WRONG,
    "forks and both answer": """
import os
for _ in range(2): os.fork()
"""
    + WRONG,
    "forks in a call": """
import os
def f(*a): os.fork(); return 5
is_even = f
""",
    "threads talk for ever": FORGE
    + r"""
def talk():
    while True: send(frame(b'?', 1, b's\0\0\0\4callt\0\0\0\0d\0\0\0\0'))
for _ in range(3): threading.Thread(target=talk, daemon=False).start()
"""
    + WRONG,
    "answers before it is asked": FORGE
    + """
for n in range(200): send(frame(b'=', n, TRUE))
"""
    + WRONG,
    "answers later questions": FORGE
    + """
count = 3
def f(*a):
    global count
    count += 1
    send(frame(b'=', count + 1, TRUE))
    return 5
is_even = f
""",
    "malformed frames": FORGE
    + r"""
send(b'\xff' * 100000)
"""
    + WRONG,
    "a frame that never ends": FORGE
    + """
def f(*a):
    send(HEADER.pack(10**7, b'=', 5) + b'x'); import time; time.sleep(60)
is_even = f
""",
    "a frame of four gigabytes": FORGE
    + """
def f(*a):
    send(HEADER.pack(2**32 - 1, b'=', 5))
    while True: send(b'x' * 65536)
is_even = f
""",
    "asks for what is not its own": FORGE
    + r"""
def f(*a):
    send(frame(b'?', 1, b's\0\0\0\4call' + b't\0\0\0\1Y\0\0\0\1i' + b'\0' * 8 + b'd\0\0\0\0'))
    return 5
is_even = f
""",
    "bytes after the answer": FORGE
    + """
def f(*a):
    send(b'garbage'); return 5
is_even = f
""",
    "never answers": """
def f(*a):
    while True: pass
is_even = f
""",
    "sleeps": """
import time
def f(*a): time.sleep(1000)
is_even = f
""",
    "never is imported": """
while True: pass
""",
    "generators without an end": """
import itertools
def f(*a): return itertools.repeat(5)
is_even = f
""",
    "a range without an end": """
def f(*a): return range(10**18)
is_even = f
""",
    "deep answers": """
def f(*a):
    x = []
    for _ in range(10**5): x = [x]
    return x
is_even = f
""",
    "answers that grow when walked": """
def f(*a):
    x = [1]
    for _ in range(60): x = [x, x]
    return x
is_even = f
""",
    "answers that hold themselves": """
def f(*a):
    x = []
    x.append(x)
    return x
is_even = f
""",
    "gigabytes": """
def f(*a): return 'x' * (1 << 30)
is_even = f
""",
    "many objects": """
def f(*a): return [object() for _ in range(400000)]
is_even = f
""",
    "a bomb of recursion": """
class R:
    def __repr__(self): return repr(self) + repr(self)
    __str__ = __eq__ = __hash__ = __len__ = lambda s, *a: s.__repr__()
def f(*a): return R()
is_even = f
""",
    "attributes without an end": """
class A:
    def __getattr__(self, n): return A()
    def __call__(self, *a): return A()
def f(*a): return A()
is_even = f
""",
    "exceptions of lying classes": """
class M(type):
    def __instancecheck__(c, o): return True
    def __subclasscheck__(c, o): return True
    __name__ = property(lambda c: 'ValueError')
    mro = lambda c: [c, ValueError, Exception, BaseException, object]
class E(BaseException): pass
def f(*a): raise E('right text')
is_even = f
""",
    "an exception with a poisoned text": """
class E(ValueError):
    def __str__(self): import os; os._exit(0)
def f(*a): raise E
is_even = f
""",
    "an exception that is a string": """
def f(*a): raise 'x'
is_even = f
""",
    "no module": """
import sys
sys.modules[__name__] = 5
""",
    "a module that lies": """
import sys
class M:
    __all__ = ['f']
    def __getattr__(s, n): return s
    def __call__(s, *a): return s
    __eq__ = __ne__ = __bool__ = lambda s, *a: True
    __hash__ = object.__hash__
sys.modules[__name__] = M()
""",
    "wrong": WRONG,
}
