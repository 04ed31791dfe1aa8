"""The host's kernels as projects and their administrator see them, and archives of kernels, whoever sent them."""

from __future__ import annotations

import asyncio
import contextlib
import io
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from hyperstack.engine.kernels import upload as kernel_upload
from hyperstack.engine.kernels.building import Builder
from hyperstack.engine.kernels.service import KernelService
from hyperstack.engine.records import PodRecord
from hyperstack.engine.store import Store
from hyperstack.guest.kernel_check import Candidate
from hyperstack.hypervisor.api import TemplateSpec
from hyperstack.identity.api import Principal
from hyperstack.pod.errors import Conflict, Forbidden, InvalidArgument, NotFound, Unavailable
from hyperstack.pod.ids import new_id
from hyperstack.pod.spec import PodSpec
from hyperstack.pod.states import SandboxState
from tests.unit.kernel_service import archive, make_service, pieces
from tests.unit.test_guest_kernel_check import COMPLETE, XEN_PVH, elf, module

ROOT = Principal(user="root", project="default", admin=True)
ALICE = Principal(user="alice", project="alice", admin=False)
FIT = elf(XEN_PVH, config=COMPLETE)


@pytest.fixture
def service(tmp_path: Path) -> Iterator[KernelService]:
    made, store = make_service(tmp_path, "first", "second")
    yield made
    store.close()


def pod(store: Store, name: str, project: str, *, asks: str = "", runs: str = "",
        state: SandboxState = SandboxState.ABSENT) -> None:
    store.pods.put(PodRecord(id=new_id(), name=name, project=project, spec=PodSpec(name=name, kernel=asks), kernel=runs,
                             state=state, implicit=True, created_at=1))


# --- lists and defaults ---

def test_kernels_are_listed_with_the_default_marked(service: KernelService) -> None:
    first, second = service.list_all(ROOT)
    assert (first["name"], first["default"], first["origin"], first["min_memory_mib"]) == ("first", True, "added", 64)
    assert (second["name"], second["default"]) == ("second", False)


def test_inspect_tells_modules_configuration_and_features(service: KernelService) -> None:
    told = service.inspect(ROOT, "second")
    assert (told["command_line"], told["modules"], told["config"]) == ("quiet", ["a.ko"], {"EXT4_FS": "y"})
    assert (told["features"]["EXT4_FS"], told["features"]["EROFS_FS"]) == ("y", "n")
    with pytest.raises(NotFound):
        service.inspect(ROOT, "third")


def test_the_host_s_default_changes(service: KernelService) -> None:
    service.set_default(ROOT, "second")
    assert [kernel["default"] for kernel in service.list_all(ALICE)] == [False, True]


def test_a_project_s_default_is_its_own_affair_and_outlives_the_daemon(tmp_path: Path) -> None:
    service, store = make_service(tmp_path, "first", "second")
    service.set_project_default(ALICE, "alice", "second")
    assert (service.chosen("alice", ""), service.chosen("alice", "first"), service.chosen("bob", "")) == (
        "second", "first", "")
    assert [kernel["project_default"] for kernel in service.list_all(ALICE)] == [False, True]
    with pytest.raises(Forbidden):
        service.set_project_default(ALICE, "bob", "second")
    with pytest.raises(NotFound):
        service.set_project_default(ALICE, "alice", "third")
    store.close()
    again = KernelService(service._library, store, service._hypervisor, service._templates,
                          service._starts, service._config)
    assert again.chosen("alice", "") == "second"
    again.set_project_default(ROOT, "alice", "")
    assert again.chosen("alice", "") == ""


def test_a_kernel_that_is_not_there_cannot_be_chosen(service: KernelService) -> None:
    with pytest.raises(NotFound):
        service.chosen("alice", "third")


# --- templates ---

async def asked_for(wanted: list[TemplateSpec]) -> set[tuple[str, str]]:
    """Scope and kernel of the templates that were asked for since this was called last."""
    for _ in range(20):
        await asyncio.sleep(0)
    found = {(spec.scope, spec.kernel.name) for spec in wanted}
    wanted.clear()
    return found


async def test_a_new_default_s_template_is_prepared_before_a_pod_asks_for_it(tmp_path: Path) -> None:
    wanted: list[TemplateSpec] = []
    service, store = make_service(tmp_path, "first", "second", "third", wanted=wanted)
    service.prepare_templates()
    assert await asked_for(wanted) == {("project default", "first")}
    service.set_default(ROOT, "second")
    assert await asked_for(wanted) == {("project default", "second")}
    service.set_project_default(ALICE, "alice", "second")
    assert await asked_for(wanted) == {("project alice", "second")}
    service.set_project_default(ROOT, "default", "third")
    assert await asked_for(wanted) == {("project default", "third")}
    service.set_default(ROOT, "first")
    assert await asked_for(wanted) == set(), "that project's pods boot its own default"
    service.set_project_default(ROOT, "default", "")
    assert await asked_for(wanted) == set(), "what could not be made a moment ago is left alone"
    await service._templates.close()
    store.close()


async def test_a_default_that_is_gone_keeps_nobody_from_starting(tmp_path: Path) -> None:
    wanted: list[TemplateSpec] = []
    service, store = make_service(tmp_path, "first", "second", wanted=wanted)
    service.set_project_default(ROOT, "default", "second")
    service._library.remove("second")
    service.prepare_templates()
    assert await asked_for(wanted) == {("project default", "second")}, "of when it was chosen"
    await service._templates.close()
    store.close()


# --- removal ---

async def test_a_kernel_in_use_is_not_removed(tmp_path: Path) -> None:
    service, store = make_service(tmp_path, "first", "second", "third")
    with pytest.raises(Conflict, match="default"):
        await service.remove(ROOT, "first")
    pod(store, "created", "alice", asks="second")
    pod(store, "running", "bob", runs="third", state=SandboxState.READY)
    pod(store, "over", "bob", runs="second", state=SandboxState.FAILED)
    with pytest.raises(Conflict, match="created"):
        await service.remove(ROOT, "second")
    with pytest.raises(Conflict, match="running"):
        await service.remove(ROOT, "third")
    assert {kernel["name"]: kernel["pods"] for kernel in service.list_all(ALICE)} == {
        "first": [], "second": ["created"], "third": []}
    for record in store.pods.all():
        store.pods.put(replace(record, state=SandboxState.ABSENT, spec=PodSpec(name=record.name)))
    service.set_project_default(ROOT, "alice", "second")
    with pytest.raises(Conflict, match="alice"):
        await service.remove(ROOT, "second")
    await service.remove(ROOT, "third")
    assert [kernel["name"] for kernel in service.list_all(ROOT)] == ["first", "second"]
    store.close()


async def test_only_the_administrator_changes_what_the_host_has(service: KernelService) -> None:
    with pytest.raises(Forbidden):
        await service.add(ALICE, "mine", pieces(archive({"image": FIT})))
    with pytest.raises(Forbidden):
        await service.remove(ALICE, "second")
    with pytest.raises(Forbidden):
        service.set_default(ALICE, "second")
    with pytest.raises(Forbidden):
        await anext(service.build(ALICE))


# --- adding ---

async def test_a_kernel_that_cannot_be_tried_is_not_added_and_leaves_nothing(service: KernelService) -> None:
    with pytest.raises(Unavailable, match="no machines"):
        await service.add(ROOT, "mine", pieces(archive({"image": FIT})))
    assert [kernel["name"] for kernel in service.list_all(ROOT)] == ["first", "second"]
    assert not list(service._library.root.rglob(".new-*"))


@pytest.mark.parametrize(("name", "line"), [
    ("first", ""), ("../x", ""), ("", ""), ("mine", "a\nb"), ("mine", "x" * 600), ("mine", "é")])
async def test_bad_names_and_command_lines_are_refused_before_anything_is_read(service: KernelService, name: str,
                                                                              line: str) -> None:
    with pytest.raises((InvalidArgument, Conflict)):
        await service.add(ROOT, name, pieces(b"no archive"), command_line=line)


def read(tmp_path: Path, data: bytes) -> Candidate:
    spool = tmp_path / "spool"
    spool.write_bytes(data)
    return kernel_upload.read(spool, tmp_path / "work")


def test_an_archive_is_read_whatever_the_paths_of_its_modules(tmp_path: Path) -> None:
    config = "".join(f"CONFIG_{name}={value}\n" for name, value in (COMPLETE | {"EROFS_FS": "m"}).items())
    candidate = read(tmp_path, archive({
        "./image": elf(XEN_PVH), "config": config.encode(), "modules/kernel/fs/erofs/erofs.ko": module(),
        "modules/modules.builtin": b""}))
    assert [one.name for one in candidate.modules] == ["erofs.ko"]


def special(kind: bytes) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as tar:
        entry = tarfile.TarInfo("image")
        entry.type, entry.linkname = kind, "/etc/shadow"
        tar.addfile(entry)
    return made.getvalue()


@pytest.mark.parametrize("data", [
    b"", b"no tar at all" * 100, archive({}), archive({"config": b""}), archive({"image": b"no kernel"}),
    archive({"image": FIT, "../../etc/passwd": b"x"}), archive({"image": FIT, "modules/../../x": b"x"}),
    archive({"image": FIT, "modules/x.so": b"x"}), archive({"/image": FIT}), archive({"image": FIT})[:700],
    special(tarfile.SYMTYPE), special(tarfile.LNKTYPE), special(tarfile.CHRTYPE), special(tarfile.FIFOTYPE)])
def test_archives_that_are_something_else_are_refused(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(InvalidArgument):
        read(tmp_path, data)
    assert {path.name for path in tmp_path.iterdir()} <= {"spool", "work"}


def test_files_that_are_too_large_are_refused_by_their_headers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_upload, "_MAX_IMAGE", 100)
    with pytest.raises(InvalidArgument, match="image has"):
        read(tmp_path, archive({"image": FIT}))
    monkeypatch.setattr(kernel_upload, "_MAX_FILES", 2)
    with pytest.raises(InvalidArgument, match="more than 2"):
        read(tmp_path, archive({f"modules/{number}.ko": b"x" for number in range(4)}))


async def test_an_archive_that_does_not_end_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_upload, "MAX_BYTES", 10_000)
    with pytest.raises(InvalidArgument, match="longer than"):
        await kernel_upload.receive(pieces(bytes(100_000)), tmp_path / "spool")
    assert (tmp_path / "spool").stat().st_size <= 10_000


@settings(max_examples=60, deadline=None)
@given(noise=st.binary(max_size=600), at=st.integers(0, 2000))
def test_hostile_archives_raise_nothing_else(noise: bytes, at: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    whole = archive({"image": FIT, "config": b"CONFIG_A=y\n", "modules/a.ko": module()})
    with contextlib.suppress(InvalidArgument, NotFound):
        read(tmp_path_factory.mktemp("hostile"), whole[:at] + noise + whole[at + len(noise):])


# --- building ---

def builder(root: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> tuple[Builder, list[str]]:
    """A builder whose child is a shell script instead of the compiler; and the kernels that it finished."""
    program = root / "python"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    finished: list[str] = []

    async def finish(name: str) -> None:
        finished.append(name)

    return Builder(root, finish), finished


async def test_onlookers_share_a_build_that_outlives_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, finished = builder(tmp_path, monkeypatch, f"echo x >>{tmp_path}/starts; echo '{{\"status\":\"Compiling\"}}'; "
                             f"while [ ! -e {tmp_path}/go ]; do sleep 0.02; done; echo '{{\"name\":\"ours\"}}'")
    first = made.follow()
    while (await anext(first)).status != "Compiling":
        pass
    await first.aclose()
    second = made.follow()
    assert (await anext(second)).status == "Compiling"
    (tmp_path / "go").touch()
    steps = [step async for step in second]
    assert [step.status for step in steps] == ["Trying the kernel", "Done"]
    assert (steps[-1].name, finished) == ("ours", ["ours"])
    assert (tmp_path / "starts").read_text() == "x\n"


@pytest.mark.parametrize(("script", "words"), [
    ("""echo '{"error":"no gcc","hint":"apt-get install gcc"}'""", "apt-get install gcc"),
    ("echo nonsense", "strange"), ("exit 3", "without a word"), ("head -c 100000 /dev/zero | tr '\\0' x", "strange")])
async def test_a_build_that_fails_says_why_and_can_be_started_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                                    script: str, words: str) -> None:
    made, finished = builder(tmp_path, monkeypatch, script)
    for _ in range(2):
        with pytest.raises(Unavailable, match=words):
            async for _step in made.follow():
                pass
    assert finished == []


async def test_a_build_ends_with_the_daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, finished = builder(tmp_path, monkeypatch,
                             f"echo '{{\"status\":\"Compiling\"}}'; read line; touch {tmp_path}/ended")
    steps = made.follow()
    while (await anext(steps)).status != "Compiling":
        pass
    await made.close()
    with pytest.raises(Unavailable, match="daemon stops"):
        await anext(steps)
    while not (tmp_path / "ended").exists():
        await asyncio.sleep(0.01)
    assert finished == []
