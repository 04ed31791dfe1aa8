"""What every pod does, done once in a machine that others are then forked from.

Under emulation the guest's code is translated when it is first run, and that is most of what a start costs. A forked
machine has its parent's translations. So the parent goes the way of a pod, with the same calls and records, and
ends as if it had not been.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from hyperstack.engine.machines import launch
from hyperstack.engine.machines.greeting import greet
from hyperstack.engine.records import ContainerRecord, ExecRequest, PodRecord
from hyperstack.engine.storage.disks import ContainerDisks
from hyperstack.guest import messages
from hyperstack.guest.channel import AgentChannel
from hyperstack.guest.frames import KEY_SIZE
from hyperstack.guest.rehearsal import RUN
from hyperstack.hypervisor.api import Disk, Machine, TemplateSpec
from hyperstack.network.api import Binding
from hyperstack.pod.errors import Conflict
from hyperstack.pod.spec import DEFAULT_PROJECT, ContainerSpec, ImageConfig, PodSpec, Resources
from hyperstack.volume.local.blank import make_blank_disk

_ROUNDS = 3
"""A kernel goes other ways the first time, and the second run translates what the first has made warm. More bring
nothing (docs/hypervisor.md)."""
_DEADLINE_S = 30.0
_LAYERS, _WRITABLE = tuple(f"slot-l{number}" for number in range(6)), "slot-w"
"""Serials. Most images have fewer layers; what finds no slot is plugged in."""
_LAYER_BYTES = 1 << 40
"""What a layer's slot looks like to the guest; no layer is larger."""
_SIGKILL = 9
_BINDING = Binding(pod_id="", network_id="", mac="02:00:00:00:00:02", address="192.0.2.2/24", gateway="192.0.2.1",
                   tap="", bridge="", dns=("192.0.2.1",), mtu=1500, names=("rehearsal",))
"""On a network with names, so that whom to ask for them has been set once. Addresses that are for documentation:
nobody hears the machine."""


@asynccontextmanager
async def stage(layer: Path, *, disk_bytes: int, directory: Path) -> AsyncIterator[tuple[Disk, ...]]:
    """The disks of the machine that rehearses, which are the slots of its children's: layers, and one of a container's.

    :param layer: an image layer with the program `guest.rehearsal.RUN`.
    :param disk_bytes: size of a container's disk here.
    :param directory: for the files, for the moment.
    """
    with tempfile.TemporaryDirectory(prefix=".rehearsal-", dir=directory) as scratch, contextlib.ExitStack() as stack:
        disks = []
        for serial in _LAYERS:
            path = Path(scratch, serial)
            await asyncio.to_thread(shutil.copyfile, layer, path)
            os.truncate(path, _LAYER_BYTES)
            disks.append(Disk(serial=serial, fd=_opened(stack, path, os.O_RDONLY), read_only=True))
        await make_blank_disk(Path(scratch, _WRITABLE), disk_bytes)
        disks.append(Disk(serial=_WRITABLE, fd=_opened(stack, Path(scratch, _WRITABLE), os.O_RDWR), read_only=False))
        yield tuple(disks)


def _opened(stack: contextlib.ExitStack, path: Path, flags: int) -> int:
    fd = os.open(path, flags | os.O_CLOEXEC)
    stack.callback(os.close, fd)
    return fd


async def rehearse(machine: Machine, spec: TemplateSpec) -> None:
    """Leaves the machine, which has the disks of `stage`, as it was, but for what it has learned.

    :raise HyperStackError: the agent does not answer or cannot do it.
    """
    for _ in range(_ROUNDS):
        async with asyncio.timeout(_DEADLINE_S):
            await _round(machine, spec)


async def _round(machine: Machine, spec: TemplateSpec) -> None:
    exits: asyncio.Queue[messages.Event] = asyncio.Queue()
    channel = await greet(machine, secrets.token_bytes(KEY_SIZE), deadline_s=_DEADLINE_S, on_event=exits.put)
    async with channel:
        pod, container = _records(spec)
        await channel.configure(launch.configuration(pod, {}))
        await channel.create(launch.creation(pod, container, ContainerDisks(layers=_LAYERS[:1], writable=_WRITABLE)))
        await _use(channel, pod, container, exits)
        await channel.remove(container.id)
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
    with contextlib.suppress(Conflict):  # it does not wait for input, and may have ended
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
