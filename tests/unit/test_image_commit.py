"""Commits: one more layer over an image, from whoever may have written it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from hyperstack.image.api import NewLayer
from hyperstack.image.config import Limits
from hyperstack.image.store import ImageStore
from hyperstack.pod.errors import InvalidArgument, NotFound
from tests.unit.image_builds import build, digest, oci_archive, stream
from tests.unit.image_layers import extract, make_tar, member
from tests.unit.test_image_store import files, options

NEW = NewLayer(run={"Cmd": ["x"]}, reference="made:1", author="who", message="why", created_by="sh -c 'x y'")


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[ImageStore]:
    opened = ImageStore(tmp_path / "images", config=options(limits=Limits(layers=2, layer_bytes=1 << 20)))
    await opened.start()
    yield opened
    await opened.close()


async def loaded(store: ImageStore) -> str:
    image, = await store.load(stream(oci_archive(build(Env=["A=1"]), "base:1")))
    return image.id


async def test_a_layer_is_added_and_the_rest_kept(store: ImageStore, tmp_path: Path) -> None:
    base = store.get(await loaded(store))
    layer = make_tar(member("g", data=b"new"), member(".wh.f"))
    image = await store.commit(base.id, stream(layer), NEW)
    assert image.references == ("docker.io/library/made:1",)
    assert image.diff_ids == (*base.diff_ids, digest(layer))
    assert image.layer_sizes[0] == base.layer_sizes[0]
    assert image.config.command == ("x",)
    assert (image.raw_config["author"], image.architecture, image.os) == ("who", "amd64", "linux")
    step = image.raw_config["history"][-1]
    assert (step["created_by"], step["comment"], step["author"]) == ("sh -c 'x y'", "why", "who")
    assert (extract(store.layer_disks(image)[1], tmp_path / "out") / "g").read_bytes() == b"new"
    archive = b"".join([piece async for piece in store.save(["made:1"])])
    store.remove("made:1")
    again, = await store.load(stream(archive))
    assert again.id == image.id
    assert store.get(base.id).references == ("docker.io/library/base:1",)


@pytest.mark.parametrize(("layer", "words"), [
    (make_tar(member("../escaped")), "is refused"), (b"garbage" * 200, "is refused"),
    (make_tar(member("big", data=bytes(2 << 20))), "longer than 1048576 bytes")])
async def test_a_layer_that_is_refused_leaves_nothing(store: ImageStore, tmp_path: Path, layer: bytes, words: str
                                                      ) -> None:
    ident = await loaded(store)
    before = files(tmp_path / "images", "layers", "tmp")
    with pytest.raises(InvalidArgument, match=words):
        await store.commit(ident, stream(layer), NEW)
    assert [image.id for image in store.list_all()] == [ident]
    assert files(tmp_path / "images", "layers", "tmp") == before
    store.prune(dangling_only=True, in_use=())
    assert len(files(tmp_path / "images", "blobs")) == 3


async def test_a_stream_that_breaks_is_the_commits_error(store: ImageStore, tmp_path: Path) -> None:
    ident = await loaded(store)

    async def broken() -> AsyncIterator[bytes]:
        yield make_tar(member("f"))[:512]
        raise NotFound("container", "gone")

    with pytest.raises(NotFound, match="gone"):
        await store.commit(ident, broken(), NEW)
    assert not files(tmp_path / "images", "tmp")


async def test_bounds_and_names_are_checked_first(store: ImageStore) -> None:
    ident = await loaded(store)
    image = await store.commit(ident, stream(make_tar(member("g"))), NEW)
    with pytest.raises(InvalidArgument, match="at most 2 layers"):
        await store.commit(image.id, stream(make_tar(member("h"))), NEW)
    for reference in ("UPPER:1", f"x@{ident}"):
        with pytest.raises(InvalidArgument):
            await store.commit(ident, stream(b""), NewLayer(run={}, reference=reference))
