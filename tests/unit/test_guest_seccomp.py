"""The default seccomp filter: each decision read from its instructions, compared with libseccomp's filter for the same
rules, and installed for real."""

from __future__ import annotations

import errno
import shutil
import struct
import subprocess
import sys
import tempfile
from functools import lru_cache

import pyseccomp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hyperstack.guest import seccomp
from hyperstack.guest.filter_program import JUMP_EQUAL, RETURN, Program
from hyperstack.guest.linux import CAPABILITIES
from hyperstack.guest.seccomp import default_profile
from hyperstack.pod.errors import InvalidArgument
from hyperstack.pod.spec import DEFAULT_CAPABILITIES

DEFAULT = default_profile(frozenset(DEFAULT_CAPABILITIES))
ADMIN = default_profile(frozenset({"CAP_SYS_ADMIN"}))
X86_64, I386 = 0xC000003E, 0x40000003
ALLOW, EPERM, ENOSYS = "allow", errno.EPERM, errno.ENOSYS


Instructions = tuple[tuple[int, int, int, int], ...]


@lru_cache
def instructions(program: bytes) -> Instructions:
    return tuple(struct.iter_unpack("<HBBI", program))


def walk(program: bytes, data: bytes) -> tuple[int, list[tuple[int, int]]]:
    """What a filter returns for a `struct seccomp_data`, and the operation and operand of each instruction on the way:
    a small interpreter of the classic BPF that filters consist of."""
    code = instructions(program)
    steps = []
    place, value = 0, 0
    while True:
        operation, true, false, k = code[place]
        steps.append((operation, k))
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
                return k, steps
            case _:
                pytest.fail(f"instruction {operation:#x} is unknown to this test")


def call_data(number: int, *arguments: int, architecture: int = X86_64) -> bytes:
    return struct.pack("<IIQ6Q", number, architecture, 0, *(arguments + (0,) * 6)[:6])


def decide(program: bytes, number: int, *arguments: int, architecture: int = X86_64) -> str | int:
    """What the kernel would do."""
    action, _ = walk(program, call_data(number, *arguments, architecture=architecture))
    return ALLOW if action == 0x7FFF0000 else action & 0xFFFF if action >> 16 == 5 else f"action {action:#x}"


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
    assert [decide(DEFAULT, socket, 1 << 32 | family) for family in (38, 40)] == [EPERM] * 2, "the kernel takes an int"


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


@lru_cache(maxsize=256)
def exported(capabilities: frozenset[str]) -> bytes:
    """libseccomp's own filter for the same rules. It begins with a few instructions for the newer calls, for which
    libseccomp has no names."""
    admin = "CAP_SYS_ADMIN" in capabilities
    rules = pyseccomp.SyscallFilter(pyseccomp.ERRNO(EPERM))
    rules.add_arch(pyseccomp.Arch.X86)
    rules.set_attr(pyseccomp.Attr.ACT_BADARCH, pyseccomp.ERRNO(ENOSYS))
    names = set(seccomp._ALWAYS.split())
    for capability in capabilities:
        names.update(seccomp._WITH_CAPABILITY.get(capability, "").split())
    for name in names:
        rules.add_rule(pyseccomp.ALLOW, name)
    for comparison, family in ((pyseccomp.LT, 38), (pyseccomp.EQ, 39), (pyseccomp.GT, 40)):
        rules.add_rule(pyseccomp.ALLOW, "socket", pyseccomp.Arg(0, comparison, family))
    for value in (0x0, 0x8, 0x20000, 0x20008, 0xFFFFFFFF):
        rules.add_rule(pyseccomp.ALLOW, "personality", pyseccomp.Arg(0, pyseccomp.EQ, value))
    if not admin:
        rules.add_rule(pyseccomp.ALLOW, "clone", pyseccomp.Arg(0, pyseccomp.MASKED_EQ, 0x7E020000, 0))
        rules.add_rule(pyseccomp.ERRNO(ENOSYS), "clone3")
    with tempfile.TemporaryFile() as file:
        rules.export_bpf(file)
        file.seek(0)
        body = file.read()
    new = sorted((seccomp._NEW | (seccomp._NEW_FOR_ADMIN if admin else {})).values())
    code = [(0x20, 0, 0, 0), (0x35, len(new) + 3, 0, 0x40000000), (0x35, 0, len(new) + 2, 451),
            *((0x15, len(new) - place, 0, number) for place, number in enumerate(new)),
            (0x06, 0, 0, pyseccomp.ERRNO(ENOSYS)), (0x06, 0, 0, pyseccomp.ALLOW)]
    return b"".join(struct.pack("<HBBI", *instruction) for instruction in code) + body


GRANTS = [frozenset[str](), frozenset(DEFAULT_CAPABILITIES), frozenset({"CAP_SYS_ADMIN"}), frozenset(CAPABILITIES),
          frozenset({"CAP_SYS_PTRACE", "CAP_SYS_NICE", "CAP_BPF"}), frozenset({"CAP_SYS_TIME", "CAP_SYS_RAWIO"})]
FOREIGN = 0xC00000B7
"""AUDIT_ARCH_AARCH64"""


def assert_same_decision(granted: frozenset[str], call: int, *arguments: int, architecture: int) -> None:
    """With one exception: of a socket's family libseccomp compares all 64 bits, and the kernel looks at 32."""
    ours = decide(default_profile(granted), call, *arguments, architecture=architecture)
    seen = arguments
    if (architecture, call) == (X86_64, number("socket")) and arguments:
        seen = (arguments[0] & 0xFFFFFFFF, *arguments[1:])
    theirs = decide(exported(granted), call, *seen, architecture=architecture)
    assert ours == theirs, f"call {call:#x} of {architecture:#x} with {[hex(value) for value in arguments]}"


@pytest.mark.parametrize("granted", GRANTS, ids=lambda granted: f"{len(granted)} capabilities")
@pytest.mark.parametrize("architecture", [X86_64, I386, FOREIGN])
def test_every_number_is_decided_as_libseccomp_does(granted: frozenset[str], architecture: int) -> None:
    x32 = 0x40000000
    for call in (*range(601), x32 - 1, *range(x32, x32 + 601), 2**31 - 1, 2**31, 2**31 + 56, 2**32 - 2, 2**32 - 1):
        assert_same_decision(granted, call, architecture=architecture)


CAPABILITY_SETS = st.sampled_from(GRANTS) | st.frozensets(st.sampled_from(sorted(seccomp._WITH_CAPABILITY)))
NEAR = st.sampled_from([0, 8, 37, 38, 39, 40, 41, 0x20000, 0x20008, 0xFFFFFFFF, 0x7E020000, 0x01FDFFFF, *(
    1 << bit for bit in range(32))])
WORDS = NEAR | st.integers(0, 2**32 - 1)
ARGUMENTS = st.builds(lambda high, low: high << 32 | low, st.just(0) | WORDS, WORDS)


@settings(max_examples=1000, deadline=None)
@given(st.sampled_from(["socket", "personality", "clone", "clone3", "socketcall", "unshare"]), ARGUMENTS, ARGUMENTS,
       st.sampled_from([X86_64, I386, FOREIGN]), CAPABILITY_SETS)
def test_arguments_are_decided_as_libseccomp_does(name: str, first: int, second: int, architecture: int,
                                                  granted: frozenset[str]) -> None:
    native = {"socket": 41, "personality": 135, "clone": 56, "clone3": 435, "socketcall": 102, "unshare": 272}
    compatible = {"socket": 359, "personality": 136, "clone": 120, "clone3": 435, "socketcall": 102, "unshare": 310}
    call = (compatible if architecture == I386 else native)[name]
    assert_same_decision(granted, call, first, second, architecture=architecture)


@settings(max_examples=500, deadline=None)
@given(st.integers(0, 600) | st.integers(0, 2**32 - 1), st.lists(ARGUMENTS, max_size=6),
       st.sampled_from([X86_64, I386, FOREIGN]), CAPABILITY_SETS)
def test_any_call_is_decided_as_libseccomp_does(call: int, arguments: list[int], architecture: int,
                                                granted: frozenset[str]) -> None:
    assert_same_decision(granted, call, *arguments, architecture=architecture)


@settings(max_examples=100, deadline=None)
@given(CAPABILITY_SETS)
def test_the_filter_is_short_and_shallow(granted: frozenset[str]) -> None:
    program = default_profile(granted)
    assert len(instructions(program)) <= 180
    for architecture, most in ((X86_64, 11), (I386, 13)):
        steps = [len(walk(program, call_data(call, architecture=architecture))[1]) for call in range(470)]
        assert sum(steps) / len(steps) <= most, "steps for a number"


def test_the_kernel_can_tell_which_calls_are_always_allowed() -> None:
    """It walks a filter before any call, with nothing but the number and the architecture."""
    argument = struct.calcsize("<IIQ")
    for architecture, conditional in ((X86_64, {41, 56, 135}), (I386, {120, 136, 359})):
        for call in range(601):
            _, steps = walk(DEFAULT, call_data(call, architecture=architecture))
            loads = {k for operation, k in steps if operation == 0x20}
            assert any(k >= argument for k in loads) == (call in conditional), call


def test_a_jump_that_classic_bpf_cannot_make_is_refused() -> None:
    program = Program()
    program.add(JUMP_EQUAL, 1, "end")
    for _ in range(256):
        program.add(RETURN, 0)
    program.label("end")
    program.add(RETURN, 1)
    with pytest.raises(ValueError, match="jumps 256 instructions ahead"):
        program.assembled()


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
