"""Docker's log drivers: how much of a container's output is kept, and whether it can be read again."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from hyperstack.engine.records import ContainerRecord
from hyperstack.pod.errors import HyperStackError, InvalidArgument, Unsupported, UnsupportedOption
from hyperstack.pod.spec import LogConfig
from hyperstack.volume.local.sizes import parse_size

_MAX_FILES = 1000
_MIB = 1 << 20
_FIELD = re.compile(r"\{\{\s*\.(\w+)\s*\}\}", re.ASCII)
_TAG_FIELDS = frozenset({"ID", "FullID", "Name", "DaemonName", "ImageID", "ImageFullID", "ImageName"})
_ROTATION = frozenset({"max-size", "max-file", "compress"})

DRIVERS: Mapping[str, frozenset[str]] = {
    "json-file": _ROTATION | {"labels", "env", "tag"}, "local": _ROTATION, "none": frozenset()}
"""Name -> options."""


@dataclass(frozen=True, kw_only=True)
class Keeping:
    """What is kept of a log."""

    max_size: int
    """Bytes of one file; 0: no limit."""
    max_files: int
    compress: bool = False
    """Of full files."""
    readable: bool = True
    """Whether a client can ask for it. What cannot be read is of one run, for those who attach to it."""


_DEFAULTS = {"json-file": Keeping(max_size=0, max_files=1), "none": Keeping(max_size=_MIB, max_files=2, readable=False),
             "local": Keeping(max_size=20 * _MIB, max_files=5, compress=True)}
"""Docker's own, but for `none`, which there keeps nothing."""


def keeping(config: LogConfig) -> Keeping:
    """:raise InvalidArgument: a bad value. :raise UnsupportedOption: another driver, or another option."""
    if config.driver not in DRIVERS:
        raise UnsupportedOption(f"--log-driver {config.driver[:64]}", "logs are kept by the daemon itself",
                                hint=", ".join(DRIVERS))
    unknown = sorted(config.options.keys() - DRIVERS[config.driver])
    if unknown:
        raise UnsupportedOption(f"--log-opt {unknown[0][:64]}", f"the driver {config.driver} has no such option here",
                                hint=", ".join(sorted(DRIVERS[config.driver])) or "give none")
    default = _DEFAULTS[config.driver]
    size, files, compress = (config.options.get(name) for name in ("max-size", "max-file", "compress"))
    if files is not None and (not files.isdecimal() or len(files) > 4 or not 1 <= int(files) <= _MAX_FILES):
        raise InvalidArgument(f"invalid max-file: {files[:32]}", field="max-file", value=files[:32],
                              hint=f"a number from 1 to {_MAX_FILES}")
    _check_tag(config.options.get("tag", ""))
    if compress not in (None, "true", "false"):
        raise InvalidArgument(f"invalid compress: {compress[:32]}", field="compress", value=compress[:32],
                              hint="true or false")
    found = Keeping(max_size=default.max_size if size is None else 0 if size == "-1" else parse_size(size),
                    max_files=default.max_files if files is None else int(files), readable=default.readable,
                    compress=default.compress if compress is None else compress == "true")
    if compress == "true" and (not found.max_size or found.max_files < 2):
        raise InvalidArgument("compress cannot be true when max-file is less than 2 or max-size is not set",
                              field="compress", value=compress)
    return found


def details(container: ContainerRecord) -> dict[str, str]:
    """What `docker logs --details` puts before each line: labels and variables that the options name, and the tag."""
    options = container.spec.log.options
    labels = container.image_config.labels | container.spec.labels
    env = dict(entry.partition("=")[::2] for entry in (*container.image_config.env, *container.spec.env))
    found = {name: source[name] for option, source in (("labels", labels), ("env", env))
             for name in options.get(option, "").split(",") if name in source}
    if tag := options.get("tag"):
        words = {"ID": container.id[:12], "FullID": container.id, "Name": container.name, "DaemonName": "docker",
                 "ImageID": container.image_id.removeprefix("sha256:")[:12], "ImageFullID": container.image_id,
                 "ImageName": container.spec.image}
        found["tag"] = _FIELD.sub(lambda match: words[match[1]], tag)
    return found


def _check_tag(tag: str) -> None:
    """:raise UnsupportedOption: a template beyond a container's plain facts."""
    if any(name not in _TAG_FIELDS for name in _FIELD.findall(tag)) or "{{" in _FIELD.sub("", tag):
        raise UnsupportedOption(f"--log-opt tag={tag[:64]}", "the template has more than fields of the container",
                                hint="{{.Name}}, and likewise " + ", ".join(sorted(_TAG_FIELDS - {"Name"})))


class UnreadableLog(Unsupported):
    """In Docker's words."""

    def __init__(self, driver: str) -> None:
        HyperStackError.__init__(self, "configured logging driver does not support reading", field="LogConfig.Type",
                                 value=driver)


def check_readable(config: LogConfig) -> None:
    """:raise Unsupported: nothing of it is kept for readers."""
    if not keeping(config).readable:
        raise UnreadableLog(config.driver)
