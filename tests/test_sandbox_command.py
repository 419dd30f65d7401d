"""`cascade sandbox run` prints what became of a program, whatever the program does."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import cascade

KEYS = ["status", "exit_code", "stdout", "stderr", "wall_s", "cpu_s", "peak_memory_mib"]


def run(tmp_path: Path, source: str, *words: str, stdin: str = "", name: str = "program.py") -> dict[str, Any]:
    file, fed = tmp_path / name, tmp_path / "in.txt"
    file.write_text(source)
    fed.write_text(stdin)
    done = cascade("sandbox", "run", str(file), "--stdin", str(fed), "--json", *words)
    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout)
    assert list(printed) == KEYS
    return printed


def test_a_program_that_ends_well(tmp_path: Path) -> None:
    found = run(tmp_path, "import sys\nprint(2 * int(input()))\nprint('e', file=sys.stderr)", stdin="21\n")
    assert (found["status"], found["exit_code"], found["stdout"], found["stderr"]) == ("ok", 0, "42\n", "e\n")
    assert 0 < found["cpu_s"] < 2
    assert 0 < found["wall_s"] < 5
    assert 1 < found["peak_memory_mib"] < 100


@pytest.mark.parametrize(
    "source, words, status",
    [
        ("1 / 0", (), "runtime_error"),
        ("while True: pass", ("--time-limit-s", "0.5"), "timeout"),
        ("import time; time.sleep(60)", ("--time-limit-s", "0.5"), "timeout"),
        ("x = bytearray(300 << 20)", ("--memory-mib", "64"), "memory"),
        ("while True: print('x' * 1000)", ("--output-kib", "16"), "output_limit"),
        ("import os; os.kill(os.getpid(), 9)", (), "killed"),
    ],
)
def test_every_end_has_its_status(tmp_path: Path, source: str, words: tuple[str, ...], status: str) -> None:
    found = run(tmp_path, source, *words)
    assert found["status"] == status
    assert len(found["stdout"]) <= 16 * 1024


def test_the_disk_and_processes_are_limited_too(tmp_path: Path) -> None:
    full = "open('/tmp/f', 'wb').write(bytes(8 << 20))"
    assert "No space left" in run(tmp_path, full, "--disk-mib", "4")["stderr"]
    forks = "import os, time\nfor _ in range(40):\n    os.fork() or (time.sleep(5), os._exit(0))"
    assert run(tmp_path, forks, "--processes", "8")["status"] != "ok"


@pytest.mark.skipif(not shutil.which("g++"), reason="there is no g++")
def test_cpp_runs_and_what_does_not_compile_is_a_runtime_error_with_the_compilers_words(tmp_path: Path) -> None:
    good = '#include <cstdio>\nint main() { int n; scanf("%d", &n); printf("%d\\n", n + 1); }'
    assert run(tmp_path, good, stdin="41", name="good.cpp")["stdout"] == "42\n"
    found = run(tmp_path, "int main() { return y; }", "--language", "cpp", name="bad.txt")
    assert found["status"] == "runtime_error"
    assert "not declared" in found["stderr"]


def test_what_is_no_text_is_replaced_and_for_people_control_characters_are_escaped(tmp_path: Path) -> None:
    source = "import sys; sys.stdout.buffer.write(b'\\xff\\x1b[2Jhere')"
    assert run(tmp_path, source)["stdout"] == "\ufffd\x1b[2Jhere"
    shown = cascade("sandbox", "run", str(tmp_path / "program.py")).stdout
    assert shown.startswith("ok  exit code 0  ")
    assert "\\x1b[2Jhere" in shown


@pytest.mark.parametrize(
    "words, said",
    [
        (("missing.py",), "cannot be read"),
        (("pyproject.toml",), "does not say its language"),
        (("pyproject.toml", "--language", "python", "--memory-mib", "0"), "memory_mib is 0"),
        (("pyproject.toml", "--language", "python", "--sandbox", "bwarp"), "no sandbox `bwarp`"),
        (("pyproject.toml", "--language", "python", "--stdin", "missing.txt"), "cannot be read"),
    ],
)
def test_a_wrong_command_line_is_one_error_and_prints_no_verdict(words: tuple[str, ...], said: str) -> None:
    done = cascade("sandbox", "run", *words, "--json")
    assert (done.returncode, done.stdout) == (1, "")
    assert said in done.stderr


def test_it_loads_nothing_heavy() -> None:
    code = "import sys, cascade.cli, cascade.sandbox_command; cascade.cli.parser(); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "pydantic", "omegaconf", "hydra", "transformers"} & set(loaded)
