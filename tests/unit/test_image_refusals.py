"""What a registry's refusal is told as: seen beside Docker 28.5.2, which was asked of the same answers."""

from __future__ import annotations

import json
import socket
import ssl

import pytest

from hyperstack.http.errors import status_of
from hyperstack.image.names import parse
from hyperstack.image.refusals import Refusal, refusal, unreached

NAME = parse("127.0.0.1:5003/x:latest")
_DENIED = "denied: requested access to the resource is denied"


def said(code: str, message: str) -> bytes:
    return json.dumps({"errors": [{"code": code, "message": message, "detail": {"x": 1}}]}).encode()


@pytest.mark.parametrize(("status", "kind", "body", "pull", "asked"), [
    (401, "application/json", said("UNAUTHORIZED", "authentication required"),
     (401, "unauthorized: authentication required"), (401, "unauthorized: authentication required")),
    (403, "application/json", said("DENIED", "requested access to the resource is denied"),
     (404, "pull access denied for 127.0.0.1:5003/x, repository does not exist or may require 'docker login': "
           f"{_DENIED}"), (403, _DENIED)),
    (404, "application/json", said("MANIFEST_UNKNOWN", "manifest unknown"),
     (404, "manifest for 127.0.0.1:5003/x:latest not found: manifest unknown: manifest unknown"),
     (404, "manifest unknown: manifest unknown")),
    (404, "application/json", said("NAME_UNKNOWN", "repository name not known to registry"),
     (404, "repository 127.0.0.1:5003/x not found: name unknown: repository name not known to registry"),
     (404, "name unknown: repository name not known to registry")),
    (404, "text/html; charset=utf-8", b"<html>no</html>", (503, "unknown: <html>no</html>"),
     (503, "unknown: <html>no</html>")),
    (404, "application/json", b"{}",
     (503, 'error parsing HTTP 404 response body: no error details found in HTTP response body: "{}"'), (503, "")),
    (404, "application/json", b"<html>",
     (503, "error parsing HTTP 404 response body: invalid character '<' looking for beginning of value: \"<html>\""),
     (503, "")),
    (429, "text/plain", b"slow down", (429, "toomanyrequests: slow down"), (429, "toomanyrequests: slow down")),
    (400, "application/json", said("NAME_INVALID", "bad name"), (400, "name invalid: bad name"), (400, "")),
    (418, "application/json", said("TEAPOT", "short and stout"), (503, "unknown: short and stout"), (503, ""))])
def test_answers_of_4xx(status: int, kind: str, body: bytes, pull: tuple[int, str], asked: tuple[int, str]) -> None:
    error = refusal(status, {"Content-Type": kind}, body, host=NAME.host)
    assert isinstance(error, Refusal)
    assert (status_of(error.of_pull(NAME)), error.of_pull(NAME).message) == pull
    plain = error.of(NAME)
    assert (status_of(plain), plain.message) == (asked[0], asked[1] or pull[1])


def test_what_a_challenge_says_goes_before_the_body() -> None:
    error = refusal(401, {"Content-Type": "application/json", "WWW-Authenticate":
                          'Bearer realm="https://r/token",service="s",error="insufficient_scope"'},
                    said("UNAUTHORIZED", "authentication required"), host=NAME.host)
    assert isinstance(error, Refusal)
    assert error.of(NAME).message == f"errors:\n{_DENIED}\nunauthorized: authentication required\n"
    assert error.of_pull(NAME).message.endswith(f"may require 'docker login': {_DENIED}")


def test_an_answer_of_5xx_has_its_status() -> None:
    error = refusal(502, {}, b"<html>", host=NAME.host)
    assert (status_of(error), error.message) == (503, "received unexpected HTTP status: 502 Bad Gateway")


def test_connections_that_do_not_come_about() -> None:
    refused = ConnectionRefusedError(111, "Connect call failed ('127.0.0.1', 5999)")
    assert unreached("http://127.0.0.1:5999", refused)[0] == \
        'Get "http://127.0.0.1:5999/v2/": dial tcp 127.0.0.1:5999: connect: connection refused'
    assert unreached("https://nowhere", socket.gaierror(socket.EAI_NONAME, "x"))[0] == \
        'Get "https://nowhere/v2/": dial tcp: lookup nowhere: no such host'
    plain = ssl.SSLError(1, "[SSL: WRONG_VERSION_NUMBER] wrong version number")
    plain.reason = "WRONG_VERSION_NUMBER"
    assert unreached("https://r:5000", plain)[0] == \
        'Get "https://r:5000/v2/": http: server gave HTTP response to HTTPS client'
    assert unreached("https://r:5000", TimeoutError())[0].startswith('Get "https://r:5000/v2/": net/http: request ')
