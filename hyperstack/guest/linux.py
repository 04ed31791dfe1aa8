"""Numbers of the guest's kernel (Linux, x86-64): signals, capabilities, resource limits; and how users spell them."""

from __future__ import annotations

import signal
from collections.abc import Iterable

from hyperstack.pod.errors import InvalidArgument
from hyperstack.pod.spec import DEFAULT_CAPABILITIES, Ulimit

SIGRTMIN = 34
SIGRTMAX = 64
"""As glibc and musl give them to programs; the kernel's first two are the C libraries' own."""

RLIM_INFINITY = 2**64 - 1

CAPABILITIES: tuple[str, ...] = (
    "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_SETGID",
    "CAP_SETUID", "CAP_SETPCAP", "CAP_LINUX_IMMUTABLE", "CAP_NET_BIND_SERVICE", "CAP_NET_BROADCAST", "CAP_NET_ADMIN",
    "CAP_NET_RAW", "CAP_IPC_LOCK", "CAP_IPC_OWNER", "CAP_SYS_MODULE", "CAP_SYS_RAWIO", "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE", "CAP_SYS_PACCT", "CAP_SYS_ADMIN", "CAP_SYS_BOOT", "CAP_SYS_NICE", "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME", "CAP_SYS_TTY_CONFIG", "CAP_MKNOD", "CAP_LEASE", "CAP_AUDIT_WRITE", "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP", "CAP_MAC_OVERRIDE", "CAP_MAC_ADMIN", "CAP_SYSLOG", "CAP_WAKE_ALARM", "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ", "CAP_PERFMON", "CAP_BPF", "CAP_CHECKPOINT_RESTORE")
"""Of include/uapi/linux/capability.h; the place is the number."""

_CAPABILITY_NUMBERS = {name: number for number, name in enumerate(CAPABILITIES)}

RLIMITS: tuple[str, ...] = (
    "cpu", "fsize", "data", "stack", "core", "rss", "nproc", "nofile", "memlock", "as", "locks", "sigpending",
    "msgqueue", "nice", "rtprio", "rttime")
"""Of include/uapi/asm-generic/resource.h; the place is the number."""

_RLIMIT_NUMBERS = {name: number for number, name in enumerate(RLIMITS)}

_SIGNAL_NUMBERS = {name: int(number) for name, number in signal.Signals.__members__.items()}


def signal_number(text: str) -> int:
    """Of "SIGTERM", "term", "15", "SIGRTMIN+3", "RTMAX-1".

    :raise InvalidArgument: no such signal.
    """
    name = text.strip().upper()
    if name.isascii() and name.isdigit() and len(name) <= 2 and 1 <= int(name) <= SIGRTMAX:
        return int(name)
    name = name.removeprefix("SIG")
    for base, start, sign in (("RTMIN", SIGRTMIN, "+"), ("RTMAX", SIGRTMAX, "-")):
        if name == base:
            return start
        offset = name.removeprefix(base + sign)
        if offset != name and offset.isascii() and offset.isdigit() and int(offset[:3]) <= SIGRTMAX - SIGRTMIN:
            return start + int(f"{sign}{offset[:3]}")
    number = _SIGNAL_NUMBERS.get(f"SIG{name}")
    if number is None:
        raise InvalidArgument(f"invalid signal: {text[:64]}", field="signal", value=text[:64],
                              hint="a name such as TERM, or a number from 1 to 64")
    return number


def signal_name(number: int) -> str:
    """"SIGTERM", "SIGRTMIN+3"; "signal 33" where it has no name."""
    if SIGRTMIN < number < SIGRTMAX:
        return f"SIGRTMIN+{number - SIGRTMIN}"
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def capability_name(text: str, field: str = "capability") -> str:
    """The full name of "CAP_NET_ADMIN", "net_admin".

    :param field: where it was said, for the error.
    :raise InvalidArgument: no such capability.
    """
    name = text.strip().upper()
    if not name.startswith("CAP_"):
        name = f"CAP_{name}"
    if name not in _CAPABILITY_NUMBERS:
        raise InvalidArgument(f'invalid {field}: unknown capability: "{name[:64]}"', field=field, value=text[:64],
                              hint="capabilities(7) lists them")
    return name


def capability_numbers(names: Iterable[str]) -> tuple[int, ...]:
    """:raise InvalidArgument: no such capability."""
    return tuple(sorted(_CAPABILITY_NUMBERS[capability_name(name)] for name in names))


def container_capabilities(*, add: Iterable[str] = (), drop: Iterable[str] = (), privileged: bool = False
                           ) -> frozenset[str]:
    """Full names of the capabilities of a container, as Docker reckons them: with `drop` ALL only what is added, with
    `add` ALL everything but what is dropped, else the default set and the changes; what is in both is dropped unless
    ALL was.

    :raise InvalidArgument: no such capability.
    """
    everything = frozenset(CAPABILITIES)
    all_added, added = _split(add, "CapAdd")
    all_dropped, dropped = _split(drop, "CapDrop")
    if privileged:
        return everything
    if all_added:
        return everything - dropped
    if all_dropped:
        return added
    return (frozenset(DEFAULT_CAPABILITIES) | added) - dropped


def _split(names: Iterable[str], field: str) -> tuple[bool, frozenset[str]]:
    """Whether ALL is among them, and the others."""
    words = list(names)
    named = [word for word in words if word.strip().upper() not in ("ALL", "CAP_ALL")]
    return len(named) < len(words), frozenset(capability_name(word, field) for word in named)


def rlimit(ulimit: Ulimit) -> tuple[int, int, int]:
    """(resource, soft, hard) as the agent takes them.

    :raise InvalidArgument: no such limit, a negative one, or a soft one above the hard one.
    """
    number = _RLIMIT_NUMBERS.get(ulimit.name.strip().lower())
    if number is None:
        raise InvalidArgument(f"invalid ulimit type: {ulimit.name[:64]}", field="ulimit", value=ulimit.name[:64],
                              hint=f"It is one of {', '.join(RLIMITS)}.")
    soft, hard = (RLIM_INFINITY if value == -1 else value for value in (ulimit.soft, ulimit.hard))
    if not 0 <= soft <= hard <= RLIM_INFINITY:
        raise InvalidArgument(
            f"ulimit {ulimit.name}: soft limit {ulimit.soft} and hard limit {ulimit.hard} do not fit", field="ulimit",
            value=ulimit.soft, hint="Neither may be below -1 (unlimited), nor the soft limit above the hard one.")
    return number, soft, hard
