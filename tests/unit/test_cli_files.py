"""cp, save, load, import and pod create: files that go in and out, and archives of guests that lie."""

from __future__ import annotations

import io
import os
import stat
import tarfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hyperstack.cli.errors import CliError
from hyperstack.cli.pack import pack
from hyperstack.cli.unpack import unpack
from tests.unit.cli_daemon import Container, Daemon
from tests.unit.cli_process import here


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    (tmp_path / "daemon").mkdir()
    served = Daemon(tmp_path / "daemon")
    yield served
    served.close()


@pytest.fixture
def web(daemon: Daemon) -> Container:
    """A container with /etc/conf, /etc/link -> conf, /etc/deep/file."""
    container = daemon.add("web", ["true"])
    etc = container.process.root / "etc"
    (etc / "deep").mkdir(parents=True)
    (etc / "conf").write_text("conf")
    (etc / "link").symlink_to("conf")
    (etc / "deep" / "file").write_text("deep")
    return container


def tree(root: Path) -> dict[str, str]:
    """Relative path -> content, or -> target of a link."""
    return {str(path.relative_to(root)): f"-> {os.readlink(path)}" if path.is_symlink() else path.read_text()
            for path in sorted(root.rglob("*")) if path.is_symlink() or path.is_file()}


@pytest.mark.parametrize(("source", "target", "expected"), [
    ("/etc/conf", "new", {"new": "conf"}), ("/etc/conf", "dir", {"dir/conf": "conf"}),
    ("/etc/conf", "dir/", {"dir/conf": "conf"}), ("/etc/conf", "file", {"file": "conf"}),
    ("/etc/deep", "new", {"new/file": "deep"}), ("/etc/deep", "dir", {"dir/deep/file": "deep"}),
    ("/etc/deep/.", "dir", {"dir/file": "deep"}), ("/etc/link", "new", {"new": "-> conf"}),
    ("etc/deep", "dir", {"dir/deep/file": "deep"}),
])
def test_cp_from_a_container(daemon: Daemon, web: Container, tmp_path: Path, source: str, target: str,
                             expected: dict[str, str]) -> None:
    local = tmp_path / "here"
    (local / "dir").mkdir(parents=True)
    (local / "file").write_text("old")
    ending = "/" if target.endswith("/") else ""
    done = here(daemon, "cp", f"web:{source}", f"{local / target}{ending}")
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith(b"Successfully copied ")
    assert tree(local) == {"file": "old", **expected}


def test_cp_follows_a_link_where_asked(daemon: Daemon, web: Container, tmp_path: Path) -> None:
    here(daemon, "cp", "-qL", "web:/etc/link", str(tmp_path / "out"))
    assert (tmp_path / "out").read_text() == "conf"


@pytest.mark.parametrize(("source", "target", "expected"), [
    ("file", "/new", {"new": "mine"}), ("file", "/etc", {"etc/file": "mine"}),
    ("file", "/etc/conf", {"etc/conf": "mine"}),
    ("dir", "/new", {"new/a": "A"}), ("dir", "/etc", {"etc/dir/a": "A"}), ("dir/.", "/etc", {"etc/a": "A"}),
    ("file", "/etc/link", {"etc/conf": "mine"}),
])
def test_cp_to_a_container(daemon: Daemon, web: Container, tmp_path: Path, source: str, target: str,
                           expected: dict[str, str]) -> None:
    (tmp_path / "dir").mkdir()
    (tmp_path / "dir" / "a").write_text("A")
    (tmp_path / "file").write_text("mine")
    before = tree(web.process.root)
    done = here(daemon, "cp", f"{tmp_path}/{source}", f"web:{target}")
    assert done.returncode == 0, done.stderr
    assert tree(web.process.root) == {**before, **expected}


def test_cp_streams_archives(daemon: Daemon, web: Container) -> None:
    out = here(daemon, "cp", "web:/etc/deep", "-")
    with tarfile.open(fileobj=io.BytesIO(out.stdout)) as tar:
        assert tar.getnames() == ["deep", "deep/file"]
    assert here(daemon, "cp", "-", "web:/", stdin=out.stdout).returncode == 0
    assert (web.process.root / "deep" / "file").read_text() == "deep"
    assert b"must be a directory" in here(daemon, "cp", "-", "web:/etc/conf", stdin=out.stdout).stderr


@pytest.mark.parametrize(("words", "message"), [
    (("web:/none", "."), b"Could not find the file"), (("none:/etc", "."), b"No such container: none"),
    (("web:/etc/conf", "/none/x"), b"no such directory: /none"), (("/none", "web:/"), b"no such file"),
    (("web:/etc", "/etc/passwd"), b"cannot copy a directory onto the file"), (("web:/a", "web:/b"), b"between"),
    (("/etc/passwd", "web:/none/"), b"no such directory in the container")])
def test_cp_says_what_is_wrong(daemon: Daemon, web: Container, words: tuple[str, str], message: bytes) -> None:
    done = here(daemon, "cp", *words)
    assert (done.returncode, message in done.stderr) == (1, True), done.stderr


def archive(*entries: tuple[str, bytes, str]) -> bytes:
    """A tar of (name, type, content or target of a link)."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, kind, text in entries:
            info = tarfile.TarInfo(name)
            info.type, info.mode = kind, 0o4755
            if kind == tarfile.REGTYPE:
                info.size = len(text)
                tar.addfile(info, io.BytesIO(text.encode()))
            else:
                info.linkname = text
                tar.addfile(info)
    return buffer.getvalue()


@pytest.mark.parametrize("entries", [
    [("top/../../evil", tarfile.REGTYPE, "x")],
    [("top", tarfile.REGTYPE, "x"), ("/evil", tarfile.REGTYPE, "x")],
    [("top", tarfile.DIRTYPE, ""), ("top/out", tarfile.SYMTYPE, ".."), ("top/out/evil", tarfile.REGTYPE, "x")],
    [("top", tarfile.DIRTYPE, ""), ("top/out", tarfile.SYMTYPE, "/etc"), ("top/x", tarfile.LNKTYPE, "top/out/passwd")],
    [("top", tarfile.DIRTYPE, ""), ("top/x", tarfile.LNKTYPE, "top/../../secret")],
    [("top", tarfile.SYMTYPE, ".."), ("top/evil", tarfile.REGTYPE, "x")],
])
def test_an_archive_cannot_leave_its_directory(tmp_path: Path, entries: list[tuple[str, bytes, str]]) -> None:
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "into").mkdir()
    with pytest.raises(CliError):
        unpack([archive(*entries)], str(tmp_path / "into"), "copy")
    assert sorted(os.listdir(tmp_path)) == ["into", "secret"]
    assert (tmp_path / "secret").stat().st_nlink == 1


def test_neither_setuid_nor_devices_come_over(tmp_path: Path) -> None:
    unpack([archive(("d", tarfile.DIRTYPE, ""), ("d/su", tarfile.REGTYPE, "x"), ("d/pipe", tarfile.FIFOTYPE, ""),
                    ("d/dev", tarfile.CHRTYPE, ""))], str(tmp_path), "d")
    assert os.listdir(tmp_path / "d") == ["su"]
    assert stat.S_IMODE((tmp_path / "d" / "su").stat().st_mode) == 0o755


def test_links_within_an_archive_survive(tmp_path: Path) -> None:
    unpack([archive(("d", tarfile.DIRTYPE, ""), ("d/a", tarfile.REGTYPE, "x"), ("d/b", tarfile.LNKTYPE, "d/a"),
                    ("d/c", tarfile.SYMTYPE, "/nowhere"))], str(tmp_path), "e")
    assert (tmp_path / "e" / "b").samefile(tmp_path / "e" / "a")
    assert os.readlink(tmp_path / "e" / "c") == "/nowhere"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(st.lists(st.tuples(st.text("ab./", min_size=1, max_size=8),
                          st.sampled_from([tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE]),
                          st.text("ab./", max_size=8)), max_size=6))
def test_no_archive_touches_anything_outside(tmp_path: Path, entries: list[tuple[str, bytes, str]]) -> None:
    into = tmp_path / "outer" / "into"
    into.mkdir(parents=True, exist_ok=True)
    with suppress(CliError):
        unpack([archive(*entries)], str(into), None)
    assert os.listdir(tmp_path) == ["outer"]
    assert os.listdir(tmp_path / "outer") == ["into"]


@given(st.binary(max_size=2000))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
def test_any_bytes_are_an_archive_or_a_clear_error(tmp_path: Path, data: bytes) -> None:
    with suppress(CliError):
        unpack([data], str(tmp_path), "x")


def test_what_is_packed_is_unpacked_the_same(tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "sub" / ("long" * 40)).mkdir(parents=True)
    (source / "sub" / "file").write_bytes(os.urandom(700_000))
    (source / "hard").hardlink_to(source / "sub" / "file")
    (source / "link").symlink_to("sub/file")
    os.utime(source / "sub" / "file", (1_000_000, 1_000_000.5))
    unpack(pack(str(source), "any"), str(tmp_path), "copy")
    assert (tmp_path / "copy" / "sub" / "file").read_bytes() == (source / "sub" / "file").read_bytes()
    assert (tmp_path / "copy" / "hard").samefile(tmp_path / "copy" / "sub" / "file")
    assert os.readlink(tmp_path / "copy" / "link") == "sub/file"
    assert (tmp_path / "copy" / "sub" / ("long" * 40)).is_dir()
    assert (tmp_path / "copy" / "sub" / "file").stat().st_mtime == 1_000_000.5


def test_save_writes_the_whole_file_or_none(daemon: Daemon, tmp_path: Path) -> None:
    daemon.answers["GET", "/images/busybox/get"] = b"archive" * 1000
    target = tmp_path / "image.tar"
    assert here(daemon, "save", "-o", str(target), "busybox").returncode == 0
    assert target.read_bytes() == b"archive" * 1000
    assert here(daemon, "save", "busybox").stdout == b"archive" * 1000
    assert here(daemon, "save", "-o", str(tmp_path / "other.tar"), "none").returncode == 1
    assert [path.name for path in tmp_path.iterdir() if path.suffix != ".tar"] == ["daemon"]


def test_load_streams_a_file_or_stdin(daemon: Daemon, tmp_path: Path) -> None:
    daemon.answers["POST", "/images/load"] = {"stream": "Loaded image: busybox:latest\n"}
    (tmp_path / "image.tar").write_bytes(b"x" * 300_000)
    done = here(daemon, "load", "-i", str(tmp_path / "image.tar"))
    assert done.stdout == b"Loaded image: busybox:latest\n"
    assert len(daemon.asked("POST", "/images/load").body) == 300_000
    here(daemon, "load", "-q", stdin=b"y" * 10)
    assert daemon.asked("POST", "/images/load").body == b"y" * 10


def test_import_sends_a_file_with_its_name(daemon: Daemon) -> None:
    done = here(daemon, "import", "-c", "CMD sh", "-m", "note", "-", "host:5000/mine:2", stdin=b"tar")
    assert done.returncode == 0, done.stderr
    asked = daemon.asked("POST", "/images/create")
    assert asked.body == b"tar"
    assert asked.query == {"fromSrc": "-", "repo": "host:5000/mine", "tag": "2", "message": "note", "changes": "CMD sh"}


POD = {"id": "ab" * 32, "name": "two", "namespace": "", "state": "ready", "phase": "Running",
       "created_at": "2024-05-01T12:00:00Z",
       "ip_address": "10.0.0.2", "kernel": "debian", "memory_mib": 128, "labels": {"a": "b"},
       "containers": [{"id": "c1", "name": "one", "state": "running"}, {"id": "c2", "name": "two", "state": "exited"}]}


def test_pods(daemon: Daemon, tmp_path: Path) -> None:
    native = "/hyperstack/v1/pods"
    daemon.answers = {("POST", native): {"id": POD["id"], "pods": [POD]}, ("GET", native): [POD],
                      ("GET", f"{native}/two"): POD, ("DELETE", f"{native}/two"): {},
                      ("POST", f"{native}/two/stop"): {}, ("GET", "/containers/c2/logs"): b"log\n"}
    (tmp_path / "pod.yaml").write_text("kind: Pod")
    assert here(daemon, "pod", "create", "-f", str(tmp_path / "pod.yaml")).stdout.decode() == f"{POD['id']}\n"
    asked = daemon.asked("POST", native)
    assert (asked.body, asked.headers["Content-Type"]) == (b"kind: Pod", "application/yaml")
    lines = here(daemon, "pod", "ls").stdout.decode().splitlines()
    assert lines[1].split()[:4] == ["abababababab", "two", "Running", "1/2"]
    assert here(daemon, "pod", "inspect", "-f", "{{.ip_address}}", "two").stdout == b"10.0.0.2\n"
    assert here(daemon, "pod", "stop", "-t", "3", "two").stdout == b"two\n"
    assert daemon.asked("POST", f"{native}/two/stop").query == {"t": "3"}
    assert here(daemon, "pod", "rm", "-f", "two").stdout == b"two\n"
    assert daemon.asked("DELETE", f"{native}/two").query == {"force": "1"}
    assert here(daemon, "pod", "logs", "-c", "two", "two").stdout == b"log\n"
    daemon.answers["GET", f"{native}/two"] = {**POD, "containers": [{"id": "c2", "name": "two_one"}]}
    assert here(daemon, "pod", "logs", "-c", "one", "two").stdout == b"log\n"
    assert here(daemon, "pod", "logs", "two").stdout == b"log\n"
    daemon.answers["GET", f"{native}/two"] = POD
    several = here(daemon, "pod", "logs", "two")
    assert (several.returncode, b"choose one with -c" in several.stderr) == (1, True)


def test_a_pipe_is_copied_as_what_it_is(daemon: Daemon, web: Container, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert here(daemon, "cp", str(tmp_path / "pipe"), "web:/etc").returncode == 0
    assert stat.S_ISFIFO((web.process.root / "etc" / "pipe").stat().st_mode)
