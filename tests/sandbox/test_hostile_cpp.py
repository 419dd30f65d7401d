"""Programs in C++ that want more than they were given, and sources that are aimed at their compiler."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from cascade.sandbox import compiler
from cascade.sandbox.backends import sandbox
from cascade.sandbox.bait import Bait
from cascade.sandbox.limits import Limits
from cascade.sandbox.ports import Sandbox
from cascade.sandbox.programs import NotCompiled, Program, installed
from tests.sandbox.hostile import LIMITS, SHORT, Hostile, run_hostile

OUT = ("memory", "runtime_error", "killed", "timeout")

CPP = (
    Hostile("recurses in C++", """
#include <cstdlib>
int f(volatile char *p) { volatile char b[65536]; b[0] = 1; return f(b) + b[9]; }
int main() { return f(nullptr); }
""", OUT, "cpp"),
    Hostile("allocates in C++", """
#include <cstdlib>
#include <cstring>
int main() { for (;;) memset(malloc(1 << 20), 1, 1 << 20); }
""", OUT, "cpp"),
    Hostile("throws out of memory in C++", """
#include <vector>
int main() { std::vector<char> v(1ull << 46); return v[1]; }
""", OUT, "cpp"),
    Hostile("holds a large array in C++", """
static char x[1 << 30]; int main() { for (long i = 0; i < 1 << 30; i += 4096) ((volatile char *)x)[i] = 1; }
""", ("memory",), "cpp"),
    Hostile("loops in C++", "int main() { for (volatile long i = 0;; i = i + 1); }", ("timeout",), "cpp", SHORT),
    Hostile("forks in C++", "#include <unistd.h>\nint main() { for (;;) fork(); }", ("timeout",), "cpp", SHORT),
    Hostile("vforks in C++", """
#include <unistd.h>
int main() { for (;;) if (vfork() == 0) _exit(0); }
""", ("timeout",), "cpp", SHORT),
    Hostile("catches its own faults in C++", """
#include <csignal>
void on(int) {}
int main() { signal(SIGSEGV, on); *(volatile int *)nullptr = 1; }
""", ("timeout", "runtime_error"), "cpp", SHORT),
    Hostile("calls the old way in C++", """
int main() {
  long r;
  asm volatile("int $0x80" : "=a"(r) : "a"(20), "b"(0) : "memory");
  __builtin_printf("The attack succeeded: %ld\\n", r);
}
""", ("runtime_error", "killed"), "cpp"),
    Hostile("writes code that calls in C++", """
#include <cstring>
#include <cstdio>
#include <sys/mman.h>
int main() {
  unsigned char code[] = {0xb8, 41, 0, 0, 0, 0xbf, 2, 0, 0, 0, 0xbe, 1, 0, 0, 0, 0x31, 0xd2, 0x0f, 0x05, 0xc3};
  void *p = mmap(nullptr, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  memcpy(p, code, sizeof code);
  long r = ((long (*)())p)();
  if (r >= 0) printf("The attack succeeded: socket %ld\\n", r);
}
""", ("ok",), "cpp"),
    Hostile("floods in C++", """
#include <cstdio>
int main() { for (;;) puts("xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"); }
""", ("output_limit",), "cpp"),
    Hostile("starts threads in C++", """
#include <pthread.h>
void *run(void *) { for (;;); }
int main() { pthread_t t; for (;;) pthread_create(&t, nullptr, run, nullptr); }
""", ("timeout",), "cpp", SHORT),
    Hostile("sets timers in C++", """
#include <csignal>
#include <ctime>
#include <unistd.h>
int main() { timer_t t; sigevent e{}; e.sigev_notify = SIGEV_SIGNAL; e.sigev_signo = SIGUSR1; signal(SIGUSR1, SIG_IGN);
  itimerspec s{{0, 1000}, {0, 1000}};
  for (int i = 0; i < 100000; ++i) if (!timer_create(CLOCK_MONOTONIC, &e, &t)) timer_settime(t, 0, &s, nullptr);
  for (;;) pause(); }
""", ("timeout", "memory"), "cpp", SHORT, destroys=True),
)  # fmt: skip

COMPILED = {
    "templates without end": "template <int N> struct A { A<N + 1> a; A<-N> b; }; A<1> a; int main() {}",
    "a constant that takes for ever": """
constexpr long f(long n) {
  long s = 0;
  for (long i = 0; i < n; ++i) for (long j = 0; j < n; ++j) s += i ^ j;
  return s;
}
constexpr long x = f(1 << 15); static_assert(x == 1); int main() {}
""",
    "a file without end": '#include "/dev/zero"\nint main() {}',
    "a file of random numbers": '#include "/dev/urandom"\nint main() {}',
    "the passwords": '#include "/etc/shadow"\nint main() {}',
    "the passwords in the binary": 'asm(".incbin \\"/etc/shadow\\""); int main() {}',
    "the first process's variables": 'asm(".incbin \\"/proc/1/environ\\""); int main() {}',
    "itself": '#include "main.cpp"\nint main() {}',
    "macros that double": """
#define A(x) x x x x x x x x x x
#define B(x) A(A(A(A(A(A(A(A(x))))))))
int main() { B(B(;)) }
""",
    "a binary of gigabytes": 'asm(".fill 3000000000, 1, 7"); int main() {}',
    "an array of gigabytes": "char x[3000000000] = {1}; int main() { return x[5]; }",
}  # fmt: skip
"""Sources that are aimed at the compiler."""


@pytest.fixture(scope="module")
def box() -> Sandbox:
    return sandbox("bwrap")


@pytest.fixture(scope="module")
def bait() -> Iterator[Bait]:
    with Bait() as laid:
        yield laid


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not shutil.which("g++"):
        pytest.skip("there is no g++: `apt install g++`")
    monkeypatch.setenv("CASCADE_CACHE", str(tmp_path / "cache"))


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize("program", CPP, ids=lambda program: program.name)
def test_no_more_is_had_in_cpp(box: Sandbox, bait: Bait, program: Hostile) -> None:
    run_hostile(box, program, bait)


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize("name", COMPILED)
def test_the_compiler_is_held_too(box: Sandbox, bait: Bait, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiler, "LIMITS", Limits(time_s=1.5, memory_mib=256, disk_mib=32, processes=16))
    with box.open(LIMITS) as room, pytest.raises(NotCompiled) as refused:
        installed(Program("cpp", COMPILED[name]), room, box)
    outcome = refused.value.outcome
    assert outcome.wall_s < 1.1 * 1.5 + 0.5
    assert outcome.peak_memory_mib <= 1.1 * 256
    assert b"root:" not in outcome.stderr
    assert bait.traces() == []
