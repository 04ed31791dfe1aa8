"""What an image's layers say, seen from inside a VM: every kind of file, and what later layers do to earlier ones."""

from __future__ import annotations

import io
import tarfile

from tests.harness import REGISTRY, Daemon, Namespace
from tests.images import Pusher, base_layer, file_layer


def entry(tar: tarfile.TarFile, name: str, content: bytes = b"", **fields: object) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(content), 0o644
    for field, value in fields.items():
        setattr(info, field, value)
    tar.addfile(info, io.BytesIO(content))


def lower_layer() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        entry(tar, "data", type=tarfile.DIRTYPE, mode=0o750, uid=1000, gid=50)
        entry(tar, "data/suid", b"#!/bin/sh\n", mode=0o6755)
        entry(tar, "data/owned", b"mine", uid=1234, gid=70000, mtime=1_000_000_000)
        entry(tar, "data/link", type=tarfile.LNKTYPE, linkname="data/owned")
        entry(tar, "data/symlink", type=tarfile.SYMTYPE, linkname="../etc/passwd")
        entry(tar, "data/null", type=tarfile.CHRTYPE, mode=0o666, devmajor=1, devminor=3)
        entry(tar, "data/pipe", type=tarfile.FIFOTYPE, mode=0o600)
        entry(tar, "data/" + "long" * 50, b"long name")
        entry(tar, "data/caps", b"x", pax_headers={
            "SCHILY.xattr.security.capability": "\x01\x00\x00\x02\x00\x04\x00\x00" + "\x00" * 12})
        for name in ("gone", "kept", "hidden/a", "hidden/b"):
            entry(tar, f"old/{name}", b"old")
    return buffer.getvalue()


def upper_layer() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        entry(tar, "old/.wh.gone")
        entry(tar, "old/hidden/.wh..wh..opq")
        entry(tar, "old/hidden/c", b"new")
    return buffer.getvalue()


def test_every_kind_of_file_survives(daemon: Daemon, namespace: Namespace) -> None:
    Pusher(namespace).push("kinds", "1", [base_layer(), lower_layer(), upper_layer()], {"Cmd": ["sh"]})
    script = r"""
        cd /data
        stat -c '%n %a %u %g' . suid; stat -c '%n %h %u %g %Y' owned link; readlink symlink
        stat -c '%n %F %t %T' null pipe; cat long*; echo; echo discarded > null && echo null works
        ls /old; ls /old/hidden; cat /old/hidden/c
    """
    output = daemon.text("run", "--rm", f"{REGISTRY}/kinds:1", "/bin/sh", "-c", script)
    assert output.splitlines() == [
        ". 750 1000 50", "suid 6755 0 0", "owned 2 1234 70000 1000000000", "link 2 1234 70000 1000000000",
        "../etc/passwd", "null character special file 1 3", "pipe fifo 0 0", "long name", "null works",
        "hidden", "kept", "c", "new"]


def test_a_sparse_file_stays_sparse_and_a_hundred_layers_lie_in_order(daemon: Daemon, namespace: Namespace) -> None:
    sparse = b"begin" + bytes(64 << 20) + b"end"
    layers = [base_layer(), file_layer({"sparse": sparse})]
    layers += [file_layer({f"d/{number}": b"", "top": str(number).encode()}) for number in range(98)]
    Pusher(namespace).push("many", "1", layers, {"Cmd": ["sh"]})
    script = "cat /top; echo; ls /d | wc -l; head -c 5 /sparse; echo; tail -c 3 /sparse; echo; stat -c %s /sparse"
    output = daemon.text("run", "--rm", f"{REGISTRY}/many:1", "/bin/sh", "-c", script)
    assert output.splitlines() == ["97", "98", "begin", "end", str(len(sparse))]
    size = int(daemon.text("image", "inspect", "--format", "{{.Size}}", f"{REGISTRY}/many:1"))
    assert size < 16 << 20, "the hole of a sparse file takes space on the host"
