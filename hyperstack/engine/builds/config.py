"""What instructions change of an image's run configuration, in the words of an image's config document."""

from __future__ import annotations

import copy
import json
import posixpath
import re
from collections.abc import Mapping
from typing import Any

from hyperstack.dockerfile.instructions import (
    Cmd,
    CommandLine,
    Entrypoint,
    Env,
    Expose,
    Health,
    Instruction,
    Label,
    OnBuild,
    Shell,
    StopSignal,
    User,
    Volume,
    Workdir,
)
from hyperstack.guest.linux import signal_number
from hyperstack.pod.errors import InvalidArgument

DEFAULT_SHELL = ("/bin/sh", "-c")
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_PORT = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?\Z")
_MAX_PORTS = 65536

Config = dict[str, Any]


def inherited(raw: Mapping[str, Any]) -> Config:
    """The configuration of a base image, without what is wrong in it."""
    found = raw.get("config")
    config: Config = copy.deepcopy(found) if isinstance(found, dict) else {}
    triggers = config.get("OnBuild")
    if not isinstance(triggers, list) or not all(isinstance(trigger, str) for trigger in triggers):
        config.pop("OnBuild", None)
    for obsolete in ("Hostname", "Domainname", "Image", "AttachStdin", "AttachStdout", "AttachStderr", "Tty",
                     "OpenStdin", "StdinOnce"):
        config.pop(obsolete, None)
    if not config.get("Env"):
        config["Env"] = [f"PATH={DEFAULT_PATH}"]
    return config


def environment(config: Config) -> dict[str, str]:
    found = {}
    for item in config.get("Env") or ():
        name, _, value = str(item).partition("=")
        found[name] = value
    return found


def shell_of(config: Config) -> tuple[str, ...]:
    return tuple(config.get("Shell") or DEFAULT_SHELL)


def working_dir(config: Config) -> str:
    return str(config.get("WorkingDir") or "/")


def full_command(instruction: CommandLine, config: Config) -> list[str]:
    """With the shell in front of a line that is for it."""
    return [*shell_of(config), *instruction.words] if instruction.for_shell and instruction.words else list(
        instruction.words)


def resolved(path: str, config: Config) -> str:
    """An absolute path, from the working directory where it is relative; a slash at the end stays."""
    whole = posixpath.join(working_dir(config), path)
    clean = posixpath.normpath("/" + whole.lstrip("/"))
    directory = path.endswith(("/", "/.", "/..")) or path in ("", ".", "..")
    return clean.rstrip("/") + "/" if directory else clean


def apply(instruction: Instruction, config: Config) -> Config:
    """The configuration with what the instruction says; its variables are replaced already.

    :raise InvalidArgument: a value is wrong.
    """
    config = copy.deepcopy(config)
    match instruction:
        case Env():
            config["Env"] = [f"{name}={value}" for name, value in
                             {**environment(config), **dict(instruction.pairs)}.items()]
        case Label():
            config["Labels"] = {**(config.get("Labels") or {}), **dict(instruction.pairs)}
        case Workdir():
            config["WorkingDir"] = resolved(instruction.value, config).rstrip("/") or "/"
        case User():
            config["User"] = instruction.value
        case StopSignal():
            signal_number(instruction.value)
            config["StopSignal"] = instruction.value
        case Expose():
            config["ExposedPorts"] = {**(config.get("ExposedPorts") or {}), **_ports(instruction.values)}
        case Volume():
            config["Volumes"] = {**(config.get("Volumes") or {}), **{_volume(v): {} for v in instruction.values}}
        case Cmd():
            config["Cmd"] = full_command(instruction, config)
        case Entrypoint():
            config["Entrypoint"] = full_command(instruction, config)
            # Docker's rule: a command that was not set in this stage is hardly meant for the new entry point.
            config.pop("Cmd", None)
        case Shell():
            config["Shell"] = list(instruction.words)
        case OnBuild():
            config["OnBuild"] = [*(config.get("OnBuild") or ()), instruction.value]
        case Health():
            config["Healthcheck"] = _health(instruction)
        case _:
            raise AssertionError(instruction)
    return config


def _volume(path: str) -> str:
    if not path.strip():
        raise InvalidArgument("VOLUME specified can not be an empty string", field="VOLUME", value=path)
    return path


def _health(instruction: Health) -> Config:
    said = {"Test": list(instruction.test), "Interval": instruction.interval, "Timeout": instruction.timeout,
            "StartPeriod": instruction.start_period, "StartInterval": instruction.start_interval,
            "Retries": instruction.retries}
    return {name: value for name, value in said.items() if value}


def _ports(values: tuple[str, ...]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for value in values:
        ports, _, protocol = value.partition("/")
        protocol = (protocol or "tcp").lower()
        # Where the host would publish it may be said, and means nothing in an image.
        inner = ports.rpartition(":")[2]
        match = _PORT.match(inner)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (0, -1)
        if match is None or not 0 < first <= last < _MAX_PORTS:
            raise InvalidArgument(f"Invalid containerPort: {inner[:60]}", field="EXPOSE", value=value[:60],
                                  hint="for instance 80, 53/udp or 7000-7010/tcp")
        if protocol not in ("tcp", "udp", "sctp"):
            raise InvalidArgument(f"Invalid proto: {protocol[:60]}", field="EXPOSE", value=value[:60],
                                  hint="tcp, udp or sctp")
        found |= {f"{port}/{protocol}": {} for port in range(first, last + 1)}
    return found


def described(instruction: Instruction, config: Config) -> str:
    """What the history says of a step that ran nothing."""
    word, rest = instruction.text.split(None, 1)[0].upper(), ""
    match instruction:
        case Env() | Label():
            rest = " ".join(f"{name}={value}" for name, value in instruction.pairs)
        case Workdir():
            rest = working_dir(config)
        case User() | StopSignal() | OnBuild():
            rest = instruction.value
        case Expose() | Volume():
            rest = json.dumps(list(instruction.values)) if isinstance(instruction, Volume) else " ".join(
                instruction.values)
        case CommandLine() | Shell():
            rest = json.dumps(config.get({"CMD": "Cmd", "ENTRYPOINT": "Entrypoint", "SHELL": "Shell"}[word]))
        case Health():
            rest = json.dumps(config["Healthcheck"])
        case _:
            rest = instruction.text.partition(" ")[2].strip()
    return f"/bin/sh -c #(nop)  {word} {rest}"
