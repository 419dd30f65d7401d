"""The tools of a software engineer: what they are called, what they take, and what they say."""

from __future__ import annotations

import json
import posixpath
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from cascade.environments.tool_calls import Call
from cascade.sandbox.limits import Outcome

BASH, VIEW, EDIT, SUBMIT = "bash", "view", "edit", "submit"
STR_REPLACE, CREATE, INSERT = "str_replace", "create", "insert"
COMMAND_BYTES = 100_000  # of a command as JSON: the kernel takes no argument of 128 KiB, nor a room a longer order
FILE_BYTES = 1 << 20  # of a file that is viewed or edited
FILE_S = 10.0  # for reading or writing one: it may be a pipe that nobody writes to
LISTED = 500  # entries of a folder that are shown
AROUND = 4  # lines shown before and behind an edit

_MERGED = 'exec bash -c "$1" 2>&1'  # so that errors stand where they happened
_READ = '[ -d "$1" ] && exit 3; exec cat -- "$1"'
_LIST = r"""cd -- "$1" &&
find . -mindepth 1 -maxdepth 2 -name '.*' -prune -o -name __pycache__ -prune -o -printf '%y%P\0'"""
_WRITE = 'mkdir -p -- "$2" && cat > "$1"'
_FOLDER = 3  # how `_READ` ends then
_EDIT_TYPES = {"command": str, "path": str, "old_str": str, "new_str": str, "file_text": str, "insert_line": int}


class RefusedError(Exception):
    """Why a tool does nothing, for the model to read."""


class Workplace(Protocol):
    """Where tools work."""

    @property
    def root(self) -> str:
        """The repository's folder, where commands run and relative paths begin."""
        ...

    def run(self, command: Sequence[str], stdin: bytes, time_s: float) -> Outcome:
        """Runs a command to its end; what it leaves in the background goes on."""
        ...


def schemas(root: str, command_time_s: float) -> list[dict[str, Any]]:
    """The tools in the form of chat completions."""
    path = {"type": "string", "description": f"Absolute, or relative to {root}."}
    lines = "First and last line to show, counted from 1, e.g. [11, 40]; -1 as the last: to the end."
    return [
        _schema(
            BASH,
            f"Runs a command in a new bash in {root} and shows what it writes and how it ends. Files stay; what runs "
            "in the background, its output redirected, goes on with your next turn; `cd` and `export` last for one "
            f"call. A command that takes longer than {command_time_s:g} seconds is ended. There is no network.",
            {"command": {"type": "string", "description": "What bash runs."}},
            ["command"],
        ),
        _schema(
            VIEW,
            "Shows a file with line numbers, or what is in a folder, two levels deep.",
            {"path": path, "view_range": {"type": "array", "items": {"type": "integer"}, "description": lines}},
            ["path"],
        ),
        _schema(
            EDIT,
            f"Changes a file. `{STR_REPLACE}` puts `new_str` in place of `old_str`, which must stand in the file "
            f"exactly once; `{CREATE}` writes a file anew; `{INSERT}` puts `new_str` behind line `insert_line`, 0: at "
            "the top.",
            {
                "command": {"type": "string", "enum": [STR_REPLACE, CREATE, INSERT]},
                "path": path,
                "old_str": {"type": "string", "description": f"Of {STR_REPLACE}: text as it stands in the file."},
                "new_str": {"type": "string", "description": f"Of {STR_REPLACE} and {INSERT}."},
                "file_text": {"type": "string", "description": f"Of {CREATE}: the whole file."},
                "insert_line": {"type": "integer", "description": f"Of {INSERT}: how many lines stand before."},
            },
            ["command", "path"],
        ),
        _schema(SUBMIT, "Ends the work. The repository is judged as it is then.", {}, []),
    ]


def carry_out(place: Workplace, call: Call, command_time_s: float, shown: int) -> str:
    """Does what a call other than `submit` says, and what the model is told of it, in about `shown` characters."""
    try:
        if call.problem:
            raise RefusedError(call.problem)
        if call.name == BASH:
            arguments = _arguments(call, {"command": str}, ["command"])
            return _bash(place, arguments["command"], command_time_s, shown)
        if call.name == VIEW:
            arguments = _arguments(call, {"path": str, "view_range": list}, ["path"])
            return _view(place, arguments["path"], arguments.get("view_range"), shown)
        if call.name == EDIT:
            return cut(_edit(place, _arguments(call, _EDIT_TYPES, ["path"])), shown)
        raise RefusedError(f"There is no tool {call.name[:80]!r}: call {BASH}, {VIEW}, {EDIT} or {SUBMIT}.")
    except RefusedError as error:
        return f"Error: {error}"


def cut(text: str, shown: int) -> str:
    """The beginning and the end of a long text, and how much is missing between them."""
    if len(text) <= shown:
        return text
    head = shown // 2
    return f"{text[:head]}\n[{len(text) - shown} characters left out]\n{text[len(text) - (shown - head) :]}"


def replaced(text: str, old: str, new: str) -> tuple[str, int]:
    """A file with `new` in place of the only `old`, and the line where it stood. Raises `RefusedError`."""
    if not old:
        raise RefusedError(f"old_str is empty: give text of the file, or use {CREATE} or {INSERT}.")
    count = text.count(old)
    if count == 0:
        ends = " Lines of this file end with \\r\\n." if "\r\n" in text else ""
        raise RefusedError(f"old_str is not in the file as it is given: view the file and copy its text.{ends}")
    at = text.index(old)
    if count > 1:
        raise RefusedError(f"old_str is in the file {count} times, first in line {_line(text, at)}: give more of it.")
    return text[:at] + new + text[at + len(old) :], _line(text, at)


def inserted(text: str, line: int, new: str) -> str:
    """A file with lines put behind line `line`, counted from 1. Raises `RefusedError`."""
    lines = _lines(text)
    if not 0 <= line <= len(lines):
        raise RefusedError(f"insert_line is {line}, and the file has {len(lines)} lines.")
    kept = [f"{each}\n" for each in lines]
    if text and not text.endswith("\n") and line < len(lines):
        kept[-1] = lines[-1]
    return "".join([*kept[:line], new.removesuffix("\n"), "\n", *kept[line:]])


def numbered(text: str, first: int = 1, last: int = -1) -> str:
    """Lines of a file behind their numbers."""
    lines = _lines(text)
    end = len(lines) if last == -1 else min(last, len(lines))
    return "\n".join(f"{number:6}\t{lines[number - 1]}" for number in range(max(first, 1), end + 1))


def _bash(place: Workplace, command: str, time_s: float, shown: int) -> str:
    if "\0" in command or len(json.dumps(command)) > COMMAND_BYTES:
        raise RefusedError(f"the command holds a NUL, or is too long: write long texts to files, with {EDIT}.")
    outcome = place.run(("bash", "-c", _MERGED, "bash", command), b"", time_s)
    said = cut(outcome.stdout.decode(errors="replace").rstrip("\n"), shown)
    ended_at = {
        "ok": "" if said else "[no output]",
        "timeout": f"[ended after {time_s:g} seconds, the most that a command may take]",
        "memory": "[ended: out of memory]",
        "output_limit": "[ended: too much output]",
    }
    code = "[ended: the disk is full]" if outcome.exit_code is None else f"[exit code {outcome.exit_code}]"
    ending = ended_at.get(outcome.status, code)
    return "\n".join(part for part in (said, ending) if part)


def _view(place: Workplace, path: str, lines: list[Any] | None, shown: int) -> str:
    path = _absolute(place, path)
    if lines is not None and not (len(lines) == 2 and all(type(line) is int for line in lines)):
        raise RefusedError("view_range is not two whole numbers, e.g. [11, 40].")
    data = _read(place, path)
    if data is None:
        return cut(_listing(place, path), shown)
    if b"\0" in data[:8192]:
        raise RefusedError(f"{path} is no text: look at it with {BASH}.")
    text = data.decode(errors="replace")
    first, last = lines or (1, -1)
    if lines and not (1 <= first <= max(1, len(_lines(text))) and (last == -1 or last >= first)):
        raise RefusedError(f"view_range is {lines}, and the file has {len(_lines(text))} lines.")
    return cut(numbered(text, first, last), shown) or "[the file is empty]"


def _listing(place: Workplace, path: str) -> str:
    outcome = place.run(("bash", "-c", _LIST, "bash", path), b"", FILE_S)
    if outcome.status not in ("ok", "runtime_error"):
        raise RefusedError(f"{path} cannot be listed ({outcome.status}).")
    found = sorted(name.decode(errors="replace") for name in outcome.stdout.split(b"\0") if name)
    names = sorted(f"{name[1:]}/" if name[0] == "d" else name[1:] for name in found)
    more = [f"[{len(names) - LISTED} more]"] if len(names) > LISTED else []
    return "\n".join([f"{path}:", *names[:LISTED], *more])


def _edit(place: Workplace, arguments: Mapping[str, Any]) -> str:
    given = {CREATE: "file_text", INSERT: "insert_line"}
    how = arguments.get("command") or next((how for how, key in given.items() if key in arguments), STR_REPLACE)
    needed = {STR_REPLACE: ["old_str"], CREATE: ["file_text"], INSERT: ["insert_line", "new_str"]}.get(how)
    if needed is None:
        raise RefusedError(f"command is {how[:80]!r}: give {STR_REPLACE}, {CREATE} or {INSERT}.")
    if missing := [key for key in needed if key not in arguments]:
        raise RefusedError(f"{how} needs {' and '.join(missing)}.")
    path, new = _absolute(place, arguments["path"]), arguments.get("new_str", "")
    if how == CREATE:
        _write(place, path, arguments["file_text"].encode())
        return f"{path} is written."
    data = _read(place, path)
    if data is None:
        raise RefusedError(f"{path} is a folder.")
    text = data.decode(errors="surrogateescape")  # what is not UTF-8 stays as it is
    if how == INSERT:
        text, line = inserted(text, arguments["insert_line"], new), arguments["insert_line"] + 1
    else:
        text, line = replaced(text, arguments["old_str"], new)
    _write(place, path, text.encode(errors="surrogateescape"))
    seen = text.encode(errors="surrogateescape").decode(errors="replace")
    return f"{path} is changed:\n{numbered(seen, line - AROUND, line + len(_lines(new)) + AROUND)}"


def _read(place: Workplace, path: str) -> bytes | None:
    """What is in a file; None for a folder. Raises `RefusedError`."""
    outcome = place.run(("bash", "-c", _READ, "bash", path), b"", FILE_S)
    if outcome.exit_code == _FOLDER and not outcome.stdout:
        return None
    if outcome.status == "output_limit" or len(outcome.stdout) > FILE_BYTES:
        raise RefusedError(f"{path} has more than {FILE_BYTES} bytes: look at parts of it with {BASH}.")
    _refuse(outcome, path, "read")
    return outcome.stdout


def _write(place: Workplace, path: str, data: bytes) -> None:
    if len(data) > FILE_BYTES:
        raise RefusedError(f"that makes more than {FILE_BYTES} bytes of {path}.")
    _refuse(place.run(("bash", "-c", _WRITE, "bash", path, posixpath.dirname(path)), data, FILE_S), path, "written")


def _refuse(outcome: Outcome, path: str, done: str) -> None:
    if outcome.status != "ok":
        said = outcome.stderr.decode(errors="replace").strip().rpartition("\n")[2].rpartition(": ")[2]
        raise RefusedError(f"{path} cannot be {done}: {said or outcome.status}.")


def _absolute(place: Workplace, path: str) -> str:
    if not path.strip() or "\0" in path or len(path) > 4000:
        raise RefusedError("path is empty, too long, or holds a NUL.")
    return posixpath.normpath(posixpath.join(place.root, path))


def _arguments(call: Call, types: Mapping[str, type], required: Sequence[str]) -> dict[str, Any]:
    """Arguments of the right types, without those that are null. Raises `RefusedError`."""
    for key, value in call.arguments.items():
        if key not in types:
            raise RefusedError(f"{call.name} has no parameter {key[:80]!r}: give {', '.join(types)}.")
        if value is not None and type(value) is not types[key]:
            raise RefusedError(f"{key} is {type(value).__name__}: give {types[key].__name__}.")
    if missing := [key for key in required if call.arguments.get(key) is None]:
        raise RefusedError(f"{call.name} needs {' and '.join(missing)}.")
    return {key: value for key, value in call.arguments.items() if value is not None}


def _lines(text: str) -> list[str]:
    lines = text.split("\n")
    return lines[:-1] if lines[-1] == "" else lines


def _line(text: str, at: int) -> int:
    return text.count("\n", 0, at) + 1


def _schema(name: str, description: str, properties: Mapping[str, Any], required: Sequence[str]) -> dict[str, Any]:
    parameters = {"type": "object", "properties": dict(properties), "required": list(required)}
    return {"type": "function", "function": {"name": name, "description": description, "parameters": parameters}}
