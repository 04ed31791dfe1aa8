"""A container's own changes, as the agent tells them: as names, as a layer, and its whole root."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from hyperstack.guest.channel import GuestCallError
from hyperstack.guest.messages import File, LayerForm, Mount, Volume
from tests.vm.agent_vm import Collector, Guest, busybox_root, lasting, make_blank, make_layer

pytestmark = pytest.mark.asyncio(loop_scope="module")

FILES = (File(path=b"/etc/hosts", data=b"hosts", mode=0o644), File(path=b"/etc/group", data=b"group", mode=0o644))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def guest(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Guest]:
    directory = tmp_path_factory.mktemp("layers")
    root = busybox_root(directory / "base")
    for name in ("opt/deep/one", "opt/deep/two", "srv/kept"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    upper = directory / "upper"
    (upper / "data").mkdir(parents=True)
    (upper / "data/seed").write_text("from the upper layer")
    (upper / "srv").mkdir()
    os.mknod(upper / "srv/kept", 0o020000 | 0o600, os.makedev(0, 0))
    disks = [("layer0", make_layer(root, directory / "base.erofs"), True),
             ("layer1", make_layer(upper, directory / "upper.erofs"), True),
             ("disk-writable", make_blank(directory / "w.img"), False),
             ("disk-volume", make_blank(directory / "v.img"), False)]
    async with lasting(directory, disks) as booted:
        await booted.channel.volume(Volume(name="v", serial="disk-volume"))
        yield booted


@pytest_asyncio.fixture(loop_scope="module")
async def container(guest: Guest) -> AsyncIterator[str]:
    name = f"c{guest.handle()}"
    await guest.create(name, files=FILES, layers=("layer0", "layer1"), mounts=(
        Mount(kind="volume", source="v", target=b"/vol"), Mount(kind="tmpfs", target=b"/scratch")))
    handle, _ = await guest.begin(name, "sleep", "100000")
    yield name
    await guest.channel.remove(name)
    await guest.channel.release(handle)


async def read(guest: Guest, container: str, form: LayerForm) -> bytes:
    handle, sink = guest.handle(), Collector()
    await guest.channel.layer_read(container, handle, form)
    await guest.channel.attach(handle, sink, stdout=0, stderr=0)
    event = await guest.finish(handle, sink)
    assert (event.code, sink.err) == (0, "")
    return bytes(sink.data[1])


async def changes(guest: Guest, container: str) -> set[str]:
    data = await read(guest, container, LayerForm.CHANGES)
    assert data.endswith(b"\0") or not data
    return {f"{item[:1].decode()} {item[1:].decode()}" for item in data.split(b"\0") if item}


async def layer(guest: Guest, container: str) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(await read(guest, container, LayerForm.TAR))) as archive:
        return {info.name: info for info in archive}


MOUNTS = {"A /vol", "A /scratch"}
"""What was mounted by wish shows as in Docker; what the agent mounts by itself does not."""


async def test_an_untouched_container_has_no_changes(guest: Guest, container: str) -> None:
    assert await changes(guest, container) == MOUNTS
    assert set(await layer(guest, container)) - {"vol", "scratch"} <= {".", "etc"}


async def test_changes_are_added_changed_and_deleted(guest: Guest, container: str) -> None:
    await guest.shell(container, """
        echo x > /new; mkdir -p /made/deep; echo x > /made/deep/file; echo more >> /data/seed; rm /data/sub -r
        chmod 700 /opt; rm -r /opt/deep; mkdir /opt/deep; echo 1 > /opt/deep/one; ln -s /x /tmp/link
        rm /etc/passwd; echo again > /srv/kept; echo v > /vol/x; echo s > /scratch/x; echo h >> /etc/hosts
        mkfifo /tmp/pipe; touch /var/empty/t; rm /var/empty/t""")
    assert await changes(guest, container) == MOUNTS | {
        "A /new", "A /made", "A /made/deep", "A /made/deep/file", "C /data", "C /data/seed", "D /data/sub", "C /opt",
        "C /opt/deep", "C /opt/deep/one", "D /opt/deep/two", "C /tmp", "A /tmp/link", "A /tmp/pipe", "C /etc",
        "D /etc/passwd", "C /srv", "A /srv/kept"}


async def test_a_layer_has_whiteouts_as_images_have_them(guest: Guest, container: str) -> None:
    await guest.shell(container, """
        rm /etc/passwd; rm -r /opt/deep; mkdir /opt/deep; echo 1 > /opt/deep/one; echo long > /tmp/file
        ln /tmp/file /tmp/same; chown 5:6 /tmp/file; chmod 4755 /tmp/file; rm /bin/ls; ln -s busybox /bin/xx""")
    found = await layer(guest, container)
    assert {"etc/.wh.passwd", "bin/.wh.ls", "opt/deep/.wh..wh..opq", "opt/deep/one", "bin/xx"} <= set(found)
    assert not [name for name in found if name.startswith(("dev", "proc", "sys", "vol/", "scratch/", "etc/hosts"))]
    assert found["etc/.wh.passwd"].isreg()
    one, other = sorted((found["tmp/file"], found["tmp/same"]), key=lambda info: info.islnk())
    assert (one.isreg(), one.uid, one.gid, one.mode, other.linkname) == (True, 5, 6, 0o4755, one.name)


async def test_a_root_is_told_whole_and_without_volumes(guest: Guest, container: str) -> None:
    await guest.shell(container, "rm /etc/passwd; echo x > /new; echo v > /vol/x")
    with tarfile.open(fileobj=io.BytesIO(await read(guest, container, LayerForm.ROOT))) as archive:
        found = {info.name: info for info in archive}
        content = archive.extractfile("data/seed")
        assert content is not None
        assert content.read() == b"from the upper layer"
    assert {"bin/busybox", "new", "opt/deep/one", "vol", "proc"} <= set(found)
    assert not {".", "etc/passwd", "vol/x", "srv/kept", "proc/self"} & set(found)


async def test_a_container_that_does_not_run_is_read_as_well(guest: Guest, tmp_path: Path) -> None:
    name = f"s{guest.handle()}"
    await guest.create(name, files=FILES)
    assert await changes(guest, name) == set()
    assert set(await layer(guest, name)) == {"."}
    await guest.channel.remove(name)


async def test_names_too_deep_and_forms_unknown_are_errors(guest: Guest, container: str) -> None:
    await guest.shell(container, "cd /tmp; i=0; while [ $i -lt 600 ]; do mkdir d; cd d; i=$((i+1)); done")
    for form in (LayerForm.CHANGES, LayerForm.TAR):
        handle, sink = guest.handle(), Collector()
        await guest.channel.layer_read(container, handle, form)
        await guest.channel.attach(handle, sink, stdout=0, stderr=0)
        assert (await guest.finish(handle, sink)).code == 1
        assert "nested too deep" in sink.err
    with pytest.raises(GuestCallError, match="there is no form"):
        await guest.channel.layer_read(container, guest.handle(), "else")  # type: ignore[arg-type]
