"""The filter of system calls, run over made-up calls by a small interpreter of its language."""

from __future__ import annotations

import errno
import re
import struct
from pathlib import Path

import pytest

from cascade.errors import SandboxError
from cascade.sandbox import seccomp

ALLOWED, KILLED, IGNORED = 0, -1, -2
MACHINES = list(seccomp.AUDIT_ARCHITECTURES)
CLONE_NEW = {
    "NS": 0x20000, "CGROUP": 0x2000000, "UTS": 0x4000000, "IPC": 0x8000000,
    "USER": 0x10000000, "PID": 0x20000000, "NET": 0x40000000,
}  # fmt: skip
THREAD, FORK, SPAWN = 0x3D0F00, 0x1200011, 0x4111  # flags of the C library's threads, fork and posix_spawn
RESULTS = ((seccomp.DENIED, errno.EPERM), (seccomp.ABSENT, errno.ENOSYS), (seccomp.IGNORED, IGNORED))
NEEDED = {
    "read": (0, 63), "write": (1, 64), "close": (3, 57), "mremap": (25, 216), "execve": (59, 221), "exit": (60, 93),
    "wait4": (61, 260), "kill": (62, 129), "fcntl": (72, 25), "openat": (257, 56), "futex": (202, 98),
    "setuid": (105, 146), "setgid": (106, 144), "setgroups": (116, 159), "setresuid": (117, 147),
    "setresgid": (119, 149), "prctl": (157, 167), "setrlimit": (160, 164), "setsid": (112, 157), "pipe2": (293, 59),
    "fsync": (74, 82), "sendmsg": (46, 211), "recvmsg": (47, 212), "getrandom": (318, 278),
    "clock_gettime": (228, 113), "clock_nanosleep": (230, 115), "pidfd_open": (434, 434), "seccomp": (317, 277),
}  # fmt: skip


def verdict(
    program: bytes, number: int, *arguments: int, machine: str = "x86_64", architecture: int | None = None
) -> int:
    """`ALLOWED`, the errno, `IGNORED` or `KILLED`, as the kernel would decide over `struct seccomp_data`."""
    architecture = seccomp.AUDIT_ARCHITECTURES[machine] if architecture is None else architecture
    padded = [argument & (2**64 - 1) for argument in (*arguments, *[0] * 6)][:6]
    data = struct.pack("<IIQ6Q", number & 0xFFFFFFFF, architecture, 0x7F00DEADBEEF, *padded)
    code = list(struct.iter_unpack("<HBBI", program))
    at, accumulator = 0, 0
    while True:
        operation, when_true, when_false, constant = code[at]
        at += 1
        match operation:
            case 0x20:  # BPF_LD | BPF_W | BPF_ABS
                (accumulator,) = struct.unpack_from("<I", data, constant)
            case 0x54:  # BPF_ALU | BPF_AND | BPF_K
                accumulator &= constant
            case 0x15:  # BPF_JMP | BPF_JEQ | BPF_K
                at += when_true if accumulator == constant else when_false
            case 0x25:  # BPF_JMP | BPF_JGT | BPF_K
                at += when_true if accumulator > constant else when_false
            case 0x35:  # BPF_JMP | BPF_JGE | BPF_K
                at += when_true if accumulator >= constant else when_false
            case 0x06:  # BPF_RET | BPF_K
                return {0x7FFF0000: ALLOWED, 0x80000000: KILLED, 0x00050000: IGNORED}.get(constant, constant & 0xFFFF)
            case _:
                raise AssertionError(f"no such instruction: {operation:#x}")


@pytest.fixture(params=MACHINES)
def machine(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def program(machine: str) -> bytes:
    return seccomp.program(machine)


def column(machine: str) -> int:
    return MACHINES.index(machine)


def test_the_kernel_takes_a_program_of_this_length(program: bytes) -> None:
    assert len(program) % 8 == 0
    assert 0 < len(program) // 8 <= 4096


def test_every_jump_lands_inside(program: bytes) -> None:
    code = list(struct.iter_unpack("<HBBI", program))
    for at, (operation, when_true, when_false, _) in enumerate(code):
        if operation & 0x07 == 0x05:
            assert at + 1 + max(when_true, when_false) < len(code)
    assert code[-1][0] == seccomp.RETURN


def test_every_call_of_the_lists_fails(machine: str, program: bytes) -> None:
    for calls, error in RESULTS:
        for name, numbers in calls.items():
            number = numbers[column(machine)]
            if number >= 0:
                assert verdict(program, number, machine=machine) == error, name


def test_all_other_numbers_are_allowed_until_the_newest(machine: str, program: bytes) -> None:
    listed = {
        numbers[column(machine)]
        for numbers in (
            *seccomp.DENIED.values(),
            *seccomp.ABSENT.values(),
            *seccomp.IGNORED.values(),
            *(rule.numbers for rule in seccomp.ARGUMENTS.values()),
        )
    }
    for number in set(range(seccomp.NEWEST + 1)) - listed:
        assert verdict(program, number, machine=machine) == ALLOWED, number


def test_what_programs_and_our_own_init_need_is_allowed(machine: str, program: bytes) -> None:
    for name, numbers in NEEDED.items():
        assert verdict(program, numbers[column(machine)], 1, 2, 3, machine=machine) == ALLOWED, name


def test_a_call_that_is_newer_than_the_lists_does_not_exist(machine: str, program: bytes) -> None:
    for number in (457, 462, 467, 1000, 0x3FFFFFFF):
        assert verdict(program, number, machine=machine) == errno.ENOSYS


def test_numbers_of_x32_kill(program: bytes, machine: str) -> None:
    for number in (0x40000000, 0x40000000 + 101, 0x7FFFFFFF, 0xFFFFFFFF):
        assert verdict(program, number, machine=machine) == KILLED


def test_every_other_architecture_kills_whatever_is_called(program: bytes, machine: str) -> None:
    for architecture in (0x40000003, 0x40000028, 0xC00000F3, 0, *seccomp.AUDIT_ARCHITECTURES.values()):
        if architecture != seccomp.AUDIT_ARCHITECTURES[machine]:
            for number in (0, 1, 26, 41, 200, 400):
                assert verdict(program, number, architecture=architecture) == KILLED


@pytest.mark.parametrize("call", ["socket", "socketpair"])
def test_only_unix_sockets_are_allowed(machine: str, program: bytes, call: str) -> None:
    number = seccomp.ARGUMENTS[call].numbers[column(machine)]
    assert verdict(program, number, 1, 1, 0, machine=machine) == ALLOWED
    for family in (0, 2, 10, 16, 17, 30, 38, 40, 44, 2**32 - 1):
        assert verdict(program, number, family, 1, 0, machine=machine) == errno.EPERM
    for smuggled in (2**32 + 2, 2**63 + 16):  # the kernel cuts the family to 32 bits
        assert verdict(program, number, smuggled, 1, 0, machine=machine) == errno.EPERM


@pytest.mark.parametrize("flag", CLONE_NEW.values(), ids=CLONE_NEW)
def test_a_clone_into_a_namespace_of_its_own_fails(machine: str, program: bytes, flag: int) -> None:
    number = seccomp.ARGUMENTS["clone"].numbers[column(machine)]
    for flags in (flag, flag | FORK, flag | 17, flag | 2**40):
        assert verdict(program, number, flags, machine=machine) == errno.EPERM


def test_forks_threads_and_spawns_are_allowed(machine: str, program: bytes) -> None:
    number = seccomp.ARGUMENTS["clone"].numbers[column(machine)]
    for flags in (THREAD, FORK, SPAWN, 17):
        assert verdict(program, number, flags, machine=machine) == ALLOWED


def test_every_namespace_flag_is_in_the_mask() -> None:
    assert sum(CLONE_NEW.values()) == seccomp.NEW_NAMESPACE


def test_characters_cannot_be_put_into_a_terminal(machine: str, program: bytes) -> None:
    number = seccomp.ARGUMENTS["ioctl"].numbers[column(machine)]
    for request in (0x5412, 0x541C, 2**32 + 0x5412):
        assert verdict(program, number, 0, request, machine=machine) == errno.EPERM
    for request in (0x5401, 0x5413, 0x541B, 0x5421):  # TCGETS, TIOCGWINSZ, FIONREAD, FIONBIO
        assert verdict(program, number, 0, request, machine=machine) == ALLOWED


def test_personality_can_be_asked_and_not_changed(machine: str, program: bytes) -> None:
    number = seccomp.ARGUMENTS["personality"].numbers[column(machine)]
    for persona in (0, 0xFFFFFFFF):
        assert verdict(program, number, persona, machine=machine) == ALLOWED
    for persona in (0x0040000, 0x0400000, 8):
        assert verdict(program, number, persona, machine=machine) == errno.EPERM


def test_devices_cannot_be_made_and_pipes_can(machine: str, program: bytes) -> None:
    for call in ("mknod", "mknodat"):
        rule = seccomp.ARGUMENTS[call]
        number = rule.numbers[column(machine)]
        if number < 0:
            continue
        before = [0] * rule.index
        for mode in (0o020666, 0o060666, 2**16 + 0o020666):
            assert verdict(program, number, *before, mode, machine=machine) == errno.EPERM
        for mode in (0o010666, 0o100666, 0o140666, 0o666):
            assert verdict(program, number, *before, mode, machine=machine) == ALLOWED


def test_huge_pages_are_denied(machine: str, program: bytes) -> None:
    for call, before in (("mmap", (0, 4096, 3)), ("memfd_create", (0,))):
        number = seccomp.ARGUMENTS[call].numbers[column(machine)]
        huge = seccomp.ARGUMENTS[call].mask
        for flags in (0, 1, 0x22):
            assert verdict(program, number, *before, flags, machine=machine) == ALLOWED
            assert verdict(program, number, *before, flags | huge, machine=machine) == errno.EPERM


def test_limits_of_other_processes_cannot_be_set(machine: str, program: bytes) -> None:
    number = seccomp.ARGUMENTS["prlimit64"].numbers[column(machine)]
    assert verdict(program, number, 0, machine=machine) == ALLOWED
    for process in (1, 2, 4000, 2**32 + 1):
        assert verdict(program, number, process, machine=machine) == errno.EPERM


def test_files_in_memory_are_denied_where_nothing_counts_them(machine: str) -> None:
    number = seccomp.UNCOUNTED["memfd_create"][column(machine)]
    assert verdict(seccomp.program(machine), number, machine=machine) == ALLOWED
    assert verdict(seccomp.program(machine, memory_is_counted=False), number, machine=machine) == errno.ENOSYS


def test_a_machine_whose_calls_are_unknown_is_refused() -> None:
    with pytest.raises(SandboxError, match=r"riscv64.*x86_64, aarch64"):
        seccomp.program("riscv64")


@pytest.mark.parametrize(
    "header, which",
    [("/usr/include/x86_64-linux-gnu/asm/unistd_64.h", 0), ("/usr/include/asm-generic/unistd.h", 1)],
)
def test_the_numbers_are_those_of_the_kernel_headers(header: str, which: int) -> None:
    if not Path(header).is_file():
        pytest.skip(f"{header} is not installed (linux-libc-dev)")
    found: dict[str, int] = {}
    for name, number in re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)$", Path(header).read_text(), re.MULTILINE):
        found.setdefault(name, int(number))
    rules = {name: rule.numbers for name, rule in seccomp.ARGUMENTS.items()}
    for name, numbers in {
        **seccomp.DENIED,
        **seccomp.ABSENT,
        **seccomp.IGNORED,
        **seccomp.UNCOUNTED,
        **rules,
        **NEEDED,
    }.items():
        assert found.get(name, -1) == numbers[which], name
