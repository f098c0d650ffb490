r"""Taking from a process, by the kernel's help, every right to change a file; for `envs.tasks.scoring.program_runner`.

Two layers keep files whole, each by itself, and a process can shake off neither:

1. *Landlock* (Linux 5.13 and later, where it is switched on): no file can be opened for writing, made, moved, linked
   or removed, no program started, and, as the kernel knows it, no port used and no other process signalled. Landlock
   alone leaves rights and times of the user's own files open.
2. *seccomp* (any Linux on x86-64 and 64-bit Arm): the system calls of `DENIED` are refused, which are the same, a
   file's rights, owner, times and attributes, sockets, processes and the machine's settings; so is opening a file for
   writing by its flags.

Around them: no new privileges; where the job runs as root, the user ``nobody`` with the one capability to read; where
namespaces may be made, a network without devices. What the process holds open stays usable.

As a program it prints the layers that hold here as JSON: ``python confinement.py``.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import platform
import sys
from contextlib import suppress
from typing import NamedTuple

LANDLOCK, SECCOMP = "Landlock", "seccomp"

NOBODY = 65534
CAP_DAC_READ_SEARCH = 2
"""May read every file, as root could: else a program would miss libraries in root's own folders."""

_PR_SET_KEEPCAPS, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 8, 22, 38
_SECCOMP_MODE_FILTER = 2
_CLONE_NEWIPC, _CLONE_NEWUSER, _CLONE_NEWNET, _CLONE_THREAD = 0x08000000, 0x10000000, 0x40000000, 0x10000
_CAPABILITY_VERSION = 0x20080522
_LANDLOCK_CREATE, _LANDLOCK_RESTRICT = 444, 446
"""System calls 424 and later have one number on every architecture."""

WRITING = (
    os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND | getattr(os, "O_TMPFILE", 0) & ~os.O_DIRECTORY
)
"""Flags of an opening that can change a file."""

ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
"""For each machine, the column of its numbers in the tables below and its name in a filter."""

DENIED = """
    # Names of files: created, moved, linked, removed, cut.
    creat=85/- truncate=76/45 rename=82/- renameat=264/38 renameat2=316/276 link=86/- linkat=265/37 symlink=88/-
    symlinkat=266/36 unlink=87/- unlinkat=263/35 mkdir=83/- mkdirat=258/34 rmdir=84/- mknod=133/- mknodat=259/33
    open_by_handle_at=304/265
    # What is written about a file: rights, owner, times, attributes.
    chmod=90/- fchmod=91/52 fchmodat=268/53 fchmodat2=452/452 chown=92/- fchown=93/55 lchown=94/- fchownat=260/54
    utime=132/- utimes=235/- utimensat=280/88 futimesat=261/- setxattr=188/5 lsetxattr=189/6 fsetxattr=190/7
    setxattrat=463/463 removexattr=197/14 lremovexattr=198/15 fremovexattr=199/16 removexattrat=466/466
    file_setattr=469/469 quotactl=179/60 quotactl_fd=443/443
    # File systems.
    mount=165/40 umount2=166/39 pivot_root=155/41 chroot=161/51 mount_setattr=442/442 open_tree=428/428
    open_tree_attr=467/467 move_mount=429/429 fsopen=430/430 fsconfig=431/431 fsmount=432/432 fspick=433/433
    swapon=167/224 swapoff=168/225 acct=163/89
    # Other programs, and other processes.
    fork=57/- vfork=58/- execve=59/221 execveat=322/281 unshare=272/97 setns=308/268 ptrace=101/117
    process_vm_readv=310/270 process_vm_writev=311/271 process_madvise=440/440 pidfd_open=434/434
    pidfd_getfd=438/438 pidfd_send_signal=424/424 rt_sigqueueinfo=129/138 rt_tgsigqueueinfo=297/240 tkill=200/130
    kcmp=312/272 setpriority=141/140 ioprio_set=251/30 sched_setaffinity=203/122 sched_setparam=142/118
    sched_setscheduler=144/119 sched_setattr=314/274
    # Sockets, and what outlives a process.
    socket=41/198 socketpair=53/199 mq_open=240/180 mq_unlink=241/181 msgget=68/186 semget=64/190 shmget=29/194
    # The machine itself.
    bpf=321/280 perf_event_open=298/241 userfaultfd=323/282 add_key=248/217 request_key=249/218 keyctl=250/219
    init_module=175/105 finit_module=313/273 delete_module=176/106 kexec_load=246/104 kexec_file_load=320/294
    reboot=169/142 syslog=103/116 settimeofday=164/170 clock_settime=227/112 clock_adjtime=305/266 adjtimex=159/171
    sethostname=170/161 setdomainname=171/162 iopl=172/- ioperm=173/- vhangup=153/58 fanotify_init=300/262
"""
"""System calls that are refused, ``name=number on x86-64/number on 64-bit Arm``."""

ABSENT = """
    clone3=435/435 openat2=437/437 io_uring_setup=425/425 io_uring_enter=426/426 io_uring_register=427/427
    memfd_secret=447/447
"""
"""System calls that a filter can't look into: the C library does without where the kernel seems not to know them."""

ASKED = "open=2/- openat=257/56 clone=56/220 ioctl=16/29 kill=62/129 tgkill=234/131 prlimit64=302/261"
"""System calls that are refused or not by what they ask for; `_questions` says how."""

_HARMLESS_IOCTLS = (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)
"""What a terminal's settings and size are, how much can be read, blocking, closing on exec."""


class _Instruction(ctypes.Structure):
    _fields_ = [("code", ctypes.c_uint16), ("jt", ctypes.c_uint8), ("jf", ctypes.c_uint8), ("k", ctypes.c_uint32)]


class _Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_uint16), ("instructions", ctypes.c_void_p)]


class _Ruleset(ctypes.Structure):
    _fields_ = [("files", ctypes.c_uint64), ("ports", ctypes.c_uint64), ("scopes", ctypes.c_uint64)]


def _call(number: int, *arguments: object) -> int:
    """Make a system call; the result is negative if it failed."""
    wide = (ctypes.c_long(argument) if isinstance(argument, int) else argument for argument in arguments)
    return int(ctypes.CDLL(None).syscall(ctypes.c_long(number), *wide))


def use_landlock() -> bool:
    """Give up every right that Landlock knows but to read; tell whether the kernel has it."""
    # Flag 1 asks for the version alone.
    version = _call(_LANDLOCK_CREATE, None, 0, 1)
    if version < 1:
        return False
    # Bits 0 to 12 came with version 1, then one each with 2 (move between folders), 3 (cut) and 5 (ask devices).
    rights = (1 << 13) - 1 | (version >= 2) << 13 | (version >= 3) << 14 | (version >= 5) << 15
    # Reading files and listing folders are left to it: imports need them.
    reading = 1 << 2 | 1 << 3
    ports = 3 if version >= 4 else 0
    scopes = 3 if version >= 6 else 0
    rules = _Ruleset(rights & ~reading, ports, scopes)
    # Of the three fields of 8 bytes, those that the version has.
    size = 8 * (1 + (version >= 4) + (version >= 6))
    ruleset = _call(_LANDLOCK_CREATE, ctypes.byref(rules), size, 0)
    if ruleset < 0:
        return False
    is_bound = _call(_LANDLOCK_RESTRICT, ruleset, 0) == 0
    os.close(ruleset)
    return is_bound


def _numbers(table: str, column: int) -> dict[str, int]:
    """Read a table of system calls: the numbers that an architecture has, by name."""
    lines = [line for line in table.split("\n") if not line.strip().startswith("#")]
    found: dict[str, int] = {}
    for word in " ".join(lines).split():
        name, _, numbers = word.partition("=")
        number = numbers.split("/")[column]
        if number != "-":
            found[name] = int(number)
    return found


# A filter is a program of few words (man 2 seccomp): load, jump if equal, at least or any bit set, return.
_LOAD, _IF_EQUAL, _IF_AT_LEAST, _IF_ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _REFUSE, _NOT_THERE, _KILL = 0x7FFF0000, 0x50000 | errno.EPERM, 0x50000 | errno.ENOSYS, 0x80000000
_NUMBER, _ARCHITECTURE = 0, 4


class _Test(NamedTuple):
    """What a system call is asked before it is allowed: the lower half of an argument against some values."""

    argument: int
    comparison: int
    values: tuple[int, ...]
    if_so: int
    otherwise: int


def _questions() -> dict[str, _Test]:
    # Taken when the filter is made, which is in the process that is confined.
    own = (os.getpid(),)
    return {
        "open": _Test(1, _IF_ANY_BIT, (WRITING,), _REFUSE, _ALLOW),
        "openat": _Test(2, _IF_ANY_BIT, (WRITING,), _REFUSE, _ALLOW),
        "clone": _Test(0, _IF_ANY_BIT, (_CLONE_THREAD,), _ALLOW, _REFUSE),
        "ioctl": _Test(1, _IF_EQUAL, _HARMLESS_IOCTLS, _ALLOW, _REFUSE),
        "kill": _Test(0, _IF_EQUAL, own, _ALLOW, _REFUSE),
        "tgkill": _Test(0, _IF_EQUAL, own, _ALLOW, _REFUSE),
        "prlimit64": _Test(0, _IF_EQUAL, (0, *own), _ALLOW, _REFUSE),
    }


def _filter(machine: str) -> list[tuple[int, int, int, int]]:
    """Return the filter's instructions: code, steps to skip if true, steps to skip if false, value."""
    column, architecture = ARCHITECTURES[machine]
    # Calls in another architecture's numbers would pass as others: those of 32 bits, and x86-64's own second set.
    steps = [(_LOAD, 0, 0, _ARCHITECTURE), (_IF_EQUAL, 1, 0, architecture), (_RETURN, 0, 0, _KILL)]
    steps += [(_LOAD, 0, 0, _NUMBER), (_IF_AT_LEAST, 0, 1, 0x40000000), (_RETURN, 0, 0, _REFUSE)]
    for table, answer in ((DENIED, _REFUSE), (ABSENT, _NOT_THERE)):
        for number in _numbers(table, column).values():
            steps += [(_IF_EQUAL, 0, 1, number), (_RETURN, 0, 0, answer)]
    questions = _questions()
    for name, number in _numbers(ASKED, column).items():
        test = questions[name]
        # Arguments are 64 bits wide, from byte 16 on, the lower half first.
        steps += [(_IF_EQUAL, 0, 2 * len(test.values) + 2, number), (_LOAD, 0, 0, 16 + 8 * test.argument)]
        for value in test.values:
            steps += [(test.comparison, 0, 1, value), (_RETURN, 0, 0, test.if_so)]
        steps.append((_RETURN, 0, 0, test.otherwise))
    return [*steps, (_RETURN, 0, 0, _ALLOW)]


def use_seccomp() -> bool:
    """Have the kernel refuse the system calls of the tables; tell whether it does."""
    machine = platform.machine()
    if machine not in ARCHITECTURES or sys.maxsize < 2**32:
        return False
    steps = _filter(machine)
    instructions = (_Instruction * len(steps))(*(_Instruction(*step) for step in steps))
    program = _Program(len(steps), ctypes.addressof(instructions))
    filtering = _prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(program))
    return filtering == 0


def _prctl(option: int, value: int, pointer: object = None) -> int:
    wide = pointer if pointer is not None else ctypes.c_long(0)
    return int(
        ctypes.CDLL(None).prctl(ctypes.c_int(option), ctypes.c_long(value), wide, ctypes.c_long(0), ctypes.c_long(0))
    )


def leave_network() -> bool:
    """Go to a network of one's own, without devices; tell whether that is allowed here."""
    alone = _CLONE_NEWNET | _CLONE_NEWIPC
    # Another user namespace would take from root the right to read what is in its own folders.
    flags = alone if os.geteuid() == 0 else alone | _CLONE_NEWUSER
    return bool(ctypes.CDLL(None).unshare(ctypes.c_int(flags)) == 0)


def become_nobody() -> bool:
    """Change from root to a user who owns no files, but may read all; tell whether that was possible."""
    if os.geteuid() != 0:
        return False
    _prctl(_PR_SET_KEEPCAPS, 1)
    try:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
    except OSError:  # a container whose users end below this one
        return False
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION, 0)
    held = 1 << CAP_DAC_READ_SEARCH
    # Effective, permitted and inheritable capabilities, the lower 32 bits and then the upper ones.
    capabilities = (ctypes.c_uint32 * 6)(held, held, 0, 0, 0, 0)
    # Rather no capability at all than those that were kept over the change of user.
    if ctypes.CDLL(None).capset(header, capabilities) != 0:
        ctypes.CDLL(None).capset(header, (ctypes.c_uint32 * 6)())
    return True


def keep_privileges_as_they_are() -> None:
    """Let no program that is started have more rights than this one: what both layers ask for."""
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)


def confine() -> list[str]:
    """Take the rights away and name the layers that hold now; a program may run if `LANDLOCK` or `SECCOMP` does."""
    held = []
    for name, use in (("own network", leave_network), ("user nobody", become_nobody)):
        # The network first, while root still may; and before the filter, which refuses unshare.
        with suppress(AttributeError):  # a C library without the call
            held += [name] * use()
    keep_privileges_as_they_are()
    return held + [name for name, use in ((LANDLOCK, use_landlock), (SECCOMP, use_seccomp)) if use()]


if __name__ == "__main__":
    sys.stdout.write(json.dumps(confine()))
