# SPDX-License-Identifier: Apache-2.0
"""Shuts this process in, for good, before it looks at a byte that a guest wrote.

It is nobody, has namespaces of its own, little memory, and may do nothing but compute, read and write what is open.

Source: prctl(2), unshare(2), seccomp(2), setrlimit(2); linux/bpf_common.h, linux/seccomp.h; the kernel's system call
tables of x86-64 and of the generic ABI (aarch64).
"""

from __future__ import annotations

import ctypes
import os
import platform
import resource
import signal
import struct

from donjon.errors import HostError

MEMORY = 1536 << 20
COMPLAINTS = 1 << 20
PROCESSES = 256
NOBODY = 65534
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 1, 4, 22, 38
_NEW_NS, _NEW_UTS, _NEW_IPC, _NEW_USER, _NEW_NET = 0x20000, 0x4000000, 0x8000000, 0x10000000, 0x40000000

# read write close fstat poll lseek mmap mprotect munmap brk rt_sigaction rt_sigprocmask rt_sigreturn readv writev
# mremap madvise getpid exit futex sched_yield clock_gettime clock_nanosleep exit_group getrandom gettid sigaltstack
# restart_syscall set_robust_list rseq; then clone, for threads: a key may be derived on several processors
_X86 = (0, 1, 3, 5, 7, 8, 9, 10, 11, 12, 13, 14, 15, 19, 20, 25, 28, 39, 60, 202, 24, 228, 230, 231, 318, 186, 131)
_ARM = (63, 64, 57, 80, 73, 62, 222, 226, 215, 214, 134, 135, 139, 65, 66, 216, 233, 172, 93, 98, 124, 113, 115, 94)
_CALLS = {
    "x86_64": (0xC000003E, (*_X86, 219, 273, 334), 56),
    "aarch64": (0xC00000B7, (*_ARM, 278, 178, 132, 128, 99, 293), 220),
}
_CLONE3 = 435  # cannot be looked into; the C library asks for clone when there is none
_THREAD = 0x10000
_LOAD, _EQUAL, _HAS, _RETURN = 0x20, 0x15, 0x45, 0x06
_KILL, _REFUSE, _NOT_THERE, _ALLOW = 0x80000000, 0x00050001, 0x00050026, 0x7FFF0000
_STEP = "=HBBI"
_libc = ctypes.CDLL(None, use_errno=True)


def shut_in() -> None:
    """Give up everything but memory, processor and the open descriptors.

    Raises:
        HostError: the kernel did not take it all.
    """
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    _limit()
    separate = _NEW_NS | _NEW_UTS | _NEW_IPC | _NEW_NET
    if os.geteuid() == 0:
        _libc.unshare(separate)  # refused in some containers; the filter below holds all the same
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
    else:
        _libc.unshare(separate | _NEW_USER)  # as above, where users may not make namespaces
    _prctl(_PR_SET_DUMPABLE, 0)
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    _filter_calls()


def _limit() -> None:
    limits = {
        resource.RLIMIT_AS: MEMORY,
        resource.RLIMIT_FSIZE: COMPLAINTS,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_NOFILE: 16,
    }
    if os.geteuid() == 0:  # of nobody's, all together; another user's own could be many
        limits[resource.RLIMIT_NPROC] = PROCESSES
    for what, wanted in limits.items():
        _, now = resource.getrlimit(what)
        most = wanted if now == resource.RLIM_INFINITY else min(wanted, now)
        resource.setrlimit(what, (most, most))


def call_filter(machine: str) -> bytes:
    """The filter of system calls for a machine, as uname(2) has it. Raises HostError: none is known."""
    if machine not in _CALLS:
        raise HostError(
            f"cannot read the guest's files: the reader cannot be shut in on {machine}",
            hint="use a host with x86-64 or ARM 64 processors, or restore the disk",
        )
    architecture, calls, clone = _CALLS[machine]
    program = [(_LOAD, 0, 0, 4), (_EQUAL, 1, 0, architecture), (_RETURN, 0, 0, _KILL), (_LOAD, 0, 0, 0)]
    program += [(_EQUAL, 0, 1, _CLONE3), (_RETURN, 0, 0, _NOT_THERE)]
    program += [(_EQUAL, 0, 4, clone), (_LOAD, 0, 0, 16), (_HAS, 0, 1, _THREAD)]
    program += [(_RETURN, 0, 0, _ALLOW), (_RETURN, 0, 0, _REFUSE)]
    program += [(_EQUAL, len(calls) - number, 0, call) for number, call in enumerate(calls)]
    program += [(_RETURN, 0, 0, _REFUSE), (_RETURN, 0, 0, _ALLOW)]
    return b"".join(struct.pack(_STEP, *step) for step in program)


def _filter_calls() -> None:
    program = call_filter(platform.machine())
    code = ctypes.create_string_buffer(program)
    header = ctypes.create_string_buffer(
        struct.pack("@HP", len(program) // struct.calcsize(_STEP), ctypes.addressof(code))
    )
    _prctl(_PR_SET_SECCOMP, 2, ctypes.addressof(header))


def _prctl(*words: int) -> None:
    padded = [ctypes.c_ulong(word) for word in (*words, 0, 0, 0, 0)[:5]]
    if _libc.prctl(*padded):
        raise HostError(f"cannot shut in the reader of guests' files: {os.strerror(ctypes.get_errno())}")
