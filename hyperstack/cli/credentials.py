"""Credentials for registries, from where `docker login` and its like keep them.

`~/.docker/config.json` (or $DOCKER_CONFIG/config.json): `credHelpers` and `credsStore` name programs that know, `auths`
holds them in base64. `login` and `logout` write there too, so that Docker's clients and ours know the same ones.
Nothing is printed here.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
import subprocess
from typing import Any

from hyperstack.cli import docker_config, references
from hyperstack.cli.errors import CliError

HEADER = "X-Registry-Auth"
ALL_HEADER = "X-Registry-Config"

_HUB_KEY = "https://index.docker.io/v1/"
"""Under which Docker files the credentials of docker.io."""

_TOKEN_USER = "<token>"  # noqa: S105  # what helpers answer as the user name of an identity token
_HELPER_TIMEOUT_S = 30


def headers_for(reference: str) -> dict[str, str]:
    """The header that lets hyperd pull this image on the user's behalf; none where nothing is known.

    :raise CliError: the configuration file is broken, or the helper that it names fails.
    """
    registry = references.canonical(reference).partition("/")[0]
    found = _lookup(docker_config.read(), registry)
    if not found:
        return {}
    return {HEADER: base64.urlsafe_b64encode(json.dumps({**found, "serveraddress": registry}).encode()).decode()}


def header_for_all() -> dict[str, str]:
    """The header that lets hyperd pull whatever a build is made from; none where nothing is known.

    :raise CliError: as `headers_for`.
    """
    configuration = docker_config.read()
    registries = [*(configuration.get("auths") or {}), *(configuration.get("credHelpers") or {})]
    found = {name: known for name in registries if (known := _lookup(
        configuration, references.DEFAULT_REGISTRY if name == _HUB_KEY else _host(name)))}
    if not found:
        return {}
    return {ALL_HEADER: base64.urlsafe_b64encode(json.dumps(found).encode()).decode()}


def remember(registry: str, user: str, password: str) -> None:
    """Keep what the registry has taken: with the helper where one is configured, else in the file.

    :raise CliError: the file is broken or cannot be written, or the helper fails.
    """
    configuration = docker_config.read()
    if helper := _helper_for(configuration, registry):
        _ask_helper(helper, "store", json.dumps({"ServerURL": _key(registry), "Username": user, "Secret": password}))
        return
    secret = base64.b64encode(f"{user}:{password}".encode()).decode()
    auths = {**(configuration.get("auths") or {}), _key(registry): {"auth": secret}}
    docker_config.write({**configuration, "auths": auths})


def forget(registry: str) -> bool:
    """Whether there was something to forget. :raise CliError: as `remember`."""
    configuration = docker_config.read()
    known = bool(_lookup(configuration, registry))
    if helper := _helper_for(configuration, registry):
        if known:
            _ask_helper(helper, "erase", _key(registry))
        return known
    kept = {name: entry for name, entry in (configuration.get("auths") or {}).items()
            if name not in (_key(registry), registry) and _host(name) != registry}
    if known:
        docker_config.write({**configuration, "auths": kept})
    return known


def _key(registry: str) -> str:
    """Under which a registry's credentials are filed."""
    return _HUB_KEY if registry == references.DEFAULT_REGISTRY else registry


def _helper_for(configuration: dict[str, Any], registry: str) -> str:
    return str((configuration.get("credHelpers") or {}).get(registry) or configuration.get("credsStore") or "")


def _lookup(configuration: dict[str, Any], registry: str) -> dict[str, str]:
    key = _key(registry)
    if helper := _helper_for(configuration, registry):
        return _from_helper(helper, key)
    for name, entry in (configuration.get("auths") or {}).items():
        if name in (key, registry) or _host(name) == registry:
            return _from_entry(entry or {}, name)
    return {}


def _host(name: str) -> str:
    """Older files have addresses where newer ones have hosts."""
    return re.sub(r"\Ahttps?://", "", name).partition("/")[0]


def _from_entry(entry: dict[str, str], name: str) -> dict[str, str]:
    if token := entry.get("identitytoken"):
        return {"identitytoken": token}
    try:
        user, colon, password = base64.b64decode(entry.get("auth") or "", validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError) as error:
        raise CliError(f"the credentials of {name} are not base64: log in to it again") from error
    return {"username": user, "password": password} if colon else {}


def _from_helper(helper: str, key: str) -> dict[str, str]:
    answer = _ask_helper(helper, "get", key, required=False)
    if answer is None:
        return {}  # it has none for this registry
    try:
        found = json.loads(answer)
        user, secret = str(found["Username"]), str(found["Secret"])
    except (ValueError, KeyError, TypeError) as error:
        raise CliError(f"the credential helper docker-credential-{helper} failed: {type(error).__name__}") from error
    return {"identitytoken": secret} if user == _TOKEN_USER else {"username": user, "password": secret}


def _ask_helper(helper: str, verb: str, words: str, *, required: bool = True) -> bytes | None:
    """Its answer; None where it says no and need not say yes."""
    if not re.fullmatch(r"[\w.-]+", helper):
        raise CliError(f'invalid credential helper "{helper}"')
    try:
        done = subprocess.run([f"docker-credential-{helper}", verb], input=words.encode(), capture_output=True,
                              timeout=_HELPER_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CliError(f"the credential helper docker-credential-{helper} failed: {type(error).__name__}") from error
    if done.returncode == 0:
        return done.stdout
    if required:
        raise CliError(f"the credential helper docker-credential-{helper} refuses to {verb}: it ended with "
                       f"{done.returncode}")
    return None
