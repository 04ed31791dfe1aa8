"""Templates on disk: found, replaced, dropped, and never taken for what they are not."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from hyperstack.hypervisor.api import Template, TemplateSpec
from hyperstack.hypervisor.qemu.templates import TemplateStore, identify
from hyperstack.pod.errors import Unavailable
from hyperstack.pod.kernel import Kernel


@pytest.fixture
def spec(tmp_path: Path) -> TemplateSpec:
    for name in ("image", "initrd"):
        (tmp_path / name).write_bytes(name.encode())
    kernel = Kernel(name="k", image=tmp_path / "image", initrd=tmp_path / "initrd")
    return TemplateSpec(kernel=kernel, memory_mib=2, vcpus=1, nic=True, scope="project a")


@pytest.fixture
def store(tmp_path: Path) -> TemplateStore:
    return TemplateStore(tmp_path / "templates")


IDENT = "ab" * 32


def make(store: TemplateStore, spec: TemplateSpec, state: bytes = b"state") -> Template:
    with store.staging(spec.memory_mib) as (path, files):
        os.pwrite(files.ram, b"x" * 4096, 1 << 20)
        os.write(files.state, state)
        return store.keep(IDENT, spec, path)


def test_what_was_kept_is_found_again(store: TemplateStore, spec: TemplateSpec) -> None:
    assert store.find(IDENT, spec) is None
    template = make(store, spec)
    assert store.find(IDENT, spec) == template
    assert 4096 <= template.memory_bytes < 1 << 20, "holes take nothing"
    with store.opened(template) as files:
        assert os.pread(files.state, 100, 0) == b"state"
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.write(files.ram, b"x")


def test_a_new_one_takes_the_place_of_the_old(store: TemplateStore, spec: TemplateSpec, tmp_path: Path) -> None:
    old, new = make(store, spec, b"old"), make(store, spec, b"new")
    assert store.find(IDENT, spec) == new
    with pytest.raises(Unavailable), store.opened(old):
        pass
    assert len(list((tmp_path / "templates").iterdir())) == 1


def test_what_is_not_finished_is_not_found(store: TemplateStore, spec: TemplateSpec, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), store.staging(2):
        raise RuntimeError
    assert list((tmp_path / "templates").iterdir()) == []
    template = make(store, spec)
    (tmp_path / "templates" / f"{IDENT}.{template.created_ns}" / "about.json").write_text("{")
    assert store.find(IDENT, spec) is None


def test_a_cut_ram_file_is_not_used(store: TemplateStore, spec: TemplateSpec, tmp_path: Path) -> None:
    template = make(store, spec)
    os.truncate(tmp_path / "templates" / f"{IDENT}.{template.created_ns}" / "ram", 100)
    assert store.find(IDENT, spec) is None


def test_what_an_earlier_boot_left_is_removed(store: TemplateStore, spec: TemplateSpec, tmp_path: Path) -> None:
    template = make(store, spec)
    about = tmp_path / "templates" / f"{IDENT}.{template.created_ns}" / "about.json"
    about.write_text(json.dumps(json.loads(about.read_text()) | {"boot": "another"}))
    with store.staging(2):
        assert not about.exists()


def test_dropping_twice_is_no_error(store: TemplateStore, spec: TemplateSpec) -> None:
    template = make(store, spec)
    store.drop(template)
    store.drop(template)
    assert store.find(IDENT, spec) is None


def test_all_that_it_depends_on_is_in_its_name(spec: TemplateSpec) -> None:
    names = {identify(spec, ["q"]), identify(spec, ["other"])}
    for change in ({"memory_mib": 3}, {"vcpus": 2}, {"nic": False}, {"scope": "project b"}):
        names.add(identify(replace(spec, **change), ["q"]))
    spec.kernel.initrd.write_bytes(b"another agent")
    names.add(identify(spec, ["q"]))
    assert len(names) == 7
