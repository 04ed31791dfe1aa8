"""The engine's service of kernels with a real store of kernels in a directory, on a host that has no machines."""

from __future__ import annotations

import io
import tarfile
from collections.abc import AsyncIterator
from pathlib import Path

from hyperstack.engine.config import EngineConfig
from hyperstack.engine.kernels import KernelService
from hyperstack.engine.store import Store
from hyperstack.guest.initramfs import Module
from hyperstack.guest.kernel_check import Candidate
from hyperstack.guest.kernels import KernelStore
from hyperstack.guest.vmlinux import Image
from hyperstack.hypervisor.api import Machine, MachineSpec
from hyperstack.pod.errors import Unavailable


class NoMachines:
    """A hypervisor's door behind which there is nothing."""

    async def start(self, spec: MachineSpec) -> Machine:
        raise Unavailable("this host has no machines")


def make_store(root: Path, *names: str) -> KernelStore:
    """Kernels of these names, the first of them the default."""
    root.mkdir(parents=True, exist_ok=True)
    agent = root / "agent-binary"
    agent.write_bytes(b"agent")
    library = KernelStore(root / "cache", agent_binary=agent)
    for name in names:
        image = Image(data=b"\x7fELF" + name.encode(), format="vmlinux", release="6.1", config="CONFIG_EXT4_FS=y\n")
        candidate = Candidate(image=image, modules=(Module(name="a.ko", data=b"A"),), warnings=(), known=True)
        library.commit(library.stage(name, candidate, command_line="quiet", min_memory_mib=64))
    library.set_default(names[0])
    return library


def make_service(root: Path, *names: str) -> tuple[KernelService, Store]:
    library = make_store(root, *names)
    config = EngineConfig(data_root=root / "data")
    store = Store(config.data_root / "engine.db")
    return KernelService(library, store, NoMachines(), config), store


def archive(files: dict[str, bytes]) -> bytes:
    """As `hyperctl kernel add` sends them."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as tar:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return made.getvalue()


async def pieces(data: bytes, size: int = 4096) -> AsyncIterator[bytes]:
    for at in range(0, len(data), size):
        yield data[at:at + size]
