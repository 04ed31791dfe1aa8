"""What this host can do, found out by doing it: a tiny machine is booted in the real jail, and timed.

/dev/kvm may exist and be of no use (a host that is itself a virtual machine without hardware support): a processor that
never gets out of real mode, or a VMM that aborts. So KVM is taken only where the trial machine (trial/rom.S) passes in
time and is not slower than under emulation.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import logging
import os
import subprocess
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from hyperstack.hypervisor.qemu import launcher, runtime_root
from hyperstack.hypervisor.qemu.cgroups import CgroupParent
from hyperstack.hypervisor.qemu.command import SANDBOX, cpu
from hyperstack.hypervisor.qemu.place import new_last_words, read_last_words
from hyperstack.hypervisor.qemu.process import VmmProcess
from hyperstack.pod.errors import Unavailable
from hyperstack.pod.finding import Finding

log = logging.getLogger(__name__)

_KVM = Path("/dev/kvm")
_KVM_DEADLINE_S = 5.0
"""Or as long as emulation took, on a host that is slower than that: beyond it KVM would not be chosen."""
_TCG_DEADLINE_S = 60.0
"""Emulation takes 0.7 s on an idle host; a loaded one gets its chance."""
_PASSED_STATUS = "ended with status 33"
"""What isa-debug-exit makes of the ROM's value 0x10: (0x10 << 1) | 1."""
_NOBODY = 65534
_COUNTER_TIMEOUT_S = 30


@dataclass(frozen=True)
class Accelerator:
    """The one to use, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class Trial:
    seconds: float | None
    """None: it did not pass."""
    words: str


async def choose_accelerator(*, cache_dir: Path, root: runtime_root.RuntimeRoot, jail: Path, rom: Path) -> Accelerator:
    """The fastest that works. The answer is kept for as long as this boot of the host and these programs last.

    :raise Unavailable: not even emulation works; says why.
    """
    key = _key(root, jail, rom)
    memory = cache_dir / "accelerator.json"
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        remembered = json.loads(memory.read_text())
        if remembered["key"] == key:
            return Accelerator(**remembered["accelerator"])
    accelerator = await _try_all(root=root, jail=jail, rom=rom)
    staged = memory.with_suffix(f".{os.getpid()}")
    staged.write_text(json.dumps({"key": key, "accelerator": asdict(accelerator)}))
    os.replace(staged, memory)
    return accelerator


async def _try_all(*, root: runtime_root.RuntimeRoot, jail: Path, rom: Path) -> Accelerator:
    emulated = await try_machine("tcg", _TCG_DEADLINE_S, root=root, jail=jail, rom=rom)
    if emulated.seconds is None:
        raise Unavailable(f"QEMU cannot run a machine on this host: {emulated.words}",
                          hint="is the daemon root, and is this host allowed to make namespaces?")
    if not os.access(_KVM, os.F_OK):
        return Accelerator("tcg", "there is no /dev/kvm")
    deadline = max(_KVM_DEADLINE_S, emulated.seconds)
    virtual = await try_machine("kvm", deadline, root=root, jail=jail, rom=rom)
    if virtual.seconds is None:
        return Accelerator("tcg", f"/dev/kvm exists, but a trial machine failed: {virtual.words}")
    if virtual.seconds > emulated.seconds:
        return Accelerator("tcg", f"a trial machine took {virtual.seconds:.1f} s under KVM and {emulated.seconds:.1f} s"
                                  " under emulation")
    return Accelerator("kvm", f"a trial machine took {virtual.seconds:.2f} s")


async def try_machine(accelerator: str, deadline: float, *, root: runtime_root.RuntimeRoot, jail: Path, rom: Path
                      ) -> Trial:
    """Boot the ROM, confined as every machine; it is gone when this returns."""
    with contextlib.ExitStack() as stack:
        words = new_last_words()
        stack.callback(os.close, words)
        null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        stack.callback(os.close, null)
        command = [root.program, "-nodefaults", "-no-user-config", "-display", "none", "-L", root.firmware,
                   "-sandbox", SANDBOX, "-M", "pc,hpet=off", "-accel", accelerator,
                   "-cpu", cpu(accelerator), "-m", "16", "-no-reboot",
                   "-device", "isa-debug-exit,iobase=0xf4,iosize=1", "-bios", f"/{runtime_root.KERNEL}"]
        begin = time.monotonic()
        pid = launcher.spawn(jail, uid=_NOBODY, root=root.path, kvm=accelerator == "kvm", cgroups=(),
                             files=[(runtime_root.KERNEL, rom)], command=command,
                             descriptors=launcher.Descriptors(stdin=null, stderr=words))
        process = VmmProcess.started(pid)
        try:
            async with asyncio.timeout(deadline):
                how = await process.wait()
        except TimeoutError:
            return Trial(None, f"it had not passed after {deadline:.0f} s")
        finally:
            process.kill()
            await process.wait()
            process.close()
        if how == _PASSED_STATUS:
            return Trial(time.monotonic() - begin, "")
        said = read_last_words(words)
        return Trial(None, f"QEMU {how}" + (f": {said[:300]}" if said else ""))


def measure_tsc_khz(counter: Path) -> int:
    """Rate of the host's time stamp counter, by the program of counter/. Blocks for 0.1 s.

    :raise Unavailable: the program fails.
    """
    try:
        done = subprocess.run([counter], capture_output=True, text=True, check=True, timeout=_COUNTER_TIMEOUT_S)
        return int(done.stdout)
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        raise Unavailable(f"the rate of the time stamp counter cannot be measured: {error}") from error


def _key(root: runtime_root.RuntimeRoot, jail: Path, rom: Path) -> str:
    """Of all that the answer depends on: the host since its boot, QEMU, the jail and the trial."""
    facts = (Path("/proc/sys/kernel/random/boot_id").read_text(), root.path.name, jail.name, rom.name,
             str(os.access(_KVM, os.F_OK)))
    return hashlib.sha256("\0".join(facts).encode()).hexdigest()


def cgroup_finding(cgroups: CgroupParent) -> Finding:
    try:
        cgroups.prepare()
    except Unavailable as error:
        return Finding(name="control groups", status="fail", detail=error.message, remedy=error.hint or "")
    return Finding(name="control groups", status="ok", detail=f"{cgroups.flavour}; memory and pids limits work")


def accelerator_finding(accelerator: Accelerator) -> Finding:
    if accelerator.name == "kvm":
        return Finding(name="accelerator", status="ok", detail=f"kvm: {accelerator.reason}")
    return Finding(name="accelerator", status="warn", detail=f"software emulation (tcg), because {accelerator.reason}",
                   remedy="enable hardware virtualisation in the firmware, or nested virtualisation where this host is"
                          " a virtual machine; pods work without, several times slower")
