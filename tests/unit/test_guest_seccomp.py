"""The default seccomp filter: each decision read from its instructions, and installed for real."""

from __future__ import annotations

import errno
import shutil
import struct
import subprocess
import sys

import pyseccomp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hyperstack.guest.linux import CAPABILITIES
from hyperstack.guest.seccomp import default_profile
from hyperstack.pod.errors import InvalidArgument
from hyperstack.pod.spec import DEFAULT_CAPABILITIES

DEFAULT = default_profile(frozenset(DEFAULT_CAPABILITIES))
ADMIN = default_profile(frozenset({"CAP_SYS_ADMIN"}))
X86_64, I386 = 0xC000003E, 0x40000003
ALLOW, EPERM, ENOSYS = "allow", errno.EPERM, errno.ENOSYS


def decide(program: bytes, number: int, *arguments: int, architecture: int = X86_64) -> str | int:
    """What the kernel would do: a small interpreter of the classic BPF that filters consist of."""
    data = struct.pack("<iIQ6Q", number if number < 2**31 else number - 2**32, architecture, 0,
                       *(arguments + (0,) * 6)[:6])
    code = list(struct.iter_unpack("<HBBI", program))
    place, value = 0, 0
    while True:
        operation, true, false, k = code[place]
        place += 1
        match operation:
            case 0x20:
                (value,) = struct.unpack_from("<I", data, k)
            case 0x54:
                value &= k
            case 0x05:
                place += k
            case 0x15:
                place += true if value == k else false
            case 0x25:
                place += true if value > k else false
            case 0x35:
                place += true if value >= k else false
            case 0x06:
                return ALLOW if k == 0x7FFF0000 else k & 0xFFFF if k >> 16 == 5 else f"action {k:#x}"
            case _:
                pytest.fail(f"instruction {operation:#x} is unknown to this test")


def number(name: str, architecture: int = pyseccomp.Arch.NATIVE) -> int:
    return int(pyseccomp.resolve_syscall(architecture, name))


@pytest.mark.parametrize("name", ["read", "execve", "openat2", "prctl", "capset", "seccomp", "futex_waitv", "chroot"])
def test_ordinary_calls_are_allowed(name: str) -> None:
    assert decide(DEFAULT, number(name)) == ALLOW


@pytest.mark.parametrize("name", [
    "mount", "umount2", "unshare", "setns", "bpf", "reboot", "init_module", "kexec_load", "keyctl", "add_key",
    "request_key", "swapon", "acct", "open_by_handle_at", "perf_event_open", "userfaultfd", "io_uring_setup", "iopl",
    "settimeofday", "move_mount", "pivot_root", "quotactl", "vhangup", "syslog", "nfsservctl"])
def test_dangerous_calls_are_denied(name: str) -> None:
    assert decide(DEFAULT, number(name)) == EPERM


@pytest.mark.parametrize(("capability", "name"), [
    ("CAP_SYS_ADMIN", "mount"), ("CAP_SYS_ADMIN", "unshare"), ("CAP_SYS_BOOT", "reboot"), ("CAP_BPF", "bpf"),
    ("CAP_SYS_TIME", "clock_settime"), ("CAP_SYSLOG", "syslog"), ("CAP_DAC_READ_SEARCH", "open_by_handle_at")])
def test_a_capability_opens_its_calls(capability: str, name: str) -> None:
    assert decide(default_profile(frozenset()), number(name)) == EPERM
    assert decide(default_profile(frozenset({capability})), number(name)) == ALLOW


def test_new_namespaces_need_the_admin_capability() -> None:
    clone = number("clone")
    for flag in (0x00020000, 0x02000000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000):
        assert decide(DEFAULT, clone, flag | 17) == EPERM
        assert decide(ADMIN, clone, flag | 17) == ALLOW
    assert decide(DEFAULT, clone, 0x3D0F00) == ALLOW, "a thread"
    assert decide(DEFAULT, number("clone3")) == ENOSYS
    assert decide(ADMIN, number("clone3")) == ALLOW


def test_arguments_decide_about_personalities_and_sockets() -> None:
    personality, socket = number("personality"), number("socket")
    assert [decide(DEFAULT, personality, value) for value in (0, 8, 0x20000, 0x20008, 0xFFFFFFFF)] == [ALLOW] * 5
    assert decide(DEFAULT, personality, 0x0040000) == EPERM, "ADDR_NO_RANDOMIZE"
    assert [decide(DEFAULT, socket, family) for family in (1, 2, 10, 16, 17, 37, 39, 41)] == [ALLOW] * 8
    assert [decide(DEFAULT, socket, family) for family in (38, 40)] == [EPERM] * 2


def test_newer_calls_are_unknown_unless_listed() -> None:
    for architecture in (X86_64, I386):
        assert decide(DEFAULT, 452, architecture=architecture) == ALLOW, "fchmodat2"
        assert decide(DEFAULT, 466, architecture=architecture) == ALLOW, "removexattrat"
        assert decide(DEFAULT, 459, architecture=architecture) == ENOSYS, "lsm_get_self_attr"
        assert decide(ADMIN, 459, architecture=architecture) == ALLOW
        assert decide(DEFAULT, 467, architecture=architecture) == ENOSYS
        assert decide(DEFAULT, 100_000, architecture=architecture) == ENOSYS


def test_programs_of_32_bits_have_the_same_rules() -> None:
    for name, decision in (("chown32", ALLOW), ("mmap2", ALLOW), ("mount", EPERM), ("setns", EPERM)):
        assert decide(DEFAULT, number(name, pyseccomp.Arch.X86), architecture=I386) == decision


def test_other_architectures_and_x32_are_unknown() -> None:
    assert decide(DEFAULT, number("read"), architecture=0xC00000B7) == ENOSYS
    assert decide(DEFAULT, number("read") | 0x40000000) == ENOSYS


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**32 - 1) | st.integers(0, 500), st.lists(st.integers(0, 2**64 - 1), max_size=6),
       st.sampled_from([X86_64, I386, 0]))
def test_every_call_gets_one_of_three_answers(call: int, arguments: list[int], architecture: int) -> None:
    assert decide(DEFAULT, call, *arguments, architecture=architecture) in (ALLOW, EPERM, ENOSYS)


def test_more_capabilities_never_take_a_call_away() -> None:
    for call in range(470):
        if decide(default_profile(frozenset()), call) == ALLOW:
            assert decide(default_profile(frozenset(CAPABILITIES)), call) == ALLOW


def test_profiles_fit_into_the_kernel_and_are_compiled_once() -> None:
    everything = default_profile(frozenset(CAPABILITIES))
    assert len(everything) // 8 <= 4096, "BPF_MAXINSNS"
    assert default_profile(frozenset(CAPABILITIES)) is everything


def test_an_unknown_capability_is_refused() -> None:
    with pytest.raises(InvalidArgument):
        default_profile(frozenset({"CAP_FLY"}))


INSTALL = """
import ctypes, errno, os, sys
program = sys.stdin.buffer.read()
class Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_char_p)]
libc = ctypes.CDLL(None, use_errno=True)
assert libc.prctl(38, 1, 0, 0, 0) == 0  # PR_SET_NO_NEW_PRIVS
assert libc.prctl(22, 2, ctypes.byref(Program(len(program) // 8, program)), 0, 0) == 0  # PR_SET_SECCOMP, a filter
def call(*arguments):
    ctypes.set_errno(0)
    return 0 if libc.syscall(*map(ctypes.c_long, arguments)) >= 0 else ctypes.get_errno()
"""


def run_filtered(script: str, program: bytes = DEFAULT) -> str:
    done = subprocess.run([sys.executable, "-c", INSTALL + script], input=program, capture_output=True, check=False,
                          timeout=60)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode().strip()


def test_the_kernel_takes_it_and_denies_with_its_errors() -> None:
    # Each of these fails otherwise when it is let through: EFAULT, EBADF, EINVAL, or not at all.
    script = "print(call(250, 0, 0), call(272, 0), call(308, -1, 0), call(435, 0, 0), call(9999), call(41, 38, 5, 0))"
    assert run_filtered(script) == f"{EPERM} {EPERM} {EPERM} {ENOSYS} {ENOSYS} {EPERM}"


def test_the_admin_capability_lets_them_through_to_the_kernel() -> None:
    assert run_filtered("print(call(308, -1, 0), call(435, 0, 0))", ADMIN) == f"{errno.EBADF} {errno.EINVAL}"


def test_programs_work_under_it() -> None:
    script = """
import hashlib, random, socket, subprocess, tempfile, threading
threads = [threading.Thread(target=hashlib.sha256, args=(b"x",)) for _ in range(4)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
a, b = socket.socketpair(); a.send(b"x"); b.recv(1)
os.chmod(tempfile.mkdtemp(), 0o755)
print(subprocess.run(["/bin/sh", "-c", "echo a b | tr a-z A-Z"], capture_output=True, text=True).stdout)
"""
    assert run_filtered(script) == "A B"


@pytest.mark.skipif(shutil.which("busybox") is None, reason="busybox is not installed")
def test_busybox_works_under_it() -> None:
    script = 'os.execvp("busybox", ["busybox", "sh", "-c", "busybox ls -l / | busybox grep -c tmp; busybox sleep 0"])'
    assert run_filtered(script) == "1"
