"""Binds, Mounts, Tmpfs and Volumes of a create request: four spellings, one kind of thing."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable

from hyperstack.docker_api.bodies import (
    BindOptionsBody,
    CreateBody,
    HostConfigBody,
    MountBody,
    TmpfsOptionsBody,
    VolumeOptionsBody,
)
from hyperstack.pod.errors import InvalidArgument, UnsupportedOption
from hyperstack.pod.ids import check_name
from hyperstack.pod.spec import Mount, MountKind

MAX_MOUNTS = 256
_TYPES = ("bind", "volume", "tmpfs")
_MODES = ({"rw", "ro"}, {"z", "Z"}, {"nocopy"}, {"cached", "delegated", "consistent"})
"""Of a bind's third part, at most one of each set; and one propagation."""
_TMPFS_FLAGS = frozenset({"rw", "ro", "noexec", "exec", "nosuid", "suid", "nodev", "dev", "noatime", "atime",
                          "nodiratime", "relatime", "strictatime", "sync", "async"})
_SIZE = re.compile(r"([0-9]{1,15})([kmg]?)b?\Z", re.IGNORECASE)
_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}
_OCTAL = re.compile(r"[0-7]{1,4}\Z")
_ID = re.compile(r"[0-9]{1,10}\Z")
_ID_MAX = 2**32 - 2
_PROPAGATION = frozenset({"private", "rprivate"})
_SHARED = frozenset({"shared", "rshared", "slave", "rslave"})
_NO_PROPAGATION = "what is mounted later on one side cannot appear on the other, a VM's"


def parse_mounts(body: CreateBody) -> tuple[Mount, ...]:
    """All mounts of a container.

    :raise InvalidArgument: one is malformed, or two have one target. :raise UnsupportedOption: host paths.
    """
    host = body.host_config
    found = [*_binds(host.binds), *(_mount(item, f"HostConfig.Mounts[{index}]") for index, item in
                                     enumerate(host.mounts)), *_tmpfs(host)]
    taken = {mount.target for mount in found}
    # An anonymous volume of the image's, or of a client that repeats it, yields to a mount on the same path.
    for path in body.volumes:
        target = _target(path, "Volumes")
        if target not in taken:
            found.append(Mount(kind=MountKind.VOLUME, target=target, anonymous=True))
            taken.add(target)
    _check_all(found)
    return tuple(found)


def parse_volumes_from(values: Iterable[str]) -> tuple[str, ...]:
    """:raise InvalidArgument: not `container[:mode]`."""
    found = []
    for value in values:
        name, _, mode = value.partition(":")
        complaint = "" if name and len(name) <= 255 else f'invalid name or ID supplied: "{name[:64]}"'
        if mode not in ("", "ro", "rw", "z", "Z"):
            complaint = f"invalid mode: {mode[:64]}"
        if not value:
            complaint = "volumes-from specification cannot be an empty string"
        if complaint:
            raise InvalidArgument(complaint, field="HostConfig.VolumesFrom", value=value[:128],
                                  hint="container[:ro|rw]")
        found.append(value)
    return tuple(found)


def _check_all(mounts: list[Mount]) -> None:
    if len(mounts) > MAX_MOUNTS:
        raise InvalidArgument(f"more than {MAX_MOUNTS} mounts", field="HostConfig.Mounts", value=len(mounts))
    seen: set[str] = set()
    for mount in mounts:
        if mount.target in seen:
            raise InvalidArgument(f"Duplicate mount point: {mount.target}", field="HostConfig.Mounts",
                                  value=mount.target)
        seen.add(mount.target)


def _target(path: str, field: str, context: str = "") -> str:
    """:param context: what the error begins with."""
    clean = posixpath.normpath(path)
    complaint = ""
    if not path.startswith("/") or len(path) > 4095:
        complaint = f"invalid mount path: '{path[:128]}' mount path must be absolute"
    elif clean in ("/", "//"):
        complaint = "invalid specification: destination can't be '/'"
    if complaint:
        raise InvalidArgument(f"{context}{complaint}", field=field, value=path[:128])
    return clean


def volume_name(name: str) -> str:
    """:raise InvalidArgument: no volume is called so."""
    try:
        return check_name(name, kind="volume") if not name.startswith("/") else check_name("")
    except InvalidArgument as error:
        shown = name[:64]
        if len(name) == 1:
            raise InvalidArgument(f"create {shown}: volume name is too short, names should be at least two "
                                  "alphanumeric characters", field="volume", value=shown) from error
        raise InvalidArgument(
            f'create {shown}: "{shown}" includes invalid characters for a local volume name, only '
            '"[a-zA-Z0-9][a-zA-Z0-9_.-]" are allowed. If you intended to pass a host directory, use absolute path',
            field="volume", value=shown, hint=error.hint) from error


def _binds(binds: Iterable[str]) -> Iterable[Mount]:
    for text in binds:
        parts = text.split(":")
        wrong = f"invalid volume specification: '{text[:256]}'"
        if len(parts) > 3 or (len(parts) > 1 and not (parts[0] and parts[1])):
            raise InvalidArgument(wrong, field="HostConfig.Binds", value=text[:256], hint="NAME:/path[:ro]")
        modes = _bind_modes(parts[2]) if len(parts) == 3 else []
        kind = "bind" if parts[0].startswith("/") and len(parts) > 1 else "volume"
        target = _target(parts[-1] if len(parts) == 1 else parts[1], "HostConfig.Binds",
                         f'{wrong}: invalid mount config for type "{kind}": ')
        misplaced = {"nocopy"} if kind == "bind" else _PROPAGATION | _SHARED
        if misplaced.intersection(modes):
            raise InvalidArgument(f'{wrong}: invalid mount config for type "{kind}": field '
                                  f"{'VolumeOptions' if kind == 'bind' else 'BindOptions'} must not be specified",
                                  field="HostConfig.Binds", value=text[:256])
        if len(parts) == 1:
            yield Mount(kind=MountKind.VOLUME, target=target, anonymous=True)
        elif kind == "bind":
            yield _bind(parts[0], target, modes)
        else:
            yield Mount(kind=MountKind.VOLUME, source=volume_name(parts[0]), target=target, read_only="ro" in modes,
                        options=("nocopy",) if "nocopy" in modes else ())


def _bind_modes(text: str) -> list[str]:
    """:raise InvalidArgument: a word is unknown, or contradicts another."""
    modes = text.split(",") if text else []
    kinds = (*_MODES, _PROPAGATION | _SHARED)
    if any(len(kind.intersection(modes)) > 1 for kind in kinds) or len(set(modes)) < len(modes) \
            or not set(modes) <= set().union(*kinds):
        raise InvalidArgument(f"invalid mode: {text[:64]}", field="HostConfig.Binds", value=text[:64],
                              hint="ro, rw, rprivate; nocopy of a volume")
    return modes


def _bind(source: str, target: str, modes: list[str]) -> Mount:
    for mode in modes:
        if mode in _SHARED:
            raise UnsupportedOption(f"HostConfig.Binds mode {mode}", _NO_PROPAGATION, hint="rprivate, the default")
    return Mount(kind=MountKind.BIND, source=posixpath.normpath(source), target=target, read_only="ro" in modes,
                 create_source=True)


def _bind_mount(body: MountBody, target: str, field: str) -> Mount:
    options = body.bind_options or BindOptionsBody()
    if options.propagation not in _PROPAGATION | _SHARED | {""}:
        raise InvalidArgument(f'invalid mount config for type "bind": invalid propagation mode: '
                              f'{options.propagation[:32]}', field=f"{field}.BindOptions.Propagation")
    if options.propagation not in _PROPAGATION | {""}:
        raise UnsupportedOption(f"{field}.BindOptions.Propagation={options.propagation[:32]}", _NO_PROPAGATION,
                                hint="rprivate, the default")
    if options.read_only_non_recursive:
        raise UnsupportedOption(f"{field}.BindOptions.ReadOnlyNonRecursive", "a read-only bind is so as a whole")
    if not body.source:
        raise InvalidArgument('invalid mount config for type "bind": field Source must not be empty',
                              field=f"{field}.Source")
    return Mount(kind=MountKind.BIND, source=posixpath.normpath(body.source), target=target, read_only=body.read_only,
                 create_source=options.create_mountpoint, structured=True,
                 options=("nonrecursive",) if options.non_recursive else ())


def _mount(body: MountBody, field: str) -> Mount:
    wrong = f'invalid mount config for type "{body.type[:32]}": '
    if not body.target:
        raise InvalidArgument(f"{wrong}field Target must not be empty", field=f"{field}.Target")
    if body.type == "image":
        raise UnsupportedOption(f"{field} of type image", "there are bind, volume and tmpfs")
    if body.type not in _TYPES:
        raise InvalidArgument(f"{wrong}mount type unknown", field=f"{field}.Type", value=body.type[:32],
                              hint=", ".join(_TYPES))
    _check_options(body, field)
    target = _target(body.target, f"{field}.Target", wrong)
    if body.type == "bind":
        return _bind_mount(body, target, field)
    if body.type == "tmpfs":
        if body.source:
            raise InvalidArgument(f"{wrong}field Source must not be specified", field=f"{field}.Source")
        options = body.tmpfs_options or TmpfsOptionsBody()
        if options.size_bytes < 0 or not 0 <= options.mode <= 0o7777:
            raise InvalidArgument(f"{field}.TmpfsOptions: SizeBytes and Mode must be in range", field=field)
        for option in options.options:
            if "=".join(option) not in _TMPFS_FLAGS:
                raise InvalidArgument(f"{wrong}invalid option: {option[0][:64] if option else ''}",
                                      field=f"{field}.TmpfsOptions.Options")
        flags = ["=".join(option) for option in options.options]
        return _tmpfs_mount(target, flags, field, size=options.size_bytes, mode=options.mode,
                            read_only=body.read_only, structured=True)
    return _volume(body, target, field)


def _check_options(body: MountBody, field: str) -> None:
    """Those of another type would be without effect."""
    given = {"bind": body.bind_options, "volume": body.volume_options, "tmpfs": body.tmpfs_options,
             "image": body.image_options, "cluster": body.cluster_options}
    for kind, options in given.items():
        if options is not None and kind != body.type:
            name = f"{kind.title()}Options"
            raise InvalidArgument(f'{name} must not be specified on mount type "{body.type}"', field=f"{field}.{name}")


_NO_VOLUME = 'invalid mount config for type "volume": '


def _volume(body: MountBody, target: str, field: str) -> Mount:
    options = body.volume_options or VolumeOptionsBody()
    subpath = posixpath.normpath(options.subpath) if options.subpath else ""
    if subpath.startswith(("/", "../")) or subpath == ".." or "\0" in subpath:
        raise InvalidArgument(f"{_NO_VOLUME}subpath must be a relative path within the volume",
                              field=f"{field}.VolumeOptions.Subpath", value=options.subpath[:128])
    if not body.source and (subpath or body.read_only):
        raise InvalidArgument(f"{_NO_VOLUME}must not set {'Subpath' if subpath else 'ReadOnly mode'} when using "
                              "anonymous volumes", field=f"{field}.Source")
    driver = options.driver_config
    if driver.name not in ("", "local"):
        raise UnsupportedOption(f"{field}.VolumeOptions.DriverConfig.Name={driver.name[:64]}",
                                "only the local driver is built in")
    return Mount(kind=MountKind.VOLUME, source=volume_name(body.source) if body.source else "",
                 target=target, read_only=body.read_only, anonymous=not body.source, structured=True,
                 subpath=subpath, labels=options.labels, driver_options=driver.options,
                 options=("nocopy",) if options.no_copy else ())


def _tmpfs(host: HostConfigBody) -> Iterable[Mount]:
    for path, text in host.tmpfs.items():
        yield _tmpfs_mount(_target(path, "HostConfig.Tmpfs"), text.split(",") if text else [], "HostConfig.Tmpfs")


def _tmpfs_mount(target: str, options: Iterable[str], field: str, *, size: int = 0, mode: int = 0,
                 read_only: bool = False, structured: bool = False) -> Mount:
    words, files, uid, gid = tuple(options), 0, 0, 0
    for option in words:
        name, _, value = option.partition("=")
        if name in ("size", "nr_inodes") and (found := _SIZE.match(value)):
            number = int(found[1]) * _UNITS[found[2].lower()]
            size, files = (number, files) if name == "size" else (size, number)
        elif name == "mode" and _OCTAL.match(value):
            mode = int(value, 8)
        elif name in ("uid", "gid") and _ID.match(value) and int(value) <= _ID_MAX:
            uid, gid = (int(value), gid) if name == "uid" else (uid, int(value))
        elif option not in _TMPFS_FLAGS:
            raise InvalidArgument(f"{field}: invalid tmpfs option {option[:64]!r}", field=field, value=option[:64],
                                  hint="size=64m, nr_inodes=10k, mode=1777, uid=1000, gid=1000, ro, noexec, nosuid, "
                                       "nodev...")
    return Mount(kind=MountKind.TMPFS, target=target, size=size, files=files, mode=mode, owner=(uid, gid),
                 structured=structured, read_only=read_only or "ro" in words, options=words)
