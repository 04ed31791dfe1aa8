"""Credentials that a client sends along: the X-Registry-Auth header."""

from __future__ import annotations

import base64
import binascii
import re

from hyperstack.docker_api.bodies import AuthBody
from hyperstack.engine.api import Credentials
from hyperstack.http import body
from hyperstack.http.call import Call
from hyperstack.pod.errors import InvalidArgument

_MAX_HEADER = 64 * 1024


def credentials_of(call: Call) -> Credentials | None:
    """None where the header is absent, empty or not what it should be: Docker's clients count on that."""
    text = call.request.headers.get("X-Registry-Auth", "")
    if not text or len(text) > _MAX_HEADER:
        return None
    try:
        # Clients send both alphabets, with and without padding.
        raw = base64.b64decode(text.translate(str.maketrans("-_", "+/")) + "=" * (-len(text) % 4), validate=True)
        return credentials(body.decode(raw, AuthBody))
    except (binascii.Error, ValueError, InvalidArgument):
        return None


def credentials(auth: AuthBody) -> Credentials | None:
    """None where nothing is in it: clients send an empty object for registries they have no login for."""
    if not (auth.username or auth.password or auth.identitytoken):
        return None
    return Credentials(username=auth.username, password=auth.password, identity_token=auth.identitytoken)


def registry_of(auth: AuthBody) -> str:
    """The host of the registry that a login is for. Docker Hub goes by the address that it once had."""
    host = re.sub(r"\Ahttps?://", "", auth.serveraddress).partition("/")[0]
    return "docker.io" if host in ("", "index.docker.io", "registry-1.docker.io") else host
