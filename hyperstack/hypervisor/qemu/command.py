"""A machine as QEMU's command line. Pure: descriptors are numbers that the caller handed out.

The machine is QEMU's `q35` without what a pod never uses (HPET, USB, SATA, VGA, option ROMs): one virtio-scsi
controller that every disk hangs on, one virtio-serial controller for the agent's port, a PCI Express slot for the
virtio NIC, a random source, and a serial port into a ring buffer as console. Disks at boot and disks added later are
described by the same dictionaries; QEMU reads them from its command line and from its monitor alike.

`q35` and not `pc`, because there the guest evaluates 0.2 s worth of ACPI methods (under emulation) for the interrupt
of each PCI device; docs/hypervisor.md has the measurements behind this and the other choices.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hyperstack.hypervisor.api import MachineSpec, Nic
from hyperstack.hypervisor.qemu import disks

SANDBOX = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"
"""QEMU's own seccomp filter, with every set of calls denied that can be."""
AGENT_PORT = "org.hyperstack.agent.0"
CONSOLE = "console"
"""Name of the console's character device."""
CONSOLE_BYTES = 65_536
"""Size of its ring buffer; must be a power of two."""
NIC_DEVICE = "nic0"
NIC_NETDEV = "net0"
NIC_SLOT = "slot0"

_MACHINE = "q35,hpet=off,smm=off,vmport=off,usb=off,sata=off,smbus=off,mem-merge=off,dump-guest-core=off"
"""`mem-merge=off`: equal pages of two tenants are never shared; the time of a write would tell one of the other's."""
_TB_SIZE_MIB = 64

_COMMON_COMMAND_LINE = "console=ttyS0 quiet panic=-1 random.trust_cpu=on no_timer_check"
"""`panic=-1` resets at once, which ends the machine; the console keeps the kernel's last words."""
_EMULATED_COMMAND_LINE = "tsc=reliable mitigations=off rcupdate.rcu_expedited=1 noreplace-smp cryptomgr.notests"
"""Emulation has neither speculation to mitigate nor a bus to lock; the 0.4 s of cipher self-tests at every boot show
nothing that the first did not. The guest is told the rate of its clock: see `counter/counter.c`."""


@dataclass(frozen=True, kw_only=True)
class Channels:
    """The child's numbers of the listening sockets."""

    monitor: int
    agent: int


def cpu(accelerator: str) -> str:
    """The processor: all that there is, but no virtual machines within (a big part of an attacker's choice), and under
    emulation no fifth level of page tables to walk."""
    return ("max,la57=off" if accelerator == "tcg" else "host") + ",vmx=off,svm=off"


def nic_netdev(fd: str) -> dict[str, Any]:
    """`fd`: number of an inherited descriptor, or the name of one that was sent over the monitor."""
    return {"type": "tap", "id": NIC_NETDEV, "fd": fd, "vhost": False}


def nic_device(nic: Nic) -> dict[str, Any]:
    """No option ROM: nobody boots from it, and it would be one more file to read."""
    return {"driver": "virtio-net-pci", "bus": NIC_SLOT, "id": NIC_DEVICE, "netdev": NIC_NETDEV, "mac": nic.mac,
            "romfile": ""}


def command_line(spec: MachineSpec, *, program: str, firmware: str, kernel: str, initrd: str, accelerator: str,
                 tsc_khz: int, channels: Channels, give: Callable[[int], int]) -> list[str]:
    """`program` and its arguments.

    :param program, firmware, kernel, initrd: paths in the machine's root.
    :param tsc_khz: rate of the host's time stamp counter, which is the guest's under emulation.
    :param give: hands a descriptor of ours to QEMU and returns its number there.
    """
    emulated = accelerator == "tcg"
    emulation = f"{_EMULATED_COMMAND_LINE} tsc_early_khz={tsc_khz}" if emulated else ""
    append = " ".join(part for part in (_COMMON_COMMAND_LINE, emulation, spec.kernel.command_line) if part)
    line = [
        program, "-name", f"hyperstack-{spec.id[:12]}", "-nodefaults", "-no-user-config", "-display", "none",
        "-L", firmware, "-sandbox", SANDBOX,
        "-M", _MACHINE, "-bios", "qboot.rom",
        "-accel", f"tcg,tb-size={_TB_SIZE_MIB}" if emulated else accelerator,
        "-cpu", cpu(accelerator),
        "-m", f"{spec.memory_mib}", "-smp", f"{spec.vcpus}",
        "-kernel", kernel, "-initrd", initrd, "-append", append,
        # A guest that ends, however it does, stays to be read until it is destroyed.
        "-action", "reboot=shutdown,shutdown=pause",
        "-chardev", f"socket,id=monitor,fd={channels.monitor},server=on,wait=off",
        "-mon", "chardev=monitor,mode=control",
        # The guest may print for ever: it overwrites its own words.
        "-chardev", f"ringbuf,id={CONSOLE},size={CONSOLE_BYTES}", "-serial", f"chardev:{CONSOLE}",
        "-device", "virtio-serial-pci,id=serial0,max_ports=2",
        "-chardev", f"socket,id=agent,fd={channels.agent},server=on,wait=off",
        "-device", f"virtserialport,chardev=agent,name={AGENT_PORT}",
        "-device", f"virtio-scsi-pci,id={disks.CONTROLLER}", "-device", f"pcie-root-port,id={NIC_SLOT},chassis=1",
        "-object", "rng-builtin,id=rng0", "-device", "virtio-rng-pci,rng=rng0",
    ]
    for fdset, disk in enumerate(spec.disks, start=1):
        line += ["-add-fd", f"fd={give(disk.fd)},set={fdset},opaque={disk.serial}",
                 "-blockdev", json.dumps(disks.blockdev(disk, fdset)),
                 "-device", json.dumps(disks.device(disk))]
    if spec.nic:
        line += ["-netdev", json.dumps(nic_netdev(str(give(spec.nic.fd)))), "-device", json.dumps(nic_device(spec.nic))]
    return line
