"""The system calls that an unpacking process keeps; compiled once, by the daemon, so that the process starts faster."""

from __future__ import annotations

import errno
import functools
import os

import pyseccomp

_CLONE_THREAD = 0x00010000
ALLOWED = (
    "brk", "clock_gettime", "clock_nanosleep", "close", "copy_file_range", "dup", "exit", "exit_group", "fcntl",
    "fstat", "ftruncate", "futex", "getpid", "getrandom", "gettid", "gettimeofday", "getuid", "lseek", "madvise",
    "mmap", "mprotect", "mremap", "munmap", "newfstatat", "poll", "pread64", "pwrite64", "read", "readv",
    "restart_syscall", "rseq", "rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "sched_getaffinity", "sched_yield",
    "sendfile", "set_robust_list", "sigaltstack", "tgkill", "write", "writev")
"""What an interpreter with threads needs to compute, and to read and write what is open."""


@functools.cache
def compiled() -> bytes:
    """An array of struct sock_filter: those calls and new threads are allowed, all else fails with EPERM."""
    rules = pyseccomp.SyscallFilter(pyseccomp.ERRNO(errno.EPERM))
    for name in ALLOWED:
        rules.add_rule(pyseccomp.ALLOW, name)
    rules.add_rule(pyseccomp.ALLOW, "clone", pyseccomp.Arg(0, pyseccomp.MASKED_EQ, _CLONE_THREAD, _CLONE_THREAD))
    # Its flags are behind a pointer; without it glibc takes clone.
    rules.add_rule(pyseccomp.ERRNO(errno.ENOSYS), "clone3")
    with os.fdopen(os.memfd_create("filter"), "w+b") as file:
        rules.export_bpf(file)
        file.seek(0)
        return file.read()
