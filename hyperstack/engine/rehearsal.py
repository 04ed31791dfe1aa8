"""What every pod does, done once in a machine that others are then forked from.

Under emulation the guest's code is translated when it is first run, and that is most of what a start costs. A forked
machine has its parent's translations. So the parent goes the way of a pod, with the same calls and the same records, and
ends as if it had not been.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import tempfile
import time
from pathlib import Path

from hyperstack.engine import launch
from hyperstack.engine.disks import ContainerDisks
from hyperstack.engine.greeting import greet
from hyperstack.engine.records import ContainerRecord, ExecRequest, PodRecord
from hyperstack.guest import messages
from hyperstack.guest.channel import AgentChannel
from hyperstack.guest.frames import KEY_SIZE
from hyperstack.guest.rehearsal import RUN
from hyperstack.hypervisor.api import Disk, Machine, TemplateSpec
from hyperstack.network.api import Binding
from hyperstack.pod.spec import DEFAULT_PROJECT, ContainerSpec, ImageConfig, PodSpec, Resources
from hyperstack.volume.local.blank import make_blank_disk

_ROUNDS = 3
"""A kernel goes other ways the first time, and the second run translates what the first has made warm. More bring
nothing (docs/hypervisor.md)."""
_DEADLINE_S = 30.0
_LAYER, _WRITABLE = "l0", "w0"
_SIGKILL = 9
_BINDING = Binding(pod_id="", network_id="", mac="02:00:00:00:00:02", address="192.0.2.2/24", gateway="192.0.2.1",
                   tap="", bridge="", dns=("192.0.2.1",), mtu=1500)
"""Addresses that are for documentation: nobody hears the machine."""


async def rehearse(machine: Machine, spec: TemplateSpec, *, layer: Path, disk_bytes: int, directory: Path) -> None:
    """Leaves the machine as it was, but for what it has learned.

    :param layer: an image layer with the program `guest.rehearsal.RUN`.
    :param disk_bytes: size of a container's disk here.
    :param directory: for that disk, for the moment.
    :raise HyperStackError: the agent does not answer or cannot do it.
    """
    with tempfile.TemporaryDirectory(prefix=".rehearsal-", dir=directory) as scratch:
        writable = Path(scratch, "disk")
        await make_blank_disk(writable, disk_bytes)
        for _ in range(_ROUNDS):
            async with asyncio.timeout(_DEADLINE_S):
                await _round(machine, spec, layer, writable)


async def _round(machine: Machine, spec: TemplateSpec, layer: Path, writable: Path) -> None:
    exits: asyncio.Queue[messages.Event] = asyncio.Queue()
    channel = await greet(machine, secrets.token_bytes(KEY_SIZE), deadline_s=_DEADLINE_S, on_event=exits.put)
    async with channel:
        pod, container = _records(spec)
        await channel.configure(launch.configuration(pod))
        for serial, path, read_only in ((_LAYER, layer, True), (_WRITABLE, writable, False)):
            fd = os.open(path, (os.O_RDONLY if read_only else os.O_RDWR) | os.O_CLOEXEC)
            try:
                await machine.attach_disk(Disk(serial=serial, fd=fd, read_only=read_only))
            finally:
                os.close(fd)
        await channel.create(launch.creation(pod, container, ContainerDisks(layers=(_LAYER,), writable=_WRITABLE)))
        await _use(channel, pod, container, exits)
        await channel.remove(container.id)
        for serial in (_LAYER, _WRITABLE):
            await machine.detach_disk(serial)
        await channel.rewind()


async def _use(channel: AgentChannel, pod: PodRecord, container: ContainerRecord, exits: asyncio.Queue[messages.Event]
               ) -> None:
    """A main process that is killed, and beside it one that does what programs do."""
    main, further = 1, 2
    await channel.start(container.id, main, launch.main_process(pod, container))
    await channel.attach(main, _Nowhere(), stdout=0, stderr=0)
    request = ExecRequest(argv=(RUN,), attach_stdin=True, attach_stdout=True)
    await channel.exec(container.id, further, launch.exec_process(pod, container, request))
    sink = _Nowhere()
    await channel.attach(further, sink, stdout=0, stderr=0)
    await channel.write_stdin(further, b"line\n")
    await channel.close_stdin(further)
    await exits.get()
    await sink.ended.wait()
    await channel.release(further)
    await channel.stats()
    await channel.list_all()
    await channel.signal(main, _SIGKILL)
    await exits.get()
    await channel.release(main)


def _records(spec: TemplateSpec) -> tuple[PodRecord, ContainerRecord]:
    """An ordinary pod's, of an ordinary `run`."""
    ident = "0" * 64
    pod = PodRecord(id=ident, name="rehearsal", project=DEFAULT_PROJECT, spec=PodSpec(), implicit=True,
                    created_at=time.time_ns(), memory_mib=spec.memory_mib, vcpus=spec.vcpus,
                    binding=_BINDING if spec.nic else None)
    container = ContainerRecord(
        id=ident, pod_id=ident, project=DEFAULT_PROJECT, name="rehearsal", image_id="", image_config=ImageConfig(),
        spec=ContainerSpec(image="", command=(RUN, "wait"), resources=Resources(memory=32 << 20)),
        created_at=pod.created_at)
    return pod, container


class _Nowhere:
    """Takes output and forgets it."""

    def __init__(self) -> None:
        self.ended = asyncio.Event()

    async def write(self, stream: int, offset: int, data: bytes) -> None:
        return

    async def eof(self, stream: int, offset: int) -> None:
        self.ended.set()
