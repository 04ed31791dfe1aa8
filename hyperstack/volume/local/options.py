"""The local driver's options, as Docker's has them: `type`, `o` and `device` of mount(8), and `size` of a disk.

Of all that mount(8) can do, what needs nothing of the host's kernel is honoured: a tmpfs, which the guest mounts, and a
directory of the host, which is served as binds are.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping

from hyperstack.pod.errors import InvalidArgument, UnsupportedOption
from hyperstack.volume.api import DiskForm, Form, HostForm, MemoryForm
from hyperstack.volume.local.sizes import parse_size

_NEEDED = {"device": ("type",), "type": ("device",), "o": ("device", "type"), "size": ()}
"""Every option, and those that it needs beside it."""
_BIND_TYPES = frozenset({"none", "bind"})
_FLAGS = frozenset({"ro", "noexec", "nosuid", "nodev", "noatime"})
_NO_FLAG = frozenset({"", "defaults", "rw", "exec", "suid", "dev", "atime", "diratime", "nodiratime", "relatime",
                      "async"})
"""What holds anyway, or makes no difference in a guest."""
_SHARED = frozenset({"shared", "rshared", "slave", "rslave", "unbindable", "runbindable"})
_PRIVATE = frozenset({"private", "rprivate"})
_OCTAL = re.compile(r"[0-7]{1,5}\Z")
_COUNT = re.compile(r"(\d{1,12})([kmg]?)\Z", re.IGNORECASE | re.ASCII)
_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}
_ID_MAX = 2**32 - 2
_PATH_MAX = 4095
_WHY = "the host mounts nothing for a tenant"
_ON_THE_HOST = "mount it on the host, and bind it: -o type=none -o o=bind -o device=/path"


def parse_options(options: Mapping[str, str]) -> Form:
    """:raise InvalidArgument: one is unknown, missing or malformed. :raise UnsupportedOption: names what cannot be."""
    for option in options:
        if option not in _NEEDED:
            raise InvalidArgument(f'invalid option: "{option[:64]}"', field="DriverOpts", value=option[:64],
                                  hint="the local driver knows type, o, device and size")
    for option in options:
        for needed in _NEEDED[option]:
            if needed not in options:
                raise InvalidArgument(f'missing required option: "{needed}"', field="DriverOpts", value=needed,
                                      hint=f"{option} goes with {' and '.join(_NEEDED[option])}")
    kind = options.get("type")
    if kind is None:
        return DiskForm(size=parse_size(options["size"]) if "size" in options else 0)
    if "size" in options:
        raise UnsupportedOption("volume option size with type", "it is the limit of a volume that is a disk",
                                hint="of a tmpfs, use -o o=size=100m")
    words = options.get("o", "").split(",")
    if kind == "tmpfs":
        return _memory(words)
    if kind in _BIND_TYPES:
        return _host(kind, options["device"], words)
    raise UnsupportedOption(f"volume option type={kind[:32]}", _WHY, hint=_ON_THE_HOST)


def _memory(words: list[str]) -> MemoryForm:
    size = files = uid = gid = 0
    mode, flags = 0o1777, dict[str, None]()
    for word in words:
        name, equals, value = word.partition("=")
        match name:
            case "size" if equals and not value.endswith("%"):
                size = parse_size(value)
            case "nr_inodes" if (found := _COUNT.match(value)) and int(found[1]):
                files = int(found[1]) * _UNITS[found[2].lower()]
            case "mode" if _OCTAL.match(value) and 0 < int(value, 8) <= 0o7777:
                mode = int(value, 8)
            case "uid" if _is_id(value):
                uid = int(value)
            case "gid" if _is_id(value):
                gid = int(value)
            case _ if word in _FLAGS:
                flags[word] = None
            case _ if word not in _NO_FLAG:
                raise _refused(word, "a tmpfs takes size=100m, nr_inodes=10k, mode=1770, uid=1000, gid=1000, ro, "
                                     "noexec, nosuid, nodev, noatime")
    return MemoryForm(size=size, files=files, mode=mode, uid=uid, gid=gid, flags=tuple(flags))


def _host(kind: str, device: str, words: list[str]) -> HostForm:
    if not {"bind", "rbind"} & {*words}:
        raise UnsupportedOption(f"volume option type={kind} without o=bind", _WHY, hint=_ON_THE_HOST)
    if not device.startswith("/") or "\0" in device or len(device) > _PATH_MAX:
        raise InvalidArgument(f'invalid option: "device={device[:128]}": it must be an absolute path of the host',
                              field="device", value=device[:128], hint="-o device=/srv/data")
    flags = dict[str, None]()
    for word in words:
        if word in _SHARED:
            raise UnsupportedOption(f"volume option o={word}",
                                    "what is mounted later on one side cannot appear on the other, a VM's",
                                    hint="rprivate, the default")
        if word in _FLAGS:
            flags[word] = None
        elif word not in _NO_FLAG | _PRIVATE | {"bind", "rbind"}:
            raise _refused(word, "a bind takes bind, rbind, ro, noexec, nosuid, nodev, noatime, rprivate")
    return HostForm(path=posixpath.normpath(device), recursive="rbind" in words, flags=tuple(flags))


def _refused(word: str, hint: str) -> UnsupportedOption:
    return UnsupportedOption(f"volume option o={word[:64]}", "there is no such mount option here, or it is malformed",
                             hint=hint)


def _is_id(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= 10 and int(text) <= _ID_MAX
