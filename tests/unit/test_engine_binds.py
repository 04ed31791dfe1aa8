"""Which of the host's files who may have in a container."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from hyperstack.engine.storage.binds import BindService
from hyperstack.guest.file_server import FileServers
from hyperstack.identity.api import Principal
from hyperstack.pod.errors import Forbidden, InvalidArgument, UnsupportedOption
from hyperstack.pod.spec import Mount, MountKind

ROOT = Principal(user="root", project="default", admin=True, uid=0)
USER = Principal(user="daemon", project="default", admin=False, uid=1)
REMOTE = Principal(user="far", project="default", admin=False)


@pytest.fixture
def service(tmp_path: Path) -> BindService:
    (tmp_path / "allowed/below").mkdir(parents=True)
    (tmp_path / "allowed-not").mkdir()
    (tmp_path / "allowed/out").symlink_to(tmp_path)
    (tmp_path / "in").symlink_to(tmp_path / "allowed/below")
    return BindService(FileServers(tmp_path / "cache"), {"default": [tmp_path / "allowed"]})


def bind(path: Path | str, *, create: bool = False) -> Mount:
    return Mount(kind=MountKind.BIND, source=str(path), target="/x", create_source=create)


@pytest.mark.parametrize("path", ["/", "/etc", "/etc/passwd"])
async def test_root_may_bind_any_path(service: BindService, path: str) -> None:
    assert (await service.admit(ROOT, bind(path))).uid == 0


@pytest.mark.parametrize("below", ["allowed", "allowed/below", "allowed/../allowed/below", "in"])
async def test_a_user_may_bind_what_is_allowed_with_his_own_rights(service: BindService, tmp_path: Path, below: str
                                                                   ) -> None:
    assert (await service.admit(USER, bind(tmp_path / below))).uid == USER.uid


@pytest.mark.parametrize("below", ["", "allowed-not", "allowed/..", "allowed/out", "allowed/out/allowed-not"])
@pytest.mark.parametrize("create", [False, True])
async def test_and_nothing_else_by_whatever_way(service: BindService, tmp_path: Path, below: str, create: bool) -> None:
    with pytest.raises(Forbidden):
        await service.admit(USER, bind(tmp_path / below, create=create))


@pytest.mark.parametrize("below", ["nowhere", "allowed/out/nowhere"])
async def test_what_is_not_there_is_not_made_where_nothing_is_allowed(service: BindService, tmp_path: Path, below: str
                                                                      ) -> None:
    with pytest.raises(Forbidden):
        await service.admit(USER, bind(tmp_path / below, create=True))


async def test_who_is_no_user_of_the_host_has_no_rights_there(service: BindService, tmp_path: Path) -> None:
    with pytest.raises(Forbidden, match="no user of this host"):
        await service.admit(REMOTE, bind(tmp_path / "allowed"))


async def test_where_nothing_is_allowed_the_setting_is_named(tmp_path: Path) -> None:
    with pytest.raises(Forbidden) as caught:
        await BindService(FileServers(tmp_path), {"other": [tmp_path]}).admit(USER, bind(tmp_path))
    assert "binds.allow" in str(caught.value.hint)


async def test_a_missing_path_is_an_error_unless_it_may_be_made(service: BindService, tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="bind source path does not exist: "):
        await service.admit(ROOT, bind(tmp_path / "nowhere"))
    await service.admit(ROOT, bind(tmp_path / "nowhere", create=True))
    assert not (tmp_path / "nowhere").exists()  # it is the start that makes it


@pytest.mark.parametrize("path", ["relative", "", "/a\0b", "/" + "a" * 5000])
async def test_what_is_no_path_is_an_error(service: BindService, path: str) -> None:
    with pytest.raises(InvalidArgument):
        await service.admit(ROOT, bind(path))


async def test_devices_sockets_and_pipes_are_refused(service: BindService, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        for path, word in ((Path("/dev/null"), "device"), (tmp_path / "pipe", "pipe"), (tmp_path / "socket", "socket")):
            with pytest.raises(UnsupportedOption, match=word):
                await service.admit(ROOT, bind(path))


def of_volume(path: Path) -> Mount:
    return Mount(kind=MountKind.VOLUME, source="data", target="/x", device=str(path))


async def test_a_volume_that_is_a_host_path_is_under_the_same_rule(service: BindService, tmp_path: Path) -> None:
    """When it is made, where it need not be there yet, and when a container has it."""
    for below in ("allowed/below", "allowed/later"):
        await service.permit(USER, str(tmp_path / below))
    assert (await service.admit(USER, of_volume(tmp_path / "allowed/below"))).uid == USER.uid
    for below in ("allowed-not", "allowed/out/nowhere", "nowhere"):
        for attempt in (service.permit(USER, str(tmp_path / below)), service.admit(USER, of_volume(tmp_path / below))):
            with pytest.raises(Forbidden):
                await attempt
    with pytest.raises(Forbidden):
        await service.permit(REMOTE, str(tmp_path / "allowed"))


async def test_such_a_volume_is_a_directory_that_is_there(service: BindService, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for below, said in (("file", "not a directory"), ("absent", "no such file or directory")):
        with pytest.raises(InvalidArgument, match=f"failed to mount local volume: mount {tmp_path}/{below}.*{said}"):
            await service.admit(ROOT, of_volume(tmp_path / below))
