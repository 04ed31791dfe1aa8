"""Contexts of the docker command line: named daemons, kept where it keeps them.

A context is a directory named by the SHA-256 of its name below ~/.docker/contexts/meta, with a meta.json; TLS material
lies below ~/.docker/contexts/tls in a directory of the same name. Which one is in use is written in config.json.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hyperstack.cli import docker_config
from hyperstack.cli.errors import CliError
from hyperstack.cli.files import write_whole

DEFAULT = "default"
"""What docker calls the daemon that no context names; it is never stored."""
DOCKER_HOST = "unix:///var/run/docker.sock"
MATERIAL = ("ca.pem", "cert.pem", "key.pem")

_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.+-]+\Z")
_MAX_FILE = 1024 * 1024


@dataclass(frozen=True, kw_only=True)
class Context:
    name: str
    host: str
    description: str = ""
    skip_tls_verify: bool = False
    material: tuple[str, ...] = ()
    """The names of its TLS files."""

    @property
    def meta_directory(self) -> Path:
        return docker_config.directory() / "contexts" / "meta" / _directory_name(self.name)

    @property
    def tls_directory(self) -> Path:
        return docker_config.directory() / "contexts" / "tls" / _directory_name(self.name)

    def metadata(self) -> dict[str, str]:
        return {"Description": self.description} if self.description else {}

    def endpoints(self) -> dict[str, Any]:
        return {"docker": {"Host": self.host, "SkipTLSVerify": self.skip_tls_verify}}


def current() -> str:
    """The name of the context that docker uses now."""
    if os.environ.get("DOCKER_HOST"):
        return DEFAULT
    return os.environ.get("DOCKER_CONTEXT") or str(docker_config.read().get("currentContext") or DEFAULT)


def names() -> list[str]:
    """All of them, the default one first."""
    metas = sorted((docker_config.directory() / "contexts" / "meta").glob("*/meta.json"))
    return [DEFAULT, *sorted(str(_document(path).get("Name", "")) for path in metas)]


def load(name: str) -> Context:
    """:raise CliError: there is none of this name, or its file is broken."""
    if name == DEFAULT:
        return Context(name=DEFAULT, host=os.environ.get("DOCKER_HOST") or DOCKER_HOST,
                       description="Current DOCKER_HOST based configuration")
    bare = Context(name=name, host="")
    path = bare.meta_directory / "meta.json"
    if not path.exists():
        raise CliError(f'context "{name}" does not exist', hint="hyperctl context ls shows those that do.")
    found = _document(path)
    try:
        endpoint = found["Endpoints"]["docker"]
        return Context(name=str(found["Name"]), host=str(endpoint["Host"]),
                       description=str((found.get("Metadata") or {}).get("Description") or ""),
                       skip_tls_verify=bool(endpoint.get("SkipTLSVerify")),
                       material=tuple(sorted(file.name for file in (bare.tls_directory / "docker").glob("*"))))
    except (KeyError, TypeError, AttributeError) as error:
        raise CliError(f'the context "{name}" in {path} names no daemon of Docker\'s') from error


def store(context: Context, material: Mapping[str, bytes]) -> None:
    """:param material: contents of TLS files by their names. :raise CliError: the name is none, or is taken."""
    if context.name == DEFAULT:
        raise CliError(f'"{DEFAULT}" is a reserved context name')
    if not _NAME.match(context.name):
        raise CliError(f'context name "{context.name}" is invalid',
                       hint='Two or more letters, digits, "_", ".", "+" and "-".')
    if (context.meta_directory / "meta.json").exists():
        raise CliError(f'context "{context.name}" already exists', hint="hyperctl context rm removes it.")
    # The keys before the file that makes the context one.
    for file, content in material.items():
        write_whole(context.tls_directory / "docker" / file, content, directory_mode=0o700)
    document = {"Name": context.name, "Metadata": context.metadata(), "Endpoints": context.endpoints()}
    write_whole(context.meta_directory / "meta.json", json.dumps(document).encode(), mode=0o644)


def remove(name: str) -> None:
    """:raise CliError: there is none, or it cannot be removed."""
    if name == DEFAULT:
        raise CliError(f'context "{DEFAULT}" cannot be removed')
    found = load(name)
    try:
        shutil.rmtree(found.meta_directory)
        if found.tls_directory.exists():
            shutil.rmtree(found.tls_directory)
    except OSError as error:
        raise CliError(f'cannot remove the context "{name}": {error}') from error
    if docker_config.read().get("currentContext") == name:
        use(DEFAULT)


def use(name: str) -> None:
    """Make it docker's. :raise CliError: there is none of this name."""
    load(name)
    kept = {key: value for key, value in docker_config.read().items() if key != "currentContext"}
    docker_config.write(kept if name == DEFAULT else {**kept, "currentContext": name})


def _directory_name(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


def _document(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            found = json.loads(file.read(_MAX_FILE))
    except (OSError, ValueError) as error:
        raise CliError(f"cannot read {path}: {error}") from error
    return found if isinstance(found, dict) else {}
