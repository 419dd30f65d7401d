"""The filter of system calls that holds in every room: seccomp's classic BPF, assembled here."""

from __future__ import annotations

import errno
import platform
import stat
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cascade.errors import SandboxError

AUDIT_ARCHITECTURES: Mapping[str, int] = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}  # linux/audit.h

NEWEST = 456
"""`futex_requeue` of Linux 6.7. What came later does not exist inside, whatever it can do: programs fall back."""

X32 = 0x40000000  # numbers from here on reach x86-64's system calls under other names

# name: (number on x86-64, number on aarch64); -1 where that has none
DENIED: Mapping[str, tuple[int, int]] = {
    # other processes
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "kcmp": (312, 272),
    "pidfd_getfd": (438, 438), "process_madvise": (440, 440),
    # mounts and namespaces
    "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41), "chroot": (161, 51), "unshare": (272, 97),
    "setns": (308, 268), "open_tree": (428, 428), "move_mount": (429, 429), "fsopen": (430, 430),
    "fsconfig": (431, 431), "fsmount": (432, 432), "fspick": (433, 433), "mount_setattr": (442, 442),
    "name_to_handle_at": (303, 264), "open_by_handle_at": (304, 265), "fanotify_init": (300, 262),
    # parts of the kernel where its holes are found
    "bpf": (321, 280), "perf_event_open": (298, 241), "userfaultfd": (323, 282), "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426), "io_uring_register": (427, 427), "keyctl": (250, 219), "add_key": (248, 217),
    "request_key": (249, 218), "modify_ldt": (154, -1), "memfd_secret": (447, 447),
    # the machine
    "kexec_load": (246, 104), "kexec_file_load": (320, 294), "init_module": (175, 105), "finit_module": (313, 273),
    "delete_module": (176, 106), "reboot": (169, 142), "swapon": (167, 224), "swapoff": (168, 225),
    "settimeofday": (164, 170), "clock_settime": (227, 112), "adjtimex": (159, 171), "clock_adjtime": (305, 266),
    "acct": (163, 89), "quotactl": (179, 60), "quotactl_fd": (443, 443), "syslog": (103, 116), "iopl": (172, -1),
    "ioperm": (173, -1), "vhangup": (153, 58), "sethostname": (170, 161), "setdomainname": (171, 162),
    # long dead
    "uselib": (134, -1), "ustat": (136, -1), "sysfs": (139, -1), "_sysctl": (156, -1), "create_module": (174, -1),
    "get_kernel_syms": (177, -1), "query_module": (178, -1), "nfsservctl": (180, 42), "lookup_dcookie": (212, 18),
}  # fmt: skip
"""They fail with EPERM."""

ABSENT: Mapping[str, tuple[int, int]] = {
    "clone3": (435, 435),  # its flags lie in memory, where no filter sees them; the C library falls back to clone
    # memory which outlives its process and is part of no process's own
    "shmget": (29, 194), "msgget": (68, 186), "semget": (64, 190),
}  # fmt: skip
"""They fail with ENOSYS, as on a kernel that was built without them."""

IGNORED: Mapping[str, tuple[int, int]] = {
    "setpriority": (141, 140), "ioprio_set": (251, 30), "sched_setaffinity": (203, 122),
    "sched_setscheduler": (144, 119), "sched_setparam": (142, 118), "sched_setattr": (314, 274),
    "sync": (162, 81), "syncfs": (306, 267), "fadvise64": (221, 223),
}  # fmt: skip
"""They succeed and do nothing.

By the first six a program could slow its room's first process, or seem short of cores; by the others it could make the
whole machine write, or forget the files that others read.
"""

UNCOUNTED: Mapping[str, tuple[int, int]] = {"memfd_create": (319, 279)}
"""Absent too where no cgroup counts memory that is in no process's address space."""

NEW_NAMESPACE = 0x7E020000  # CLONE_NEWNS, -CGROUP, -UTS, -IPC, -USER, -PID, -NET; NEWTIME is clone3's only
AF_UNIX = 1
TIOCSTI, TIOCLINUX = 0x5412, 0x541C  # both put characters into the input of a terminal
MAP_HUGETLB, MFD_HUGETLB = 0x40000, 4
NO_CHANGE = 0xFFFFFFFF  # asks `personality` what is set


@dataclass(frozen=True, slots=True)
class Argument:
    """A call that is denied by one of its arguments, of which the kernel reads the low 32 bits.

    Allowed is what has, after masking, one of the `values`, or with `allowed=False` what has none of them.
    """

    numbers: tuple[int, int]
    index: int
    mask: int
    values: tuple[int, ...]
    allowed: bool


ARGUMENTS: Mapping[str, Argument] = {
    "socket": Argument((41, 198), 0, 0xFFFFFFFF, (AF_UNIX,), True),
    "socketpair": Argument((53, 199), 0, 0xFFFFFFFF, (AF_UNIX,), True),
    "clone": Argument((56, 220), 0, NEW_NAMESPACE, (0,), True),
    "personality": Argument((135, 92), 0, 0xFFFFFFFF, (0, NO_CHANGE), True),
    "mmap": Argument((9, 222), 3, MAP_HUGETLB, (0,), True),  # from a pool that control groups do not count
    "memfd_create": Argument((319, 279), 1, MFD_HUGETLB, (0,), True),
    "prlimit64": Argument((302, 261), 0, 0xFFFFFFFF, (0,), True),  # of itself, not of the room's first process
    "ioctl": Argument((16, 29), 1, 0xFFFFFFFF, (TIOCSTI, TIOCLINUX), False),
    "mknod": Argument((133, -1), 1, stat.S_IFMT(0xFFFF), (stat.S_IFCHR, stat.S_IFBLK), False),
    "mknodat": Argument((259, 33), 2, stat.S_IFMT(0xFFFF), (stat.S_IFCHR, stat.S_IFBLK), False),
}

# struct seccomp_data: int nr; u32 arch; u64 instruction_pointer; u64 args[6]. Both architectures are little-endian.
NUMBER_AT, ARCHITECTURE_AT, ARGUMENTS_AT = 0, 4, 16
LOAD, AND, EQUAL, ABOVE, AT_LEAST, RETURN = 0x20, 0x54, 0x15, 0x25, 0x35, 0x06  # linux/bpf_common.h
ALLOW, KILL, ERROR = 0x7FFF0000, 0x80000000, 0x00050000  # linux/seccomp.h; KILL ends the whole process

Instruction = tuple[int, int, int, int]  # code, jump if true, jump if false (instructions to skip), constant


def program(machine: str | None = None, memory_is_counted: bool = True) -> bytes:
    """The filter as an array of `struct sock_filter`, as `bwrap --seccomp FD` reads it.

    It is a list of what is denied: the room's namespaces, uid and limits hold by themselves, and this is the second
    wall, around what the kernel would rather not have shown to anyone. Calls of another architecture kill.

    Args:
        machine: as `platform.machine()` names it, and that by default.
        memory_is_counted: a cgroup counts all memory; without one, files in memory are denied as well.

    Raises `SandboxError` for a machine whose system calls are not known here.
    """
    machine = machine or platform.machine()
    if machine not in AUDIT_ARCHITECTURES:
        raise SandboxError(
            f"The filter of system calls is not written for {machine}.",
            f"Run programs on one of: {', '.join(AUDIT_ARCHITECTURES)}.",
        )
    column = list(AUDIT_ARCHITECTURES).index(machine)
    absent = ABSENT if memory_is_counted else {**ABSENT, **UNCOUNTED}
    code = [*_entry(AUDIT_ARCHITECTURES[machine])]
    for name, argument in ARGUMENTS.items():
        if name not in absent:
            code += _by_argument(argument, argument.numbers[column])
    code += _by_number(*(_numbers(calls, column) for calls in (DENIED, absent, IGNORED)))
    return b"".join(struct.pack("<HBBI", *instruction) for instruction in code)


def _numbers(calls: Mapping[str, tuple[int, int]], column: int) -> list[int]:
    return [numbers[column] for numbers in calls.values() if numbers[column] >= 0]


def _entry(architecture: int) -> list[Instruction]:
    """Leaves the number of the call in the accumulator."""
    return [
        (LOAD, 0, 0, ARCHITECTURE_AT),
        (EQUAL, 1, 0, architecture),
        (RETURN, 0, 0, KILL),
        (LOAD, 0, 0, NUMBER_AT),
        (AT_LEAST, 0, 1, X32),
        (RETURN, 0, 0, KILL),
        (ABOVE, 0, 1, NEWEST),
        (RETURN, 0, 0, ERROR | errno.ENOSYS),
    ]


def _by_argument(rule: Argument, number: int) -> list[Instruction]:
    """Decides one call; passes every other on with its number in the accumulator."""
    if number < 0:
        return []
    hit, miss = (ALLOW, ERROR | errno.EPERM) if rule.allowed else (ERROR | errno.EPERM, ALLOW)
    tests = [(EQUAL, len(rule.values) - index, 0, value) for index, value in enumerate(rule.values)]
    body = [(LOAD, 0, 0, ARGUMENTS_AT + 8 * rule.index), (AND, 0, 0, rule.mask), *tests]
    return [(EQUAL, 0, len(body) + 2, number), *body, (RETURN, 0, 0, miss), (RETURN, 0, 0, hit)]


def _by_number(denied: Sequence[int], absent: Sequence[int], ignored: Sequence[int]) -> list[Instruction]:
    """Jumps reach 255 instructions, which is more than there are calls here."""
    calls = [(number, to) for to, numbers in enumerate((denied, absent, ignored), 1) for number in numbers]
    tests = [(EQUAL, len(calls) - 1 - index + to, 0, number) for index, (number, to) in enumerate(calls)]
    ends = [(RETURN, 0, 0, value) for value in (ALLOW, ERROR | errno.EPERM, ERROR | errno.ENOSYS, ERROR)]
    return [*tests, *ends]
