"""Archives so large that they pass the agent's stream: what goes in comes out, whoever dies meanwhile."""

from __future__ import annotations

import hashlib
import io
import os
import random
import subprocess
import tarfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.e2e.docker import SLEEP, text
from tests.harness import Daemon, wait_until
from tests.images import BUSYBOX

_MIB = 1 << 20


def machine_of(daemon: Daemon, name: str) -> int:
    """The pid of the container's VMM."""
    pod = text(daemon, "inspect", "--format", "{{.HyperStack.Pod}}", name)
    [pid] = [pid for pid, owner in daemon.vms().items() if owner == pod]
    return pid


def trays(pid: int) -> list[os.stat_result]:
    """That a VMM has open, each once."""
    found = {}
    for file in Path(f"/proc/{pid}/fd").iterdir():
        if os.readlink(file).startswith("/memfd:bulk"):
            status = file.stat()
            found[status.st_ino] = status
    return list(found.values())


def check_left(pid: int) -> None:
    """One tray, empty. A client may have all of its archive a moment before that is so."""
    wait_until(lambda: [tray.st_blocks for tray in trays(pid)] == [0], "the tray's memory is given back")


def make_tree(directory: Path, seed: int) -> dict[str, bytes]:
    """Digests of files of all sizes that matter, by their names."""
    rng = random.Random(seed)
    sizes = {"empty": 0, "small": 5000, "even": _MIB, "odd": _MIB + 1, "large": 7 * _MIB + 4097,
             "block": 2 * _MIB + 4096}
    directory.mkdir()
    (directory / "sub").mkdir()
    for name, size in sizes.items():
        (directory / "sub" / name).write_bytes(rng.randbytes(size))
    with (directory / "hollow").open("wb") as file:
        file.truncate(3 * _MIB + 100)
        file.seek(_MIB + 17)
        file.write(b"within")
    return digests(directory)


def digests(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).digest()
            for path in directory.rglob("*") if path.is_file()}


@pytest.mark.parametrize("place", ["/tmp", "/volume", "/dev/shm", "/bind"])
def test_files_come_out_as_they_went_in(daemon: Daemon, tmp_path: Path, seed: int, place: str) -> None:
    wanted = make_tree(tmp_path / "tree", seed)
    (tmp_path / "bound").mkdir()
    daemon.docker_cli("run", "-d", "--name", "box", "--shm-size", "64m", "-v", "large:/volume",
                      "-v", f"{tmp_path}/bound:/bind", BUSYBOX, *SLEEP)
    daemon.docker_cli("cp", str(tmp_path / "tree"), f"box:{place}")
    if place != "/dev/shm":
        daemon.docker_cli("cp", f"box:{place}/tree", str(tmp_path / "back"))
        assert digests(tmp_path / "back") == wanted
    listed = text(daemon, "exec", "box", "sh", "-c", f"cd {place}/tree && find . -type f | xargs sha256sum")
    words = [line.split() for line in listed.splitlines()]
    assert {name.removeprefix("./"): bytes.fromhex(digest) for digest, name in words} == wanted
    check_left(machine_of(daemon, "box"))


def test_exports_and_images_have_large_files_whole(daemon: Daemon, tmp_path: Path, seed: int) -> None:
    wanted = make_tree(tmp_path / "tree", seed)
    daemon.docker_cli("create", "--name", "box", BUSYBOX, *SLEEP)
    daemon.docker_cli("cp", str(tmp_path / "tree"), "box:/srv")
    with tarfile.open(fileobj=io.BytesIO(daemon.docker_cli("export", "box").stdout)) as tar:
        tar.extractall(tmp_path / "export", members=[member for member in tar if member.name.startswith("srv/")])
    assert digests(tmp_path / "export/srv") == wanted or digests(tmp_path / "export/srv/tree") == wanted
    daemon.docker_cli("commit", "box", "large:1")
    listed = text(daemon, "run", "--rm", "large:1", "sh", "-c", "cd /srv && find . -type f | xargs sha256sum")
    assert {bytes.fromhex(line.split()[0]) for line in listed.splitlines()} == set(wanted.values())
    daemon.docker_cli("rmi", "large:1")


def test_a_small_archive_needs_no_tray(daemon: Daemon, tmp_path: Path) -> None:
    (tmp_path / "small").write_bytes(bytes(500_000))
    daemon.docker_cli("run", "-d", "--name", "box", BUSYBOX, *SLEEP)
    daemon.docker_cli("cp", str(tmp_path / "small"), "box:/small")
    assert text(daemon, "exec", "box", "wc", "-c", "/small").split()[0] == "500000"
    assert trays(machine_of(daemon, "box")) == []


def test_several_at_once_are_all_whole(daemon: Daemon, tmp_path: Path, seed: int) -> None:
    files = [tmp_path / f"file{number}" for number in range(4)]
    for number, file in enumerate(files):
        file.write_bytes(random.Random(seed + number).randbytes(6 * _MIB + number))
    daemon.docker_cli("run", "-d", "--name", "box", BUSYBOX, *SLEEP)

    def there_and_back(file: Path) -> bool:
        daemon.docker_cli("cp", str(file), f"box:/{file.name}")
        daemon.docker_cli("cp", f"box:/{file.name}", f"{file}.back")
        return Path(f"{file}.back").read_bytes() == file.read_bytes()

    with ThreadPoolExecutor(len(files)) as pool:
        assert all(pool.map(there_and_back, files))
    assert len(trays(machine_of(daemon, "box"))) == 1


def test_an_archive_that_ends_in_its_middle_harms_no_other(daemon: Daemon, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(os.urandom(5 * _MIB))
    daemon.docker_cli("run", "-d", "--name", "box", BUSYBOX, *SLEEP)
    packed = subprocess.run(["tar", "-C", str(tmp_path), "-c", "file"], check=True, capture_output=True).stdout
    for broken in (packed[:3 * _MIB], packed[:512 + 5 * _MIB] + b"x" * 4096, packed[:2 * _MIB] + bytes(64)):
        done = daemon.docker_cli("cp", "-", "box:/tmp", stdin=broken, check=False)
        assert done.returncode == 1, done.stderr
    daemon.docker_cli("exec", "box", "dd", "if=/dev/zero", "of=/big", "bs=1M", "count=40")
    client = subprocess.Popen(["docker", "cp", "box:/big", "-"], env=daemon.environment, stdout=subprocess.PIPE)
    assert client.stdout is not None
    client.stdout.read(3 * _MIB)
    client.kill()
    client.communicate()
    daemon.docker_cli("cp", "-", "box:/tmp", stdin=packed)
    daemon.docker_cli("cp", "box:/tmp/file", str(tmp_path / "back"))
    assert (tmp_path / "back").read_bytes() == (tmp_path / "file").read_bytes()


def test_a_daemon_that_is_killed_leaves_a_tray_to_none(make_daemon: Callable[..., Daemon], tmp_path: Path) -> None:
    daemon = make_daemon()
    daemon.start()
    daemon.ctl("pull", BUSYBOX)
    (tmp_path / "file").write_bytes(os.urandom(5 * _MIB))
    packed = subprocess.run(["tar", "-C", str(tmp_path), "-c", "file"], check=True, capture_output=True).stdout
    daemon.docker_cli("run", "-d", "--name", "box", BUSYBOX, *SLEEP)
    pid = machine_of(daemon, "box")
    for _ in range(2):
        client = subprocess.Popen(["docker", "cp", "-", "box:/tmp"], env=daemon.environment, stdin=subprocess.PIPE,
                                  stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        assert client.stdin is not None
        client.stdin.write(packed[:4 * _MIB])  # and no end
        client.stdin.flush()
        wait_until(lambda: any(tray.st_blocks for tray in trays(pid)), "the tray is in use")
        time.sleep(0.1)
        daemon.kill()
        client.kill()
        client.communicate()
        daemon.start()
        daemon.docker_cli("cp", "-", "box:/tmp", stdin=packed)
        daemon.docker_cli("cp", "box:/tmp/file", str(tmp_path / "back"))
        assert (tmp_path / "back").read_bytes() == (tmp_path / "file").read_bytes()
        check_left(pid)
