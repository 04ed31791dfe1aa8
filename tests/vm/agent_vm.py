"""A bare QEMU with the guest agent in it, for tests of the agent alone: no engine, no jail, one socket.

The machine is hostile to nobody here; what matters is that the agent runs on a real kernel with real disks.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import shutil
import subprocess
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hyperstack.guest.channel import AgentChannel
from hyperstack.guest.kernels import KernelStore
from hyperstack.guest.messages import Configure, Create, Event, ExitEvent, Limits, Process
from hyperstack.pod.errors import Unavailable
from hyperstack.pod.kernel import Kernel

CACHE = Path(os.environ.get("HYPERSTACK_CACHE") or Path.home() / ".cache" / "hyperstack") / "daemon"
BOOT_DEADLINE_S = 120.0
DOCKER_CAPABILITIES = (0, 1, 3, 4, 5, 6, 7, 8, 10, 13, 18, 27, 29, 31)
MASKED = (b"/proc/kcore", b"/proc/keys", b"/proc/timer_list", b"/sys/firmware")
READ_ONLY = (b"/proc/bus", b"/proc/fs", b"/proc/irq", b"/proc/sys", b"/proc/sysrq-trigger")


async def kernel() -> Kernel:
    return await KernelStore(CACHE).ensure_default(print)


def make_layer(directory: Path, image: Path) -> Path:
    subprocess.run(["mkfs.erofs", "-zlz4", "--quiet", str(image), str(directory)], check=True, capture_output=True)
    return image


def make_blank(image: Path, size_mib: int = 64) -> Path:
    with image.open("wb") as file:
        file.truncate(size_mib << 20)
    subprocess.run(["mke2fs", "-q", "-t", "ext4", "-E", "lazy_itable_init=1,lazy_journal_init=1", "-m", "0",
                    str(image)],
                   check=True)
    return image


def busybox_root(directory: Path) -> Path:
    """A root file system with busybox, a user and a few things to look at."""
    for name in ("bin", "etc", "tmp", "home/user", "var/empty", "data/sub"):
        (directory / name).mkdir(parents=True, exist_ok=True)
    (directory / "tmp").chmod(0o1777)
    shutil.copy("/bin/busybox", directory / "bin/busybox")
    for applet in subprocess.run(["/bin/busybox", "--list"], check=True, capture_output=True, text=True).stdout.split():
        with contextlib.suppress(FileExistsError):
            (directory / "bin" / applet).symlink_to("busybox")
    (directory / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000::/home/user:/bin/sh\n")
    (directory / "etc/group").write_text("root:x:0:\nuser:x:1000:\nextra:x:2000:user\n")
    (directory / "data/seed").write_text("from the image")
    os.chown(directory / "home/user", 1000, 1000)
    return directory


@dataclass
class Collector:
    """A sink that keeps everything, and checks that nothing is lost or doubled."""

    data: dict[int, bytearray] = field(default_factory=lambda: {1: bytearray(), 2: bytearray()})
    ends: dict[int, asyncio.Event] = field(default_factory=lambda: {1: asyncio.Event(), 2: asyncio.Event()})

    async def write(self, stream: int, offset: int, data: bytes) -> None:
        assert offset == len(self.data[stream])
        self.data[stream] += data

    async def eof(self, stream: int, offset: int) -> None:
        assert offset == len(self.data[stream])
        self.ends[stream].set()

    @property
    def out(self) -> str:
        return self.data[1].decode(errors="replace")

    @property
    def err(self) -> str:
        return self.data[2].decode(errors="replace")


def process(*argv: str | bytes, **changes: Any) -> Process:
    words = tuple(word if isinstance(word, bytes) else word.encode() for word in argv)
    settings: dict[str, Any] = {
        "argv": words, "env": (b"PATH=/bin", b"TERM=xterm"), "cwd": b"/", "user": b"", "tty": False, "stdin": False,
        "capabilities": DOCKER_CAPABILITIES, "no_new_privileges": False, "rlimits": ()}
    return Process(**(settings | changes))


class Guest:
    """A booted machine, configured, with a connection to its agent."""

    def __init__(self, machine: asyncio.subprocess.Process, directory: Path, key: bytes) -> None:
        self.machine = machine
        self.directory = directory
        self.key = key
        self.handles = 0
        self.exits: dict[int, asyncio.Future[ExitEvent]] = {}
        self.ooms = 0
        self.boot_s = 0.0
        self.channel: AgentChannel

    async def connect(self, deadline_s: float = BOOT_DEADLINE_S) -> AgentChannel:
        self.channel = await AgentChannel.connect(self.open, self.key, deadline_s=deadline_s, on_event=self._event)
        return self.channel

    async def open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self.machine.returncode is not None:
            raise Unavailable(f"the machine has ended: {self.console()}")
        return await asyncio.open_unix_connection(self.directory / "agent.sock")

    def console(self) -> str:
        return (self.directory / "console").read_text(errors="replace")[-4000:]

    async def _event(self, event: Event) -> None:
        if isinstance(event, ExitEvent):
            self.exited(event.handle).set_result(event)
        else:
            self.ooms += 1

    def exited(self, handle: int) -> asyncio.Future[ExitEvent]:
        return self.exits.setdefault(handle, asyncio.get_running_loop().create_future())

    def handle(self) -> int:
        self.handles += 1
        return self.handles

    async def create(self, container: str, **changes: Any) -> str:
        settings: dict[str, Any] = {
            "layers": ("layer0",), "writable": "", "read_only": False, "mounts": (), "files": (), "limits": Limits(),
            "masked": MASKED, "readonly": READ_ONLY, "privileged": False, "shm_size": 0, "sysctls": {}}
        await self.channel.create(Create(container=container, **(settings | changes)))
        return container

    async def begin(self, container: str, *argv: str | bytes, further: bool = False, stdin: bytes | None = None,
                    **changes: Any) -> tuple[int, Collector]:
        """Start a process and attach to it."""
        handle, sink = self.handle(), Collector()
        run = self.channel.exec if further else self.channel.start
        await run(container, handle, process(*argv, stdin=stdin is not None, **changes))
        await self.channel.attach(handle, sink, stdout=0, stderr=0)
        if stdin is not None:
            await self.channel.write_stdin(handle, stdin)
            await self.channel.close_stdin(handle)
        return handle, sink

    async def finish(self, handle: int, sink: Collector) -> ExitEvent:
        try:
            async with asyncio.timeout(60):
                event = await asyncio.shield(self.exited(handle))
                for end in sink.ends.values():
                    await end.wait()
        except TimeoutError as error:
            raise AssertionError(f"process {handle} does not end: {await self.channel.list_all()}, "
                                 f"console: {self.console()}") from error
        await self.channel.release(handle)
        return event

    async def run(self, container: str, *argv: str | bytes, **changes: Any) -> tuple[ExitEvent, Collector]:
        handle, sink = await self.begin(container, *argv, **changes)
        return await self.finish(handle, sink), sink

    async def shell(self, container: str, script: str, **changes: Any) -> str:
        """What a script prints as a further process of a running container; it must succeed."""
        event, sink = await self.run(container, "sh", "-c", script, further=True, **changes)
        assert event.code == 0, (event, sink.out, sink.err)
        return sink.out


@contextlib.asynccontextmanager
async def boot(directory: Path, disks: Sequence[tuple[str, Path, bool]], *, memory_mib: int = 160,
               configure: bool = True, options: Sequence[str] = (), **changes: Any) -> AsyncIterator[Guest]:
    """:param disks: serial, image, read-only. :param options: more of QEMU's. :param changes: of the first call."""
    chosen = await kernel()
    line = ["qemu-system-x86_64", "-M", "pc,hpet=off", "-accel", "tcg", "-cpu", "max", "-m", str(memory_mib),
            "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-bios", "qboot.rom",
            "-kernel", str(chosen.image), "-initrd", str(chosen.initrd), "-append",
            "console=ttyS0 quiet panic=-1 random.trust_cpu=on no_timer_check tsc=reliable mitigations=off "
            f"rcupdate.rcu_expedited=1 noreplace-smp {chosen.command_line}",
            "-serial", f"file:{directory}/console", "-device", "virtio-serial-pci",
            "-chardev", f"socket,id=agent,path={directory}/agent.sock,server=on,wait=off",
            "-device", "virtserialport,chardev=agent,name=org.hyperstack.agent.0",
            "-device", "virtio-scsi-pci,id=scsi0"]
    for number, (serial, image, read_only) in enumerate(disks):
        line += ["-drive", f"file={image},format=raw,if=none,id=d{number},readonly={'on' if read_only else 'off'}",
                 "-device", f"scsi-hd,drive=d{number},serial={serial},bus=scsi0.0,channel=0,scsi-id=0"]
    started = time.monotonic()
    machine = await asyncio.create_subprocess_exec(*line, *options, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
    guest = Guest(machine, directory, secrets.token_bytes(16))
    try:
        for _ in range(1000):
            if (directory / "agent.sock").exists():
                break
            await asyncio.sleep(0.01)
        await guest.connect()
        guest.boot_s = time.monotonic() - started
        if configure:
            settings: dict[str, Any] = {"time_ns": time.time_ns(), "entropy": secrets.token_bytes(64),
                                        "hostname": "guest", "memory_reserve": 32 << 20}
            await guest.channel.configure(Configure(**(settings | changes)))
        yield guest
    finally:
        if hasattr(guest, "channel"):
            await guest.channel.close()
        if machine.returncode is None:
            machine.kill()
        await machine.wait()


@contextlib.asynccontextmanager
async def lasting(directory: Path, disks: Sequence[tuple[str, Path, bool]]) -> AsyncIterator[Guest]:
    """One for many tests, which ends as it should."""
    async with boot(directory, disks) as guest:
        yield guest
        await guest.channel.shutdown()
        await asyncio.wait_for(guest.machine.wait(), 60)
