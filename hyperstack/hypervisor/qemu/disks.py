"""Disks as QEMU's dictionaries, for its command line and its monitor alike."""

from __future__ import annotations

import fcntl
import os
import stat
from typing import Any

from hyperstack.hypervisor.api import Disk
from hyperstack.pod.errors import Conflict

CONTROLLER = "scsi0"
CONTROLLER_OPTIONS = "cmd_per_lun=16,virtqueue_size=64"
"""The guest's kernel makes and clears a request for each command that a disk may have under way."""


def claim(disk: Disk) -> None:
    """See to it that no two machines write one image.

    The lock belongs to the open file, so whoever holds a copy of the descriptor holds it: this QEMU until its end,
    whatever becomes of the daemon. QEMU's own locks need a /dev/null to be probed for, and its root has none.

    :raise Conflict: another machine has it.
    """
    if disk.read_only:
        return
    try:
        fcntl.flock(disk.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise Conflict(f"disk {disk.serial} is in use by another machine", field="disk", value=disk.serial) from error


def blockdev(disk: Disk, fdset: int) -> dict[str, Any]:
    """The image behind a disk. Trimmed and zeroed blocks of a writable one go back to the host."""
    block_special = stat.S_ISBLK(os.fstat(disk.fd).st_mode)
    common: dict[str, Any] = {
        "driver": "host_device" if block_special else "file",
        "node-name": node_name(disk.serial),
        "filename": f"/dev/fdset/{fdset}",
        "read-only": disk.read_only,
        "locking": "off",
        "cache": {"direct": False, "no-flush": False},
    }
    return common if disk.read_only else common | {"discard": "unmap", "detect-zeroes": "unmap"}


def device(disk: Disk) -> dict[str, Any]:
    """The SCSI disk in front of the image; QEMU picks a free unit number of target 0.

    One target, so that the guest finds all by one REPORT LUNS instead of scanning. Errors, no space above all, are the
    guest's to see: the machine goes on.
    """
    return {"driver": "scsi-hd", "bus": f"{CONTROLLER}.0", "channel": 0, "scsi-id": 0, "id": device_id(disk.serial),
            "drive": node_name(disk.serial), "serial": disk.serial, "werror": "report", "rerror": "report"}


def device_id(serial: str) -> str:
    return f"disk-{serial}"


def node_name(serial: str) -> str:
    return f"node-{serial}"


def serial_of(name: str) -> str:
    """Of a device's id, or of a node's name; empty where it is no disk's."""
    kind, _, serial = name.partition("-")
    return serial if kind in ("disk", "node") else ""
