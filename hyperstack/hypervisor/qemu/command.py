"""A machine as QEMU's command line. Pure: descriptors are numbers that the caller handed out.

The machine is QEMU's `q35` without what a pod never uses (HPET, USB, SATA, VGA, option ROMs): one virtio-scsi
controller that every disk hangs on, one virtio-serial controller for the agent's port, one virtio NIC or none, a random
source, and a serial port into a ring buffer as console. Disks at boot and disks added later are described by the same
dictionaries; QEMU reads them from its command line and from its monitor alike. A template and its clones are the same
machine: their command lines differ in where RAM comes from, in the disks, and in what stands behind the NIC.

`q35` and not `pc`, because there the guest evaluates 0.2 s worth of ACPI methods (under emulation) for the interrupt
of each PCI device; docs/hypervisor.md has the measurements behind this and the other choices.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hyperstack.hypervisor.api import MachineSpec, Nic
from hyperstack.hypervisor.qemu import disks, growth

SANDBOX = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"
"""QEMU's own seccomp filter, with every set of calls denied that can be."""
AGENT_PORT = "org.hyperstack.agent.0"
CONSOLE = "console"
"""Name of the console's character device."""
CONSOLE_BYTES = 65_536
"""Size of its ring buffer; must be a power of two."""
AGENT_DEVICE = "agent0"
"""Id of the agent's port, by which QEMU tells that the guest has opened it."""
NIC_DEVICE = "nic0"
NIC_NETDEV = "net0"
_RAM = "ram"
_MAX_PORTS = 8
"""The agent's and those that are plugged in later; QEMU keeps the first one free for a console."""

_MACHINE = "q35,hpet=off,smm=off,vmport=off,usb=off,sata=off,smbus=off,mem-merge=off,dump-guest-core=off"
"""`mem-merge=off`: equal pages of two tenants are never shared; the time of a write would tell one of the other's."""
_TB_SIZE_MIB = 64

_COMMON_COMMAND_LINE = ("console=ttyS0 quiet panic=-1 random.trust_cpu=on no_timer_check lapic_timer_khz=1000000"
                        " acpi=tables swiotlb=noforce dummy.numdummies=0")
"""`panic=-1` resets at once, which ends the machine; the console keeps the kernel's last words. The local APIC timer
has 1 GHz in QEMU, with KVM and without; a kernel that is not told (docs/kernels.md: our patches) measures it. No
device of ours needs ACPI's interpreter; kernels that know no `acpi=tables` start it all the same. Virtio reaches all
of RAM, so that a guest with RAM above 4 GiB need not keep 64 MiB below to copy through. A container without a network
has the loopback alone."""
_EMULATED_COMMAND_LINE = "tsc=reliable mitigations=off rcupdate.rcu_expedited=1 noreplace-smp cryptomgr.notests"
"""Emulation has neither speculation to mitigate nor a bus to lock; the 0.4 s of cipher self-tests at every boot show
nothing that the first did not. The guest is told the rate of its clock: see `counter/counter.c`."""

_WHOLE = "agent_whole=1"
"""To the agent of a template: all that it does after its first answer, before it opens its port."""


@dataclass(frozen=True, kw_only=True)
class Boot:
    """How a machine begins that is not a clone."""

    kernel: str
    initrd: str
    """Paths in the machine's root."""
    command_line: str
    """What the kernel needs beyond what is said here."""
    tsc_khz: int
    """Rate of the host's time stamp counter, which is the guest's under emulation."""


@dataclass(frozen=True, kw_only=True)
class Ram:
    """RAM in a file: a template's, which is written to it, or a clone's, which has copies of what it changes."""

    fd: int
    """The child's number."""
    shared: bool


@dataclass(frozen=True, kw_only=True)
class Channels:
    """The child's numbers of the listening sockets."""

    monitor: int
    agent: int


def cpu(accelerator: str) -> str:
    """The processor: all that there is, but no virtual machines within (a big part of an attacker's choice). Under
    emulation no fifth level of page tables to walk, and no fast string instructions: it does them byte by byte, where
    programs that are not told of them copy in words."""
    return ("max,la57=off,erms=off,fsrm=off" if accelerator == "tcg" else "host") + ",vmx=off,svm=off"


def nic_netdev(fd: str) -> dict[str, Any]:
    """`fd`: number of an inherited descriptor, or the name of one that was sent over the monitor."""
    return {"type": "tap", "id": NIC_NETDEV, "fd": fd, "vhost": False}


def nic_device(nic: Nic) -> dict[str, Any]:
    """No option ROM: nobody boots from it, and it would be one more file to read."""
    return {"driver": "virtio-net-pci", "id": NIC_DEVICE, "netdev": NIC_NETDEV, "mac": nic.mac,
            "romfile": ""}


def port_chardev(name: str, fd: str) -> dict[str, Any]:
    """`fd`: the name of a connected socket that was sent over the monitor."""
    return {"id": port_device_id(name), "backend": {"type": "socket", "data": {
        "addr": {"type": "fd", "data": {"str": fd}}, "server": False}}}


def port_device(name: str) -> dict[str, Any]:
    return {"driver": "virtserialport", "id": port_device_id(name), "chardev": port_device_id(name), "name": name}


def port_device_id(name: str) -> str:
    return f"port-{name}"


def command_line(spec: MachineSpec, *, program: str, firmware: str, accelerator: str, channels: Channels,
                 give: Callable[[int], int], boot: Boot | None, ram: Ram | None = None,
                 sandbox: bool = True) -> list[str]:
    """`program` and its arguments.

    :param program, firmware: paths in the machine's root.
    :param give: hands a descriptor of ours to QEMU and returns its number there.
    :param boot: None: the machine waits for a template's state.
    :param ram: None: RAM of its own.
    :param sandbox: False for one that is to be forked; its children get a filter of their own.
    """
    emulated = accelerator == "tcg"
    line = [
        program, "-name", f"hyperstack-{spec.id[:12]}", "-nodefaults", "-no-user-config", "-display", "none",
        "-L", firmware, *(("-sandbox", SANDBOX) if sandbox else ()),
        "-M", _MACHINE + (f",memory-backend={_RAM}" if ram else ""), "-bios", "qboot.rom",
        "-accel", f"tcg,tb-size={_TB_SIZE_MIB}" if emulated else accelerator,
        "-cpu", cpu(accelerator),
        *growth.options(spec),
        *(_ram_options(ram, spec.memory_mib) if ram else ()),
        *(_boot_options(boot, spec, emulated=emulated, whole=ram is not None) if boot else ("-incoming", "defer")),
        # A guest that ends, however it does, stays to be read until it is destroyed.
        "-action", "reboot=shutdown,shutdown=pause",
        "-chardev", f"socket,id=monitor,fd={channels.monitor},server=on,wait=off",
        "-mon", "chardev=monitor,mode=control",
        # The guest may print for ever: it overwrites its own words.
        "-chardev", f"ringbuf,id={CONSOLE},size={CONSOLE_BYTES}", "-serial", f"chardev:{CONSOLE}",
        "-device", f"virtio-serial-pci,id=serial0,max_ports={_MAX_PORTS}",
        "-chardev", f"socket,id=agent,fd={channels.agent},server=on,wait=off",
        "-device", f"virtserialport,id={AGENT_DEVICE},chardev=agent,name={AGENT_PORT}",
        "-device", f"virtio-scsi-pci,id={disks.CONTROLLER},{disks.CONTROLLER_OPTIONS}",
        "-object", "rng-builtin,id=rng0", "-device", "virtio-rng-pci,rng=rng0",
        # Never inflated: by it the guest tells which pages it does not use. In a slot of an even number, as what has no
        # message interrupts must be: in others qboot names an interrupt that is not the one which q35 raises.
        "-device", "virtio-balloon-pci,free-page-reporting=on,addr=0x8",
    ]
    for fdset, disk in enumerate(spec.disks, start=1):
        line += ["-add-fd", f"fd={give(disk.fd)},set={fdset},opaque={disk.serial}",
                 "-blockdev", json.dumps(disks.blockdev(disk, fdset)),
                 "-device", json.dumps(disks.device(disk))]
    if spec.nic:
        line += ["-netdev", json.dumps(nic_netdev(str(give(spec.nic.fd)))), "-device", json.dumps(nic_device(spec.nic))]
    return line


def _boot_options(boot: Boot, spec: MachineSpec, *, emulated: bool, whole: bool) -> list[str]:
    emulation = f"{_EMULATED_COMMAND_LINE} tsc_early_khz={boot.tsc_khz}" if emulated else ""
    words = (_COMMON_COMMAND_LINE, growth.kernel_words(spec), emulation, boot.command_line, _WHOLE if whole else "")
    append = " ".join(part for part in words if part)
    return ["-kernel", boot.kernel, "-initrd", boot.initrd, "-append", append]


def _ram_options(ram: Ram, size_mib: int) -> list[str]:
    """The path is one for preload/ram.c, which makes the descriptor of it again."""
    shared = "on" if ram.shared else "off"
    return ["-object", f"memory-backend-file,id={_RAM},mem-path=/ram/{ram.fd},size={size_mib}M,share={shared}"]
