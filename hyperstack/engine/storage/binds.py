"""Files of the host in containers: who may have which, and the server that gives them to the container's machine.

One server for each container with binds, at a port of its own in the machine. Both are found again by the container's
id, and end with the machine at the latest, so that nothing of them is written down.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import pwd
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path

from msgspec.structs import replace

from hyperstack.engine.records import ContainerRecord
from hyperstack.guest import messages
from hyperstack.guest.channel import AgentChannel, GuestCallError
from hyperstack.guest.file_server import MAX_SHARES, FileServers, HostUser, Share
from hyperstack.guest.tray import open_tray
from hyperstack.hypervisor.api import Disk, Machine
from hyperstack.identity.api import Principal
from hyperstack.pod.errors import Forbidden, HyperStackError, InvalidArgument, NotFound, UnsupportedOption
from hyperstack.pod.spec import Mount, MountKind

_MADE_MODE = 0o755
_KINDS = {stat.S_IFSOCK: "a socket", stat.S_IFIFO: "a pipe", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device"}
_ALLOW_HINT = "the administrator allows paths under [binds.allow] in hyperd.toml"
NON_RECURSIVE = "nonrecursive"
"""Option of a bind: without what the host has mounted below it."""


class BindService:
    """:param allowed: by project, the host paths that callers without administrator's rights may bind, with all that is
    below them."""

    def __init__(self, servers: FileServers, allowed: Mapping[str, Sequence[Path]]) -> None:
        self._servers = servers
        self._allowed = allowed

    async def admit(self, who: Principal, mount: Mount) -> Mount:
        """The mount with whose rights it has.

        :raise InvalidArgument: no host path, or one that has to be there and is not.
        :raise Forbidden: the caller may not have it. :raise UnsupportedOption: what is there cannot be shared.
        """
        path = mount.host_path
        if not path.startswith("/") or len(path) > 4095 or "\0" in path:
            raise InvalidArgument(f"invalid mount config for type \"bind\": invalid mount path: '{path[:256]}' "
                                  "mount path must be absolute", field="source", value=path[:256])
        mount = replace(mount, uid=0 if who.admin else self._uid(who, path))
        try:
            os.close(await asyncio.to_thread(self._open, who.project, mount))
        except NotFound as error:
            if mount.create_source:
                await asyncio.to_thread(self._check_missing, who.project, mount)
                return mount
            await asyncio.to_thread(self._check_absent, who.project, mount)
            said = (f"failed to mount local volume: mount {path}:{mount.source}: no such file or directory"
                    if mount.device else
                    f'invalid mount config for type "bind": bind source path does not exist: {path}')
            raise InvalidArgument(said, field="source", value=path) from error
        return mount

    async def permit(self, who: Principal, path: str) -> None:
        """Whether the caller may have a volume that is this host path, which need not be there yet.

        :raise Forbidden: not there. :raise InvalidArgument: what is there cannot be shared.
        """
        mount = Mount(kind=MountKind.VOLUME, target="/", device=path, uid=0 if who.admin else self._uid(who, path))
        try:
            os.close(await asyncio.to_thread(self._open, who.project, mount))
        except NotFound:
            await asyncio.to_thread(self._check_absent, who.project, mount)

    def _uid(self, who: Principal, path: str) -> int:
        if not self._allowed.get(who.project):
            raise Forbidden(f"the project {who.project} may bind no path of the host: {path}", field="source",
                            value=path,
                            hint=_ALLOW_HINT)
        if who.uid is None:
            raise Forbidden(f"{who.user} is no user of this host, so there are no rights to open {path} with",
                            field="source", value=path, hint="use a named volume")
        return who.uid

    async def attach(self, machine: Machine, channel: AgentChannel, container: ContainerRecord) -> None:
        """Serve what the container binds to its machine. Missing directories are made where the mount says so.

        :raise NotFound: a host path is missing. :raise Forbidden: it may not be bound any more.
        :raise HyperStackError: the server, the machine or the guest cannot.
        """
        binds = binds_of(container)
        if not binds:
            return
        if len(binds) > MAX_SHARES:
            raise InvalidArgument(f"more than {MAX_SHARES} binds", field="HostConfig.Binds", value=len(binds))
        await self.detach(machine, channel, container)  # of a start that a dead daemon had begun
        user = await asyncio.to_thread(_host_user, binds[0].uid)
        with contextlib.ExitStack() as stack:
            shares = []
            for mount in binds:
                fd = await asyncio.to_thread(self._open_or_make, container.project, mount)
                stack.callback(os.close, fd)
                shares.append(Share(fd=fd, read_only=mount.read_only or "ro" in mount.has,
                                    flat=NON_RECURSIVE in mount.has))
            cgroups = stack.enter_context(machine.helper_groups())
            tray, tray_disk = stack.enter_context(open_tray())
            stream = stack.enter_context(await self._servers.serve(shares, user=user, cgroups=cgroups, tray=tray))
            await machine.attach_port(_port(container), stream.fileno())
            await machine.attach_disk(Disk(serial=_tray(container), fd=tray_disk, read_only=True))
        files = messages.Volume(name=files_volume(container), port=_port(container), tray=_tray(container))
        try:
            await channel.volume(files)
        except GuestCallError as error:
            if error.errno != errno.EINVAL:
                raise
            await channel.volume(replace(files, tray=""))  # an agent from before there were trays

    async def detach(self, machine: Machine, channel: AgentChannel, container: ContainerRecord) -> None:
        """Take all of that away. Idempotent; what is gone already is no error."""
        if binds_of(container):
            with contextlib.suppress(HyperStackError):
                await channel.unvolume(files_volume(container))
            with contextlib.suppress(HyperStackError):
                await machine.detach_port(_port(container))
            with contextlib.suppress(HyperStackError):
                await machine.detach_disk(_tray(container))

    def close(self) -> None:
        self._servers.close()

    def _open_or_make(self, project: str, mount: Mount) -> int:
        try:
            return self._open(project, mount)
        except NotFound:
            if not mount.create_source:
                raise
        self._check_missing(project, mount)
        os.makedirs(mount.host_path, _MADE_MODE, exist_ok=True)
        return self._open(project, mount)

    def _open(self, project: str, mount: Mount) -> int:
        """An O_PATH descriptor of the source. What counts is what was opened, whatever the path leads to later.

        :raise NotFound: it is not there.
        """
        try:
            fd = os.open(mount.host_path, os.O_PATH | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError):
            raise NotFound("host path", mount.host_path) from None
        except OSError as error:
            raise InvalidArgument(f"bind source path {mount.host_path}: {error.strerror}", field="source",
                                  value=mount.host_path) from error
        try:
            self._check_allowed(project, mount, Path(os.readlink(f"/proc/self/fd/{fd}")))
            kind = stat.S_IFMT(os.fstat(fd).st_mode)
            if mount.device and kind != stat.S_IFDIR:
                raise InvalidArgument(f"failed to mount local volume: mount {mount.device}: not a directory",
                                      field="device", value=mount.device, hint="name a directory, or use -v FILE:/path")
            if kind in _KINDS:
                raise UnsupportedOption(f"the bind of {mount.host_path}", f"it is {_KINDS[kind]}, which the host's "
                                        "kernel serves and no VM can reach", hint="bind directories and regular files")
        except BaseException:
            os.close(fd)
            raise
        return fd

    def _check_missing(self, project: str, mount: Mount) -> None:
        """Whether a directory may be made. :raise Forbidden: not there. :raise NotFound: not for this caller."""
        self._check_absent(project, mount)
        if mount.uid:
            raise NotFound("host path", mount.host_path, hint="make it first: hyperd makes directories for root alone")

    def _check_absent(self, project: str, mount: Mount) -> None:
        """:raise Forbidden: it is nothing to this caller whether the path is there."""
        self._check_allowed(project, mount, Path(os.path.realpath(mount.host_path)))

    def _check_allowed(self, project: str, mount: Mount, real: Path) -> None:
        """:param real: the path without links. :raise Forbidden: not for a caller without administrator's rights."""
        if mount.uid and not any(real.is_relative_to(os.path.realpath(allowed))
                                 for allowed in self._allowed.get(project, ())):
            raise Forbidden(f"the project {project} may not bind the host's path {mount.host_path}", field="source",
                            value=mount.host_path,
                            hint=_ALLOW_HINT)


def binds_of(container: ContainerRecord) -> list[Mount]:
    """What it has of the host's, volumes that are directories there among it; in the order in which they are served."""
    return [mount for mount in container.spec.mounts if mount.host_path]


def files_volume(container: ContainerRecord) -> str:
    """What the container's binds are called in its guest. No volume's name of a user's begins with an underscore."""
    return f"_files-{container.id[:12]}"


def share_path(container: ContainerRecord, mount: Mount) -> str:
    """Of one of `binds_of`, within `files_volume`."""
    return str(binds_of(container).index(mount))


def _port(container: ContainerRecord) -> str:
    return f"files.{container.id[:12]}"


def _tray(container: ContainerRecord) -> str:
    return f"t{container.id[:17]}"


def _host_user(uid: int) -> HostUser | None:
    """:raise Forbidden: the host has no such user any more."""
    if uid == 0:
        return None
    try:
        entry = pwd.getpwuid(uid)
    except KeyError:
        raise Forbidden(f"the host has no user {uid} any more, whose rights the container's binds have",
                        field="source", value=uid) from None
    return HostUser(uid=uid, groups=tuple(dict.fromkeys([entry.pw_gid, *os.getgrouplist(entry.pw_name,
                                                                                     entry.pw_gid)])))
