"""`docker cp` with running and stopped containers, and with what is made to harm either side."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import pytest

from tests.harness import Daemon
from tests.images import BUSYBOX

SLEEP = ("sleep", "100000")


@pytest.fixture(params=["running", "stopped"])
def box(daemon: Daemon, request: pytest.FixtureRequest) -> Daemon:
    """The shared daemon with a container `box` in that state, which has a few files."""
    script = ("mkdir -p /from/sub; echo content >/from/file; chown 1000:50 /from/file; chmod 640 /from/file; "
              "ln -s file /from/link; ln -s /etc/passwd /from/absolute; mkdir /evil; "
              "ln -s ../../../../../../etc /evil/up; touch /made; exec sleep 100000")
    daemon.docker_cli("run", "-d", "--name", "box", "-u", "0:50", BUSYBOX, "sh", "-c", script)
    daemon.docker_cli("exec", "box", "sh", "-c", "until [ -e /made ]; do sleep 0.1; done")
    if request.param == "stopped":
        daemon.docker_cli("stop", "-t", "0", "box")
    return daemon


def put(daemon: Daemon, target: str, tar: bytes, *options: str) -> tuple[int, str]:
    done = daemon.docker_cli("cp", *options, "-", f"box:{target}", stdin=tar, check=False)
    return done.returncode, done.stderr.decode()


def make_tar(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for member, data in members:
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", *, uid: int = 0) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.uid, info.mode = kind, link, uid, 0o755
    return info


def content(daemon: Daemon, path: str) -> bytes:
    """Of a file in the container, by `cp` to standard output."""
    with tarfile.open(fileobj=io.BytesIO(daemon.docker_cli("cp", f"box:{path}", "-").stdout)) as tar:
        file = tar.extractfile(tar.getmembers()[0])
        assert file is not None
        return file.read()


def test_files_come_out_as_docker_has_it(box: Daemon, tmp_path: Path) -> None:
    box.docker_cli("cp", "box:/from/file", str(tmp_path / "plain"))
    assert (tmp_path / "plain").read_text() == "content\n"
    assert (tmp_path / "plain").stat().st_mode & 0o777 == 0o640
    with tarfile.open(fileobj=io.BytesIO(box.docker_cli("cp", "box:/from", "-").stdout)) as tar:
        assert (tar.getmember("from/file").uid, tar.getmember("from/file").gid) == (1000, 50)
    box.docker_cli("cp", "box:/from/link", str(tmp_path / "link"))
    assert os.readlink(tmp_path / "link") == "file"
    box.docker_cli("cp", "-L", "box:/from/link", str(tmp_path / "followed"))
    assert (tmp_path / "followed").read_text() == "content\n"
    # A directory's contents, or the directory.
    (tmp_path / "inner").mkdir()
    box.docker_cli("cp", "box:/from/.", str(tmp_path / "inner"))
    assert sorted(path.name for path in (tmp_path / "inner").iterdir()) == ["absolute", "file", "link", "sub"]
    box.docker_cli("cp", "box:/from", str(tmp_path / "inner"))
    assert (tmp_path / "inner/from/file").read_text() == "content\n"


def test_links_of_the_container_lead_nowhere_on_the_host(box: Daemon, tmp_path: Path) -> None:
    box.docker_cli("cp", "-L", "box:/from/absolute", str(tmp_path / "passwd"))
    assert b"alice" in (tmp_path / "passwd").read_bytes()  # the container's own
    done = box.docker_cli("cp", "box:/evil/.", str(tmp_path), check=False)
    assert b"invalid symlink" in done.stderr  # the client's own care
    assert b"alice" in content(box, "/evil/up/passwd")
    assert put(box, "/evil/up", make_tar((member("planted"), b"here"))) == (0, "")
    assert content(box, "/etc/planted") == b"here"
    assert not Path("/etc/planted").exists()


def test_files_go_in_as_docker_has_it(box: Daemon, tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "sub").mkdir(parents=True)
    (source / "sub/file").write_bytes(b"sent\0\xff")
    (source / "link").symlink_to("sub/file")
    box.docker_cli("cp", str(source), "box:/tmp")
    assert content(box, "/tmp/source/sub/file") == b"sent\0\xff"
    box.docker_cli("cp", "-L", str(source / "link"), "box:/tmp/followed")
    assert content(box, "/tmp/followed") == b"sent\0\xff"
    box.docker_cli("cp", f"{source}/.", "box:/from/sub")
    assert content(box, "/from/sub/sub/file") == b"sent\0\xff"
    mine = make_tar((member("owned", uid=1234), b"x"))
    for options, owner in (((), (1234, 0)), (("-a",), (0, 50))):  # with -a it is the container's user's
        assert put(box, "/from/sub", mine, *options) == (0, "")
        with tarfile.open(fileobj=io.BytesIO(box.docker_cli("cp", "box:/from/sub/owned", "-").stdout)) as tar:
            assert (tar.getmember("owned").uid, tar.getmember("owned").gid) == owner
    done = box.docker_cli("cp", str(source), "box:/from/file", check=False)
    assert done.returncode == 1, "a directory over a file"
    done = box.docker_cli("cp", str(source / "link"), "box:/nowhere/else/", check=False)
    assert done.returncode == 1
    assert b"o such" in done.stderr or b"not exist" in done.stderr


@pytest.mark.parametrize("evil", [
    (member("../../planted"), b"x"), (member("/../planted"), b"x"),
    (member("way", tarfile.SYMTYPE, "/from"), b""), (member("hard", tarfile.LNKTYPE, "../../etc/passwd"), b""),
], ids=["climbs", "climbs from the root", "a link", "a hard link"])
def test_a_tar_stays_within_the_container(box: Daemon, evil: tuple[tarfile.TarInfo, bytes]) -> None:
    """A link that it brings along leads where it would lead the container's own processes, and no further."""
    code, words = put(box, "/tmp", make_tar(evil, (member("way/planted"), b"through")))
    listed = box.docker_cli("diff", "box").stdout.decode().split()
    planted = {path for path in listed if path.endswith("planted")}
    assert planted <= {"/tmp/way/planted", "/tmp/planted", "/from/planted"}, (code, words)
    assert not any(Path(place, "planted").exists() for place in ("/", "/tmp", "/from", "/tmp/way"))


def test_a_tar_that_fills_the_disk_is_an_error_and_the_container_goes_on(daemon: Daemon) -> None:
    daemon.docker_cli("run", "-d", "--name", "box", "--storage-opt", "size=24m", BUSYBOX, *SLEEP)
    code, words = put(daemon, "/tmp", make_tar((member("huge"), bytes(64 << 20))))
    assert code == 1
    assert "No space left" in words
    assert daemon.docker_cli("exec", "box", "echo", "here").stdout == b"here\n"
    hollow = make_tar((member("hollow"), b""))[:512]
    claim = bytearray(hollow)
    claim[124:136] = b"77777777777\0"  # eight gigabytes that never come
    claim[148:156] = b"        "
    claim[148:156] = f"{sum(claim):06o}\0 ".encode()
    code, words = put(daemon, "/tmp", bytes(claim) + bytes(1024))
    assert code == 1, words
    assert daemon.docker_cli("exec", "box", "echo", "here").stdout == b"here\n"


def test_what_is_not_there_is_an_error(box: Daemon, tmp_path: Path) -> None:
    done = box.docker_cli("cp", "box:/nowhere", str(tmp_path), check=False)
    assert done.returncode == 1
    assert b"Could not find the file /nowhere in container box" in done.stderr
    assert box.docker_cli("cp", "nobody:/x", str(tmp_path), check=False).stderr.endswith(
        b"No such container: nobody\n")
