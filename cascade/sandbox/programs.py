"""Programs by language: what has to happen before a room can run one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from cascade.errors import ConfigError, SandboxError
from cascade.sandbox.compiler import NotCompiled, compiled, compiler
from cascade.sandbox.ports import Room, Sandbox

Language = Literal["python", "cpp"]
LANGUAGES: tuple[Language, ...] = get_args(Language)

__all__ = ["LANGUAGES", "Language", "NotCompiled", "Program", "installed", "missing"]


@dataclass(frozen=True, slots=True)
class Program:
    """A source that somebody wrote, e.g. `Program("python", "print(input()[::-1])")`.

    Raises `ConfigError` for a language that is none of `LANGUAGES`.
    """

    language: Language
    source: str

    def __post_init__(self) -> None:
        if self.language not in LANGUAGES:
            raise ConfigError(f"There is no language {self.language!r}.", f"Choose {' or '.join(LANGUAGES)}.")


def installed(program: Program, room: Room, box: Sandbox) -> tuple[str, ...]:
    """Puts a program into a room; returns the command for `room.run`.

    C++17 is compiled first, in another room of `box` with limits of its own.

    Raises:
        NotCompiled: the compiler refuses the source, or ran into one of its limits.
        SandboxError: there is no compiler, or the sandbox has failed.
    """
    source = _encoded(program.source)
    if program.language == "python":
        room.write("main.py", source)
        return ("python", "main.py")
    room.write("main", compiled(source, box), executable=True)
    return ("./main",)


def missing(language: Language) -> str:
    """What keeps programs of a language from running on this machine, and what to do; empty where nothing does."""
    if language == "cpp":
        try:
            compiler()
        except SandboxError as error:
            return str(error)
    return ""


def _encoded(source: str) -> bytes:
    """As UTF-8, or as the bytes of a file that is none; lone surrogates are left for the language to refuse."""
    try:
        return source.encode(errors="surrogateescape")
    except UnicodeEncodeError:
        return source.encode(errors="surrogatepass")
