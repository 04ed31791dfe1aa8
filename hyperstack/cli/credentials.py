"""Credentials for registries, from where `docker login` and its like keep them.

`~/.docker/config.json` (or $DOCKER_CONFIG/config.json): `credHelpers` and `credsStore` name programs that know, `auths`
holds them in base64. Nothing is written or printed here.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

from hyperstack.cli import references
from hyperstack.cli.errors import CliError

HEADER = "X-Registry-Auth"

_HUB_KEY = "https://index.docker.io/v1/"
"""Under which Docker files the credentials of docker.io."""

_TOKEN_USER = "<token>"  # noqa: S105  # what helpers answer as the user name of an identity token
_HELPER_TIMEOUT_S = 30
_MAX_CONFIG = 1024 * 1024


def headers_for(reference: str) -> dict[str, str]:
    """The header that lets hyperd pull this image on the user's behalf; none where nothing is known.

    :raise CliError: the configuration file is broken, or the helper that it names fails.
    """
    registry = references.canonical(reference).partition("/")[0]
    found = _lookup(_configuration(), registry)
    if not found:
        return {}
    return {HEADER: base64.urlsafe_b64encode(json.dumps({**found, "serveraddress": registry}).encode()).decode()}


def _configuration() -> dict[str, Any]:
    path = Path(os.environ.get("DOCKER_CONFIG") or Path.home() / ".docker") / "config.json"
    try:
        with path.open("rb") as file:
            parsed = json.loads(file.read(_MAX_CONFIG))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise CliError(f"cannot read the registries' credentials in {path}: {error}") from error
    return parsed if isinstance(parsed, dict) else {}


def _lookup(configuration: dict[str, Any], registry: str) -> dict[str, str]:
    key = _HUB_KEY if registry == references.DEFAULT_REGISTRY else registry
    helper = (configuration.get("credHelpers") or {}).get(registry) or configuration.get("credsStore")
    if helper:
        return _from_helper(str(helper), key)
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
    if not re.fullmatch(r"[\w.-]+", helper):
        raise CliError(f'invalid credential helper "{helper}"')
    try:
        done = subprocess.run([f"docker-credential-{helper}", "get"], input=key.encode(), capture_output=True,
                              timeout=_HELPER_TIMEOUT_S, check=False)
        if done.returncode != 0:
            return {}  # it has none for this registry
        answer = json.loads(done.stdout)
        user, secret = str(answer["Username"]), str(answer["Secret"])
    except (OSError, subprocess.TimeoutExpired, ValueError, KeyError, TypeError) as error:
        raise CliError(f"the credential helper docker-credential-{helper} failed: {type(error).__name__}") from error
    return {"identitytoken": secret} if user == _TOKEN_USER else {"username": user, "password": secret}
