"""Programs of both languages run in a room; C++ is compiled once, in a room of its own, with limits of its own."""

from __future__ import annotations

import shutil
import threading
import time
from pathlib import Path

import pytest

from cascade.errors import ConfigError, SandboxError
from cascade.sandbox import compiler
from cascade.sandbox.backends import sandbox
from cascade.sandbox.limits import Limits, Outcome
from cascade.sandbox.ports import Sandbox
from cascade.sandbox.programs import NotCompiled, Program, installed, missing

DOUBLE = """#include <iostream>
int main() { long long n; std::cin >> n; std::cout << 2 * n << std::endl; return n < 0 ? 3 : 0; }
"""
ENDLESS = ("-fconstexpr-ops-limit=1000000000000", "-fconstexpr-loop-limit=2147483647")

needs_compiler = pytest.mark.skipif(not shutil.which("g++"), reason="there is no g++: `apt install g++`")


@pytest.fixture(scope="module")
def box() -> Sandbox:
    return sandbox("bwrap")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CASCADE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The sources that were compiled, and not taken from the cache."""
    sources: list[bytes] = []
    compile_one = compiler._compiled

    def count(source: bytes, *rest: object) -> bytes:
        sources.append(source)
        return compile_one(source, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(compiler, "_compiled", count)
    return sources


def run(program: Program, stdin: bytes, box: Sandbox) -> Outcome:
    with box.open(Limits(time_s=5.0)) as room:
        return room.run(installed(program, room, box), stdin)


def test_python_runs_and_reads_its_input(box: Sandbox) -> None:
    outcome = run(Program("python", "print(2 * int(input()))"), b"21\n", box)
    assert (outcome.status, outcome.stdout) == ("ok", b"42\n")


def test_a_python_source_that_is_no_text_is_its_own_mistake(box: Sandbox) -> None:
    assert run(Program("python", "x = '\ud800'"), b"", box).status == "runtime_error"
    latin = Program("python", b"# coding: latin-1\nprint(len('\xe9'))".decode(errors="surrogateescape"))
    assert run(latin, b"", box).stdout == b"1\n"


@needs_compiler
def test_cpp_is_compiled_once_and_keeps_its_exit_code(box: Sandbox, counted: list[bytes]) -> None:
    program = Program("cpp", DOUBLE)
    assert (run(program, b"21\n", box).stdout, run(program, b"4", box).stdout) == (b"42\n", b"8\n")
    outcome = run(program, b"-1", box)
    assert (outcome.status, outcome.exit_code) == ("runtime_error", 3)
    assert len(counted) == 1


@needs_compiler
def test_a_source_that_includes_everything_compiles_with_the_header_made_before(box: Sandbox, cache: Path) -> None:
    source = DOUBLE.replace("<iostream>", "<bits/stdc++.h>")
    assert run(Program("cpp", source), b"21", box).stdout == b"42\n"
    assert len(list(cache.glob("headers/*/bits/stdc++.h.gch"))) == 1
    began = time.monotonic()
    assert run(Program("cpp", "// again\n" + source), b"21", box).stdout == b"42\n"
    assert time.monotonic() - began < 10


@needs_compiler
def test_a_source_that_the_compiler_refuses_raises_with_its_messages(box: Sandbox) -> None:
    with pytest.raises(NotCompiled) as refused:
        run(Program("cpp", "int main() { return undeclared; }"), b"", box)
    assert refused.value.outcome.status == "runtime_error"
    assert b"undeclared" in refused.value.outcome.stderr


@needs_compiler
@pytest.mark.parametrize(
    "source, status",
    [
        ('#include "/dev/zero"\nint main() {}', {"memory", "timeout", "runtime_error"}),
        ("int big[1 << 28] = {1}; int main() {}", {"memory", "output_limit", "runtime_error"}),
        (
            "template <int n> struct T { typename T<n * 2>::a a; typename T<n * 2 + 1>::a b; }; T<1> t; int main() {}",
            {"runtime_error", "timeout", "memory"},
        ),
        ("constexpr int f() { int n = 0; for (;;) n ^= 1; return n; } static_assert(f()); int main() {}", {"timeout"}),
    ],
)
def test_a_source_that_holds_the_compiler_up_ends_at_a_limit_of_the_compilation(
    box: Sandbox, monkeypatch: pytest.MonkeyPatch, source: str, status: set[str]
) -> None:
    limits = Limits(time_s=2.0, memory_mib=512, disk_mib=64, output_kib=8 * 1024)
    monkeypatch.setattr(compiler, "LIMITS", limits)
    monkeypatch.setattr(compiler, "FLAGS", (*compiler.FLAGS, *ENDLESS))
    monkeypatch.setattr(compiler, "compiler", compiler.compiler.__wrapped__)
    began = time.monotonic()
    with pytest.raises(NotCompiled) as refused:
        run(Program("cpp", source), b"", box)
    assert refused.value.outcome.status in status
    assert len(refused.value.outcome.stderr) <= compiler.SAID
    assert time.monotonic() - began < 6


@needs_compiler
def test_neither_source_nor_program_sees_the_cache_or_files_of_this_machine(box: Sandbox, cache: Path) -> None:
    assert run(Program("cpp", DOUBLE), b"1", box).status == "ok"
    kept = next((cache / "compiled").iterdir())
    with pytest.raises(NotCompiled) as refused:
        run(Program("cpp", f'#include "{kept}"\nint main() {{}}'), b"", box)
    assert b"No such file" in refused.value.outcome.stderr
    look = Program("python", f"import os\nprint(os.path.exists({str(cache)!r}))")
    assert run(look, b"", box).stdout == b"False\n"


@needs_compiler
def test_several_threads_compile_at_once_and_a_damaged_binary_is_made_again(
    box: Sandbox, cache: Path, counted: list[bytes]
) -> None:
    outputs: list[bytes] = []
    threads = [
        threading.Thread(target=lambda: outputs.append(run(Program("cpp", DOUBLE), b"3", box).stdout)) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outputs == [b"6\n"] * 3
    (kept,) = (cache / "compiled").iterdir()
    kept.write_bytes(kept.read_bytes()[:-1] + b"?")
    before = len(counted)
    assert run(Program("cpp", DOUBLE), b"4", box).stdout == b"8\n"
    assert len(counted) == before + 1


def test_what_is_missing_is_said_with_how_to_get_it(box: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(compiler, "compiler", compiler.compiler.__wrapped__)
    monkeypatch.setattr("cascade.sandbox.programs.compiler", compiler.compiler)
    assert missing("python") == ""
    assert "apt install g++" in missing("cpp")
    with pytest.raises(SandboxError, match="apt install"):
        run(Program("cpp", DOUBLE), b"", box)


def test_an_unknown_language_is_refused() -> None:
    with pytest.raises(ConfigError, match="no language 'rust'"):
        Program("rust", "")  # type: ignore[arg-type]
