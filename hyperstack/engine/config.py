"""What an operator may set about one host's engine."""

from __future__ import annotations

import enum
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path


class TemplateSharing(enum.StrEnum):
    """Whose machines may be clones of one template."""

    OFF = "off"          # nobody's: every machine boots
    PROJECT = "project"  # one project's
    HOST = "host"        # everybody's: fewer templates, and no project of its own secrets of the boot


@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    data_root: Path
    """The engine's own state, one directory per pod, and what the other rooms keep."""
    default_memory_mib: int = 512
    """Guest RAM of a pod that names no limit. Untouched RAM costs the host nothing."""
    default_disk_bytes: int = 10 << 30
    """Limit of a container's writable layer; the disk is sparse."""
    default_volume_bytes: int = 10 << 30
    default_ipv6: bool = False
    """Whether each project's default network has IPv6 beside IPv4."""
    uid_base: int = 1_879_048_192
    """VMs run under uids from here on, one each: 0x70000000, beyond what distributions and user namespaces hand out."""
    uid_count: int = 65536
    start_slots: int = (os.cpu_count() or 1) + 1
    """Machines that may start at the same time: a boot is one busy processor, so more only makes all of them late. One
    project has all but one of them at most."""
    memory_reserve_mib: int = 256
    """Of the host's memory, what no machine is started into: for the daemon and the host's own."""
    memory_patience_s: float = 60.0
    """How long a start may be short of memory on end before it is refused. A pod that is being stopped takes ten
    seconds at most for its disks; longer than a few of these, nobody is about to free any."""
    boot_deadline_s: float = 90.0
    """From the start of a machine to its agent's first answer. Emulation on a busy host takes ten seconds; three
    times the worst that was seen."""
    template_sharing: TemplateSharing = TemplateSharing.OFF
    template_age_s: float = 24 * 3600.0
    """After which a template is made anew, with other random numbers."""
    rehearsal_layer: Path | None = None
    """Of the program that the machine runs which a template's clones are forked from (guest/rehearsal.py); None: clones
    begin as the template was kept."""
    template_projects: tuple[str, ...] = ()
    """For whose pods a template is made when the daemon starts."""
    pool_size: int = 0
    """Machines that stand ready in each class of pods that is in use; see `pool`."""
    pool_memory_percent: int = 10
    """Of the memory that the host has available, what ready machines may take together."""
    bind_paths: Mapping[str, Sequence[Path]] = field(default_factory=dict)
    """By project, the host paths that callers without administrator's rights may bind, with all below them."""
    build_private_sources: tuple[IPv4Network | IPv6Network, ...] = ()
    """Networks that builds may fetch from although they are not public."""
    keepalive_s: float = 60.0
    """Between pings of an otherwise silent guest."""
    keepalive_deadline_s: float = 120.0
    """A guest that does not answer a ping for so long is given up."""
    drain_deadline_s: float = 30.0
    """For output that a finished process left in the guest."""

    @property
    def git_uid(self) -> int:
        """Of git while it fetches contexts of builds. Beside that of the processes that unpack images."""
        return self.uid_base - 2

    @property
    def trial_uid(self) -> int:
        """Of templates in the making, and of the clones that try one out: one at a time. Beside the pods' own."""
        return self.uid_base + self.uid_count

    @property
    def kernel_trial_uid(self) -> int:
        """Of the machine that tries a kernel, one at a time too, but while a template may be in the making."""
        return self.trial_uid + 1

    def parent_uid(self, number: int) -> int:
        """Of the machine of that number, from 0, which stands for others to be forked from."""
        return self.kernel_trial_uid + 1 + number
