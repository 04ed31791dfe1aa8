"""Test images, made here from Debian's busybox-static and pushed over the registry's HTTP API.

Written against the OCI specifications alone, so that a mistake in the product's image code cannot hide in both ends.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import http.client
import io
import json
import subprocess
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.harness import REGISTRY, Daemon, Namespace

BUSYBOX = f"{REGISTRY}/busybox:latest"
SECOND = f"{REGISTRY}/second:1"
"""Busybox's layer and one more; for tests that pull beside other work."""
USERS = f"{REGISTRY}/users:1"
"""An image with an entry point, a user, a working directory, environment and a volume of its own."""

_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_CONFIG = "application/vnd.oci.image.config.v1+json"
_LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
_BINARY = Path("/bin/busybox")
_ENTRY = b'#!/bin/sh\necho "entry $*"\nid -un\npwd\necho "$FLAVOUR"\n'


def base_layer() -> bytes:
    """An uncompressed tar with busybox, its applets and the usual directories."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for path, mode in (("bin", 0o755), ("dev", 0o755), ("etc", 0o755), ("proc", 0o755), ("root", 0o700),
                           ("sys", 0o755), ("tmp", 0o1777), ("usr", 0o755), ("usr/bin", 0o755), ("var", 0o755)):
            entry = tarfile.TarInfo(path)
            entry.type, entry.mode = tarfile.DIRTYPE, mode
            tar.addfile(entry)
        _add(tar, "bin/busybox", _BINARY.read_bytes(), 0o755)
        applets = subprocess.run([_BINARY, "--list"], check=True, capture_output=True, text=True).stdout.split()
        for applet in applets:
            if applet == "busybox":
                continue
            entry = tarfile.TarInfo(f"bin/{applet}")
            entry.type, entry.linkname, entry.mode = tarfile.SYMTYPE, "busybox", 0o777
            tar.addfile(entry)
        _add(tar, "etc/passwd", b"root:x:0:0:root:/root:/bin/sh\nalice:x:1000:1000::/home/alice:/bin/sh\n", 0o644)
        _add(tar, "etc/group", b"root:x:0:\nalice:x:1000:\nstaff:x:50:alice\n", 0o644)
    return buffer.getvalue()


def file_layer(files: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for path, content in files.items():
            _add(tar, path, content, 0o755)
    return buffer.getvalue()


def _add(tar: tarfile.TarFile, path: str, content: bytes, mode: int) -> None:
    entry = tarfile.TarInfo(path)
    entry.size, entry.mode = len(content), mode
    tar.addfile(entry, io.BytesIO(content))


class Pusher:
    """A client of the registry in a namespace."""

    def __init__(self, namespace: Namespace) -> None:
        self._namespace = namespace

    def push(self, repository: str, tag: str, layers: Sequence[bytes], config: Mapping[str, Any]) -> str:
        """Upload an image of uncompressed layer tars; its manifest's digest."""
        descriptors = [self._blob(repository, _LAYER, gzip.compress(layer, mtime=0)) for layer in layers]
        document = {"architecture": "amd64", "os": "linux", "config": dict(config),
                    "rootfs": {"type": "layers", "diff_ids": [_digest(layer) for layer in layers]}}
        manifest = json.dumps({
            "schemaVersion": 2, "mediaType": _MANIFEST, "layers": descriptors,
            "config": self._blob(repository, _CONFIG, json.dumps(document).encode())}).encode()
        self.request("PUT", f"/v2/{repository}/manifests/{tag}", manifest, _MANIFEST)
        return _digest(manifest)

    def _blob(self, repository: str, media_type: str, content: bytes) -> dict[str, Any]:
        digest = _digest(content)
        location = self.request("POST", f"/v2/{repository}/blobs/uploads/")["location"]
        path = location.removeprefix(f"http://{REGISTRY}")
        self.request("PUT", f"{path}{'&' if '?' in path else '?'}digest={digest}", content, "application/octet-stream")
        return {"mediaType": media_type, "digest": digest, "size": len(content)}

    def request(self, method: str, path: str, body: bytes = b"", content_type: str = "") -> dict[str, str]:
        """The answer's headers, in lower case. :raise RuntimeError: the registry refuses."""
        host, port = REGISTRY.split(":")
        connection = http.client.HTTPConnection(host, int(port))
        connection.sock = self._namespace.connect(host, int(port))
        try:
            connection.request(method, path, body, {"Content-Type": content_type} if content_type else {})
            answer = connection.getresponse()
            text = answer.read()
            if answer.status >= 300:
                raise RuntimeError(f"{method} {path}: {answer.status} {text[:300]!r}")
            return {name.lower(): value for name, value in answer.getheaders()}
        finally:
            connection.close()


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def fill_registry(namespace: Namespace) -> None:
    """Push all test images."""
    pusher, base = Pusher(namespace), base_layer()
    environment = ["PATH=/bin:/usr/bin"]
    pusher.push("busybox", "latest", [base], {"Cmd": ["sh"], "Env": environment})
    pusher.push("second", "1", [base, file_layer({"etc/second": b"yes\n"})], {"Cmd": ["sh"], "Env": environment})
    pusher.push("users", "1", [base, file_layer({"usr/bin/entry": _ENTRY})], {
        "Entrypoint": ["/usr/bin/entry"], "Cmd": ["default"], "User": "alice", "WorkingDir": "/tmp",
        "Env": [*environment, "FLAVOUR=plain"], "Labels": {"kind": "test"}, "StopSignal": "SIGUSR1",
        "ExposedPorts": {"8080/tcp": {}}})


@contextlib.contextmanager
def daemon_with_busybox(namespace: Namespace, *options: str) -> Iterator[Daemon]:
    """A running daemon that has pulled the image, ended on leaving."""
    daemon = Daemon(namespace, *options)
    try:
        daemon.start()
        daemon.ctl("pull", BUSYBOX)
        yield daemon
    finally:
        daemon.close()
