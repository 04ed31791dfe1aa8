"""The default seccomp filter of containers: Docker's published default profile, compiled for x86-64 guests.

What the profile does not allow fails with EPERM; what is newer than the profile fails with ENOSYS, as runc has it, so
that a C library falls back to an older call instead of giving up. 32-bit programs have the same rules.

The numbers of the calls are libseccomp's. The filter that it exports for these rules decides the same (a test compares
them) but is more than five times as long: under emulation a guest's kernel would take a third of a container's start to
install it.
"""

from __future__ import annotations

import errno
from functools import cache, lru_cache

import pyseccomp

from hyperstack.guest.filter_program import AND, JUMP_AT_LEAST, JUMP_EQUAL, LOAD, RETURN, Program, Run, add_search
from hyperstack.guest.linux import capability_name

_ALWAYS = """
    accept accept4 access adjtimex alarm arch_prctl bind brk capget capset chdir chmod chown chown32 clock_adjtime
    clock_adjtime64 clock_getres clock_getres_time64 clock_gettime clock_gettime64 clock_nanosleep
    clock_nanosleep_time64 close close_range connect copy_file_range creat dup dup2 dup3 epoll_create epoll_create1
    epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait epoll_wait_old eventfd eventfd2 execve execveat exit
    exit_group faccessat faccessat2 fadvise64 fadvise64_64 fallocate fanotify_mark fchdir fchmod fchmodat fchown
    fchown32 fchownat fcntl fcntl64 fdatasync fgetxattr flistxattr flock fork fremovexattr fsetxattr fstat fstat64
    fstatat64 fstatfs fstatfs64 fsync ftruncate ftruncate64 futex futex_time64 futex_waitv futimesat
    get_robust_list get_thread_area getcpu getcwd getdents getdents64 getegid getegid32 geteuid geteuid32 getgid
    getgid32 getgroups getgroups32 getitimer getpeername getpgid getpgrp getpid getppid getpriority getrandom
    getresgid getresgid32 getresuid getresuid32 getrlimit getrusage getsid getsockname getsockopt gettid gettimeofday
    getuid getuid32 getxattr inotify_add_watch inotify_init inotify_init1 inotify_rm_watch io_cancel io_destroy
    io_getevents io_pgetevents io_pgetevents_time64 io_setup io_submit ioctl ioprio_get ioprio_set ipc kill
    landlock_add_rule landlock_create_ruleset landlock_restrict_self lchown lchown32 lgetxattr link linkat listen
    listxattr llistxattr _llseek lremovexattr lseek lsetxattr lstat lstat64 madvise membarrier memfd_create
    memfd_secret mincore mkdir mkdirat mknod mknodat mlock mlock2 mlockall mmap mmap2 modify_ldt mprotect
    mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedreceive_time64 mq_timedsend mq_timedsend_time64 mq_unlink
    mremap msgctl msgget msgrcv msgsnd msync munlock munlockall munmap name_to_handle_at nanosleep newfstatat
    _newselect open openat openat2 pause pidfd_open pidfd_send_signal pipe pipe2 pkey_alloc pkey_free pkey_mprotect
    poll ppoll ppoll_time64 prctl pread64 preadv preadv2 prlimit64 process_mrelease process_vm_readv
    process_vm_writev pselect6 pselect6_time64 ptrace pwrite64 pwritev pwritev2 read readahead readlink readlinkat
    readv recv recvfrom recvmmsg recvmmsg_time64 recvmsg remap_file_pages removexattr rename renameat renameat2
    restart_syscall rmdir rseq rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend
    rt_sigtimedwait rt_sigtimedwait_time64 rt_tgsigqueueinfo sched_get_priority_max sched_get_priority_min
    sched_getaffinity sched_getattr sched_getparam sched_getscheduler sched_rr_get_interval
    sched_rr_get_interval_time64 sched_setaffinity sched_setattr sched_setparam sched_setscheduler sched_yield
    seccomp select semctl semget semop semtimedop semtimedop_time64 send sendfile sendfile64 sendmmsg sendmsg sendto
    set_robust_list set_thread_area set_tid_address setfsgid setfsgid32 setfsuid setfsuid32 setgid setgid32
    setgroups setgroups32 setitimer setpgid setpriority setregid setregid32 setresgid setresgid32 setresuid
    setresuid32 setreuid setreuid32 setrlimit setsid setsockopt setuid setuid32 setxattr shmat shmctl shmdt shmget
    shutdown sigaltstack signalfd signalfd4 sigprocmask sigreturn socketcall socketpair splice stat stat64 statfs
    statfs64 statx symlink symlinkat sync sync_file_range syncfs sysinfo tee tgkill time timer_create timer_delete
    timer_getoverrun timer_gettime timer_gettime64 timer_settime timer_settime64 timerfd_create timerfd_gettime
    timerfd_gettime64 timerfd_settime timerfd_settime64 times tkill truncate truncate64 ugetrlimit umask uname unlink
    unlinkat utime utimensat utimensat_time64 utimes vfork vmsplice wait4 waitid waitpid write writev
    """

_WITH_CAPABILITY = {
    "CAP_DAC_READ_SEARCH": "open_by_handle_at",
    "CAP_SYS_ADMIN": "bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie mount "
                     "mount_setattr move_mount open_tree perf_event_open quotactl quotactl_fd setdomainname "
                     "sethostname setns syslog umount umount2 unshare",
    "CAP_SYS_BOOT": "reboot",
    "CAP_SYS_CHROOT": "chroot",
    "CAP_SYS_MODULE": "delete_module init_module finit_module",
    "CAP_SYS_PACCT": "acct",
    "CAP_SYS_PTRACE": "kcmp pidfd_getfd process_madvise process_vm_readv process_vm_writev ptrace",
    "CAP_SYS_RAWIO": "iopl ioperm",
    "CAP_SYS_TIME": "settimeofday stime clock_settime clock_settime64",
    "CAP_SYS_TTY_CONFIG": "vhangup",
    "CAP_SYS_NICE": "get_mempolicy mbind set_mempolicy set_mempolicy_home_node",
    "CAP_SYSLOG": "syslog",
    "CAP_BPF": "bpf",
    "CAP_PERFMON": "perf_event_open",
}

_FIRST_NEW = 451
"""From here on numbers are the same on all architectures, and libseccomp 2.5 (Debian 12) has no names for them."""

_NEW = {
    "cachestat": 451, "fchmodat2": 452, "map_shadow_stack": 453, "futex_wake": 454, "futex_wait": 455,
    "futex_requeue": 456, "statmount": 457, "listmount": 458, "mseal": 462, "setxattrat": 463, "getxattrat": 464,
    "listxattrat": 465, "removexattrat": 466}
_NEW_FOR_ADMIN = {"lsm_get_self_attr": 459, "lsm_set_self_attr": 460, "lsm_list_modules": 461}

_CLONE_NEW = 0x7E020000
"""CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID and NEWNET."""

_PERSONALITIES = (0x0, 0x8, 0x20000, 0x20008, 0xFFFFFFFF)
"""Linux, Linux/32, both with UNAME26, and the question for the current one."""

_AF_ALG = 38
_AF_VSOCK = 40
"""Address families that are denied: AF_ALG has a record of kernel bugs, AF_VSOCK is no business of a container.
AF_NFC is the one between them."""

_X32_BIT = 0x40000000
_NO_CALL = 0xFFFFFFFF
"""What a tracer makes of a call that it cancels."""

_X86_64, _I386 = 0xC000003E, 0x40000003
"""AUDIT_ARCH_X86_64 and AUDIT_ARCH_I386."""
_NUMBER, _ARCHITECTURE, _ARGUMENT, _ARGUMENT_HIGH = 0, 4, 16, 20
"""Offsets in struct seccomp_data; of the first argument there are two words."""

_ALLOW, _DENY, _UNKNOWN = "allow", "deny", "unknown"
_NEWER, _CLONE, _SOCKET, _PERSONALITY = "newer", "clone", "socket", "personality"
_WIDE = {_PERSONALITY: "personality of 64 bits"}
"""Labels: the three answers, the search among newer calls, and the calls that depend on their arguments. A 64-bit
program's argument is compared as a whole where the kernel takes a whole one; a 32-bit program's has no high word
(though the register may have). A socket's family is an int: high bits, which the kernel drops, must not get past."""


@lru_cache(maxsize=64)
def default_profile(capabilities: frozenset[str]) -> bytes:
    """An array of `struct sock_filter` for a container with these capabilities.

    :raise InvalidArgument: no such capability.
    """
    names = frozenset(capability_name(name) for name in capabilities)
    allowed = set(_ALWAYS.split())
    for name in names:
        allowed.update(_WITH_CAPABILITY.get(name, "").split())
    new = _NEW | (_NEW_FOR_ADMIN if "CAP_SYS_ADMIN" in names else {})

    program = Program()
    program.add(LOAD, _ARCHITECTURE)
    program.add(JUMP_EQUAL, _X86_64, "x86_64")
    program.add(JUMP_EQUAL, _I386, "i386")
    program.add(LOAD, _NUMBER)
    program.add(JUMP_AT_LEAST, _FIRST_NEW, _NEWER, _UNKNOWN)
    program.label("x86_64")
    program.add(LOAD, _NUMBER)
    add_search(program, [*_runs(pyseccomp.Arch.X86_64, allowed, _WIDE), (_FIRST_NEW, _NEWER), (_X32_BIT, _UNKNOWN),
                         (_NO_CALL, _DENY)])
    program.label("i386")
    program.add(LOAD, _NUMBER)
    add_search(program, [*_runs(pyseccomp.Arch.X86, allowed, {}), (_FIRST_NEW, _NEWER), (_X32_BIT, _DENY)])
    program.label(_NEWER)
    add_search(program, _new_calls(set(new.values())))
    _add_conditions(program)
    for label, answer in ((_ALLOW, pyseccomp.ALLOW), (_DENY, pyseccomp.ERRNO(errno.EPERM)),
                          (_UNKNOWN, pyseccomp.ERRNO(errno.ENOSYS))):
        program.label(label)
        program.add(RETURN, answer)
    return program.assembled()


def _runs(architecture: int, allowed: set[str], wide: dict[str, str]) -> list[Run]:
    """What becomes of the calls that the profile knows; `wide` are other labels of conditions."""
    decisions = []
    for name in _calls(architecture):
        if name in allowed:
            decisions.append(_ALLOW)
        elif name in (_SOCKET, _PERSONALITY, _CLONE):
            decisions.append(wide.get(name, name))
        else:
            # The flags of clone3 are behind a pointer, where a filter cannot look: programs fall back to clone.
            decisions.append(_UNKNOWN if name == "clone3" else _DENY)
    return _merged(0, decisions)


@cache
def _calls(architecture: int) -> tuple[str, ...]:
    """Names by number, empty where there is none."""
    names = []
    for number in range(_FIRST_NEW):
        try:
            names.append(pyseccomp.resolve_syscall(architecture, number).decode())
        except ValueError:
            names.append("")
    return tuple(names)


def _new_calls(allowed: set[int]) -> list[Run]:
    return _merged(_FIRST_NEW, [_ALLOW if number in allowed else _UNKNOWN
                                for number in range(_FIRST_NEW, max(allowed) + 2)])


def _merged(first: int, decisions: list[str]) -> list[Run]:
    return [(first + place, decision) for place, decision in enumerate(decisions)
            if place == 0 or decisions[place - 1] != decision]


def _add_conditions(program: Program) -> None:
    """Calls that depend on their arguments."""
    program.label(_SOCKET)
    program.add(LOAD, _ARGUMENT)
    program.add(JUMP_EQUAL, _AF_ALG, _DENY)
    program.add(JUMP_EQUAL, _AF_VSOCK, _DENY, _ALLOW)

    program.label(_WIDE[_PERSONALITY])
    program.add(LOAD, _ARGUMENT_HIGH)
    program.add(JUMP_EQUAL, 0, _PERSONALITY, _DENY)
    program.label(_PERSONALITY)
    program.add(LOAD, _ARGUMENT)
    for value in _PERSONALITIES[:-1]:
        program.add(JUMP_EQUAL, value, _ALLOW)
    program.add(JUMP_EQUAL, _PERSONALITIES[-1], _ALLOW, _DENY)

    program.label(_CLONE)
    program.add(LOAD, _ARGUMENT)
    program.add(AND, _CLONE_NEW)
    program.add(JUMP_EQUAL, 0, _ALLOW, _DENY)
