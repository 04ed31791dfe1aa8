"""Takes a process's own powers away, before it reads the first hostile byte.

Afterwards the process has no capabilities and an unprivileged uid, sees no network, cannot open, execute, connect or
trace anything, and works on the descriptors it already has within the given limits.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal

_CLONE_NEWNS, _CLONE_NEWUTS, _CLONE_NEWIPC, _CLONE_NEWNET = 0x00020000, 0x04000000, 0x08000000, 0x40000000
_PR_SET_PDEATHSIG, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 1, 22, 38
_SECCOMP_MODE_FILTER = 2
_NICENESS = 5
"""Unpacking gives way to running pods."""
_MAX_FILE = 1 << 43
_SOCK_FILTER_SIZE = 8


class _SockFilterProgram(ctypes.Structure):
    """struct sock_fprog"""

    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


class ConfinementError(OSError):
    """This host refuses a step."""


def confine(*, uid: int | None, memory: int, cpu_seconds: int, system_calls: bytes) -> None:
    """Irrevocably. `uid` None (a daemon that is not root, as in tests): the uid and the namespaces stay.
    `system_calls` is a seccomp filter, see `hyperstack.image.syscalls`.

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
        program = _SockFilterProgram(len(system_calls) // _SOCK_FILTER_SIZE, system_calls)
        _call(libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0))
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
