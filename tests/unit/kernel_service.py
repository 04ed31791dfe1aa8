"""The engine's service of kernels with a real store of kernels in a directory, on a host that has no machines."""

from __future__ import annotations

import io
import tarfile
from collections.abc import AsyncIterator
from pathlib import Path

from hyperstack.engine.config import EngineConfig, TemplateSharing
from hyperstack.engine.kernels.service import KernelService
from hyperstack.engine.machines.start_queue import StartQueue
from hyperstack.engine.machines.templates import Templates
from hyperstack.engine.store import Store
from hyperstack.guest.initramfs import Module
from hyperstack.guest.kernel_check import Candidate
from hyperstack.guest.kernels import KernelStore
from hyperstack.guest.vmlinux import Image
from hyperstack.hypervisor.api import Capability, Machine, MachineSpec, Template, TemplateSpec
from hyperstack.pod.errors import Unavailable


class NoMachines:
    """A hypervisor's door behind which there is nothing, and who asked for a template there."""

    capabilities = Capability.TEMPLATE

    def __init__(self, wanted: list[TemplateSpec]) -> None:
        self._wanted = wanted

    async def find_template(self, spec: TemplateSpec) -> Template | None:
        self._wanted.append(spec)
        raise Unavailable("this host has no machines")

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


def make_service(root: Path, *names: str, wanted: list[TemplateSpec] | None = None) -> tuple[KernelService, Store]:
    """:param wanted: templates are made for the project "default", and those that are asked for are noted here."""
    library = make_store(root, *names)
    sharing = TemplateSharing.OFF if wanted is None else TemplateSharing.PROJECT
    config = EngineConfig(data_root=root / "data", template_sharing=sharing, template_projects=("default",))
    store = Store(config.data_root / "engine.db")
    machines = NoMachines([] if wanted is None else wanted)
    starts = StartQueue(slots=2, reserve_mib=0, patience_s=60)
    templates = Templates(machines, starts, config)  # type: ignore[arg-type]  # the parts of the door that it uses
    return KernelService(library, store, machines, templates, starts, config), store


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
