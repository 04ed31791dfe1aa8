"""The Dockerfile instructions that `--change` knows, at an import and a commit, applied to an image's run
configuration."""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping
from typing import Any

from hyperstack.dockerfile.errors import DockerfileError
from hyperstack.dockerfile.instructions import Cmd, Entrypoint, expanded
from hyperstack.dockerfile.parsing import parse
from hyperstack.dockerfile.source import Source, Statement, read_source
from hyperstack.engine.builds.config import Config, apply, environment
from hyperstack.pod.errors import InvalidArgument

_KNOWN = ("CMD", "ENTRYPOINT", "ENV", "EXPOSE", "HEALTHCHECK", "LABEL", "ONBUILD", "STOPSIGNAL", "USER", "VOLUME",
          "WORKDIR")


def apply_changes(changes: Collection[str], base: Mapping[str, Any] | None = None) -> Config:
    """The `config` part of an image config document: `base`, which is left as it is, with the changes made.

    :raise InvalidArgument: an instruction is unknown or malformed.
    """
    config: Config = copy.deepcopy(dict(base or {}))
    if not changes:
        return config
    try:
        source = read_source("\n".join(changes).encode("utf-8", "replace"))
        if not source.statements:
            raise DockerfileError("file with no instructions")
        return _applied(source, config)
    except DockerfileError as error:
        # There is no Dockerfile whose line could be named.
        raise InvalidArgument(error.reason, field="changes", hint=error.remedy) from error


def _applied(source: Source, config: Config) -> Config:
    for statement in source.statements:
        _check(statement)
    command_set = False
    for statement in source.statements:
        instruction = expanded(parse(statement, source.escape), environment(config), source.escape)
        command = config.get("Cmd")
        config = apply(instruction, config)
        command_set |= isinstance(instruction, Cmd)
        if isinstance(instruction, Entrypoint) and command_set and command:
            config["Cmd"] = command
    return config


def _check(statement: Statement) -> None:
    if statement.word not in _KNOWN:
        raise InvalidArgument(f"{statement.word[:40]} is not a valid change command", field="changes",
                              value=statement.text[:100], hint=f"use {', '.join(_KNOWN)}")
