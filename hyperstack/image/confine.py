"""Takes a process's own powers away, before it reads the first hostile byte.

Afterwards the process has no capabilities and an unprivileged uid, sees no network, cannot open, execute, connect or
trace anything, and works on the descriptors it already has within the given limits.
"""

from __future__ import annotations

import ctypes
import errno
import os
import resource
import signal

import pyseccomp

_CLONE_NEWNS, _CLONE_NEWUTS, _CLONE_NEWIPC, _CLONE_NEWNET = 0x00020000, 0x04000000, 0x08000000, 0x40000000
_CLONE_THREAD = 0x00010000
_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS = 1, 38
_NICENESS = 5
"""Unpacking gives way to running pods."""
_MAX_FILE = 1 << 43
_ALLOWED = (
    "brk", "clock_gettime", "clock_nanosleep", "close", "copy_file_range", "dup", "exit", "exit_group", "fcntl",
    "fstat", "ftruncate", "futex", "getpid", "getrandom", "gettid", "gettimeofday", "getuid", "lseek", "madvise",
    "mmap", "mprotect", "mremap", "munmap", "newfstatat", "poll", "pread64", "pwrite64", "read", "readv",
    "restart_syscall", "rseq", "rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "sched_getaffinity", "sched_yield",
    "sendfile", "set_robust_list", "sigaltstack", "tgkill", "write", "writev")
"""What an interpreter with threads needs to compute, and to read and write what is open."""


class ConfinementError(OSError):
    """This host refuses a step."""


def confine(*, uid: int | None, memory: int, cpu_seconds: int) -> None:
    """Irrevocably. `uid` None (a daemon that is not root, as in tests): the uid and the namespaces stay.

    :raise ConfinementError: a step failed; the process should end.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    try:
        os.nice(_NICENESS)
        _limit(resource.RLIMIT_CORE, 0)
        _limit(resource.RLIMIT_AS, memory)
        _limit(resource.RLIMIT_CPU, cpu_seconds)
        _limit(resource.RLIMIT_FSIZE, _MAX_FILE)
        if uid is not None:
            _call(libc.unshare(_CLONE_NEWNS | _CLONE_NEWUTS | _CLONE_NEWIPC | _CLONE_NEWNET))
            os.setgroups([])
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
        # After the uid, whose change would clear it.
        _call(libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0))
        _call(libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
        _filter()
    except OSError as error:
        raise ConfinementError(error.errno, f"cannot confine the unpacking process: {error.strerror}") from error


def _limit(which: int, value: int) -> None:
    hard = resource.getrlimit(which)[1]
    if hard != resource.RLIM_INFINITY:
        value = min(value, hard)
    resource.setrlimit(which, (value, value))


def _call(result: int) -> None:
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def _filter() -> None:
    rules = pyseccomp.SyscallFilter(pyseccomp.ERRNO(errno.EPERM))
    for name in _ALLOWED:
        rules.add_rule(pyseccomp.ALLOW, name)
    rules.add_rule(pyseccomp.ALLOW, "clone", pyseccomp.Arg(0, pyseccomp.MASKED_EQ, _CLONE_THREAD, _CLONE_THREAD))
    # Its flags are behind a pointer; without it glibc takes clone.
    rules.add_rule(pyseccomp.ERRNO(errno.ENOSYS), "clone3")
    rules.load()
