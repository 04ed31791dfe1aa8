"""The image store without a registry: load, save, import, names, removal, and what a kill leaves."""

from __future__ import annotations

import asyncio
import gzip
import os
import sqlite3
import subprocess
import tarfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from hyperstack.image.api import Holder, Image, Progress
from hyperstack.image.config import ImageConfigOptions, Limits
from hyperstack.image.store import ImageStore
from hyperstack.pod.errors import Conflict, Exhausted, InvalidArgument, NotFound
from tests.tars import tar_of
from tests.unit.image_builds import (
    OCI_INDEX,
    BuiltImage,
    build,
    collect,
    digest,
    document,
    index_of,
    oci_archive,
    old_docker_archive,
    stream,
)
from tests.unit.image_layers import extract, make_tar, member

WORKER_UID = 64_999 if os.geteuid() == 0 else None


def options(**changes: object) -> ImageConfigOptions:
    settings: dict[str, object] = {"platform": "linux/amd64", "worker_uid": WORKER_UID, **changes}
    return ImageConfigOptions(**settings)  # type: ignore[arg-type]  # keywords of the test's own choice


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[ImageStore]:
    opened = ImageStore(tmp_path / "images", config=options())
    await opened.start()
    yield opened
    await opened.close()


def files(root: Path, *parts: str) -> set[str]:
    return {path.name for part in parts for path in (root / part).rglob("*") if path.is_file()}


async def load(store: ImageStore, image: BuiltImage, name: str) -> Image:
    loaded, = await store.load(stream(oci_archive(image, name)))
    return loaded


async def test_an_oci_archive_is_loaded(store: ImageStore, tmp_path: Path) -> None:
    built = build([make_tar(member("f", data=b"1")), make_tar(member("g", data=b"2"))], Cmd=["run"])
    heard: list[Progress] = []
    image, = await store.load(stream(oci_archive(built, "docker.io/user/app:1")), heard.append)
    assert image.id == built.id
    assert image.references == ("docker.io/user/app:1",)
    assert image.digests == (f"docker.io/user/app@{digest(built.manifest)}",)
    assert image.config.command == ("run",)
    assert image.created_at == 1_704_067_200 * 10**9
    assert [(extract(disk, tmp_path / disk.name) / name).read_bytes() for disk, name in
            zip(store.layer_disks(image), ("f", "g"), strict=True)] == [b"1", b"2"]
    assert all(disk.stat().st_mode & 0o777 == 0o444 for disk in store.layer_disks(image))
    assert image.size == sum(disk.stat().st_size for disk in store.layer_disks(image))
    assert all(step.status == "Loading layer" and not step.message for step in heard)


@pytest.mark.parametrize("packing", ["", "gzip", "zstd"])
async def test_layers_may_be_packed_in_any_way(store: ImageStore, packing: str) -> None:
    assert (await load(store, build(packing=packing), "x:1")).diff_ids == (digest(build().plain[0]),)


async def test_a_former_docker_archive_is_loaded(store: ImageStore) -> None:
    layer = make_tar(member("f", data=b"1"))
    built = build([layer, make_tar(member("g")), layer])
    image, = await store.load(stream(gzip.compress(old_docker_archive(built, "app:1", "app:2"))))
    assert image.id == built.id
    assert image.references == ("docker.io/library/app:1", "docker.io/library/app:2")
    assert image.diff_ids[0] == image.diff_ids[2]


async def test_what_is_saved_loads_elsewhere(store: ImageStore, tmp_path: Path) -> None:
    one, two = build([make_tar(member("a"))]), build([make_tar(member("a")), make_tar(member("b"))])
    await load(store, one, "one:1")
    await load(store, two, "two:2")
    saved = await collect(store.save(["one:1", two.id[7:20]]))
    other = ImageStore(tmp_path / "other", config=options())
    await other.start()
    try:
        loaded = await other.load(stream(saved, 777))
        assert {(image.id, image.references) for image in loaded} == {
            (one.id, ("docker.io/library/one:1",)), (two.id, ())}
    finally:
        await other.close()


async def test_a_saved_archive_is_read_by_skopeo_in_both_formats(store: ImageStore, tmp_path: Path) -> None:
    built = build(packing="zstd")
    await load(store, built, "app:1")
    archive = tmp_path / "saved.tar"
    archive.write_bytes(await collect(store.save(["app:1"])))
    for form in ("docker-archive", "oci-archive"):
        answer = subprocess.run(["skopeo", "inspect", "--config", "--raw", f"{form}:{archive}"], check=True,
                                capture_output=True)
        assert digest(answer.stdout) == built.id


async def test_saving_what_is_not_here_is_refused_before_the_first_byte(store: ImageStore) -> None:
    with pytest.raises(NotFound, match="No such image: nothing"):
        store.save(["nothing"])


@pytest.mark.parametrize(("archive", "words"), [
    (b"", "no image"), (b"garbage" * 100, "archive/tar: invalid tar header"), (tar_of({"f": b"x"}), "no image"),
    (tar_of({"manifest.json": b"{"}), "malformed"), (tar_of({"manifest.json": b"[]"}), "no image"),
    (tar_of({"manifest.json": b'[{"Config":"../../etc/passwd","Layers":[]}]'}), "has no ../../etc/passwd"),
    (tar_of({"index.json": b"[]"}), "archive is refused"),
    (tar_of({"index.json": index_of(amd64=build())}), "no blob"),
    (old_docker_archive(build(), "Not A Name"), "invalid reference"),
    (old_docker_archive(build(diff_ids=[digest(b"else")])), "invalid diffID for layer 0: expected"),
    (old_docker_archive(build(diff_ids=[digest(b"1"), digest(b"2")])), "layers"),
    (oci_archive(build([make_tar(member("../f"))]), "a:1"), "leads out"),
    (oci_archive(build(), "a:1")[:3000], "middle"), (gzip.compress(oci_archive(build(), "a:1"))[:-9], "cut off"),
    (tar_of({"manifest.json": b"x" * (5 << 20)}), "too long|bytes long"),
])
async def test_a_bad_archive_is_refused_and_leaves_nothing(store: ImageStore, tmp_path: Path, archive: bytes,
                                                           words: str) -> None:
    with pytest.raises(InvalidArgument, match=words):
        await store.load(stream(archive))
    assert store.list_all() == []
    assert files(tmp_path / "images", "tmp", "layers") == set()


async def test_a_load_for_another_platform_is_refused(store: ImageStore) -> None:
    image = build(architecture="arm64")
    index = index_of(arm64=image)
    blobs = {f"blobs/sha256/{digest(blob)[7:]}": blob for blob in (*image.blobs.values(), image.manifest, index)}
    entry = {"mediaType": OCI_INDEX, "digest": digest(index), "size": len(index)}
    archive = tar_of({**blobs, "index.json": document({"schemaVersion": 2, "manifests": [entry]})})
    with pytest.raises(InvalidArgument, match="no image for linux/amd64"):
        await store.load(stream(archive))


async def test_a_load_whose_sender_stops_leaves_nothing(store: ImageStore, tmp_path: Path) -> None:
    reached = asyncio.Event()

    async def hanging() -> AsyncIterator[bytes]:
        yield oci_archive(build(), "a:1")[:2000]
        reached.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(store.load(hanging()))
    await reached.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert files(tmp_path / "images", "tmp") == set()


async def test_an_import_is_an_image_of_one_layer(store: ImageStore) -> None:
    tar = make_tar(member("f", data=b"x"))
    image = await store.import_tar(stream(gzip.compress(tar)), reference="mine:1", message="made",
                                   run={"Cmd": ["/bin/sh", "-c", "run"]})
    assert image.references == ("docker.io/library/mine:1",)
    assert image.diff_ids == (digest(tar),)
    assert image.config.command == ("/bin/sh", "-c", "run")
    assert image.raw_config["history"][0]["comment"] == "made"
    assert (image.os, image.architecture) == ("linux", "amd64")
    saved = await collect(store.save(["mine:1"]))
    assert (await store.load(stream(saved)))[0].id == image.id


async def test_names_ids_and_prefixes_find_an_image(store: ImageStore) -> None:
    image = await load(store, build(), "user/app:1")
    hexadecimal = image.id[7:]
    for name in ("user/app:1", "docker.io/user/app:1", image.id, hexadecimal, hexadecimal[:12],
                 f"sha256:{hexadecimal[:9]}",
                 f"user/app@{digest(build().manifest)}", f"user/app:9@{digest(build().manifest)}"):
        assert store.get(name) == image
    for name in ("user/app", "user/app:2", "app:1", "0" * 64, "sha256:" + "0" * 64):
        with pytest.raises(NotFound, match="No such image"):
            store.get(name)
    for name in ("???", "", "sha256:", "%", "USER/APP"):
        with pytest.raises(InvalidArgument, match="invalid reference format"):
            store.get(name)


async def test_an_ambiguous_prefix_is_refused(store: ImageStore) -> None:
    ids = [(await load(store, build(Cmd=[str(number)]), f"a:{number}")).id for number in range(17)]
    first: dict[str, str] = {}
    twice = next(ident[7] for ident in ids if ident[7] in first or first.setdefault(ident[7], "") is None)
    with pytest.raises(NotFound, match="ids begin so"):
        store.get(twice)


async def test_tags_move(store: ImageStore) -> None:
    one, two = await load(store, build(Cmd=["1"]), "a:1"), await load(store, build(Cmd=["2"]), "b:1")
    store.tag("a:1", "c")
    assert store.get("c").id == one.id
    store.tag(two.id[7:], "c:latest")
    assert store.get("c").id == two.id
    assert store.get(one.id).references == ("docker.io/library/a:1",)
    with pytest.raises(InvalidArgument, match="digest reference"):
        store.tag("a:1", f"x@{one.id}")
    with pytest.raises(NotFound):
        store.tag("nothing", "x")


async def test_the_last_name_takes_the_image_along(store: ImageStore, tmp_path: Path) -> None:
    image = await load(store, build(), "a:1")
    store.tag("a:1", "b:1")
    assert store.remove("b:1") == [("Untagged", "b:1")]
    assert store.remove("a:1") == [("Untagged", "a:1"), ("Untagged", f"a@{digest(build().manifest)}"), ("Deleted",
                                                                                                        image.id)]
    assert store.list_all() == []
    assert files(tmp_path / "images", "blobs", "layers", "tmp", "partial") == set()


async def test_removal_keeps_what_others_share(store: ImageStore) -> None:
    shared = make_tar(member("shared"))
    await load(store, build([shared]), "a:1")
    other = await load(store, build([shared, make_tar(member("own"))]), "b:1")
    store.remove("a:1")
    assert all(disk.exists() for disk in store.layer_disks(other))
    assert await collect(store.save(["b:1"]))


async def test_removal_by_id_with_several_names_wants_force(store: ImageStore) -> None:
    image = await load(store, build(), "a:1")
    store.tag("a:1", "b:1")
    with pytest.raises(Conflict, match="multiple repositories"):
        store.remove(image.id)
    assert ("Deleted", image.id) in store.remove(image.id, force=True)


async def test_what_containers_use_stays(store: ImageStore) -> None:
    image = await load(store, build(), "a:1")
    running = {image.id: Holder(who="container 0123456789ab", running=True)}
    stopped = {image.id: Holder(who="container 0123456789ab", running=False)}
    short = image.id[7:19]
    for force in (False, True):
        with pytest.raises(Conflict) as caught:
            store.remove(image.id, force=force, in_use=running)
        assert caught.value.message == (f"conflict: unable to delete {short} (cannot be forced) - image is being used "
                                        "by running container 0123456789ab")
    with pytest.raises(Conflict) as caught:
        store.remove(image.id, in_use=stopped)
    assert caught.value.message == (f"conflict: unable to delete {short} (must be forced) - image is being used by "
                                    "stopped container 0123456789ab")
    for in_use in (running, stopped):
        with pytest.raises(Conflict) as caught:
            store.remove("a:1", in_use=in_use)
        assert caught.value.message == ('conflict: unable to remove repository reference "a:1" (must force) - '
                                        f"container 0123456789ab is using its referenced image {short}")
    store.tag("a:1", "b:1")
    assert store.remove("b:1", in_use=running) == [("Untagged", "b:1")]
    assert ("Deleted", image.id) not in store.remove("a:1", force=True, in_use=running)
    with pytest.raises(Conflict, match="cannot be forced"):
        store.remove(image.id, force=True, in_use=stopped)
    assert store.get(image.id).references == ()
    assert store.prune(dangling_only=True, in_use=[image.id])[0] == []
    assert all(disk.exists() for disk in store.layer_disks(image))


async def test_prune(store: ImageStore, tmp_path: Path) -> None:
    used = await load(store, build(Cmd=["1"]), "a:1")
    replaced = await load(store, build([make_tar(member("old"))]), "b:1")
    store.tag("a:1", "b:1")
    (tmp_path / "images/partial/left").write_bytes(bytes(10_000))
    events, freed = store.prune(dangling_only=True, in_use=[])
    assert ("Deleted", replaced.id) in events
    assert freed > 10_000
    assert store.list_all() == [store.get(used.id)]
    assert store.prune(dangling_only=False, in_use=[used.id])[0] == []
    assert ("Deleted", used.id) in store.prune(dangling_only=False, in_use=[])[0]
    assert files(tmp_path / "images", "blobs", "layers", "partial") == set()


async def test_images_outlive_the_store(tmp_path: Path, store: ImageStore) -> None:
    image = await load(store, build(), "a:1")
    await store.close()
    await store.start()
    assert store.get("a:1") == image


async def test_a_start_clears_the_half_made_and_forgets_what_is_gone(tmp_path: Path, store: ImageStore) -> None:
    kept = await load(store, build([make_tar(member("kept"))]), "kept:1")
    lost = await load(store, build([make_tar(member("lost"))]), "lost:1")
    await store.close()
    root = tmp_path / "images"
    store.layer_disks(lost)[0].unlink()
    (root / "tmp/half").write_bytes(b"half")
    (root / "layers" / ("0" * 64 + ".erofs")).write_bytes(b"nobody's")
    (root / "partial/kept").write_bytes(b"resumable")
    await store.start()
    assert [image.id for image in store.list_all()] == [kept.id]
    assert files(root, "tmp", "partial") == {"kept"}
    assert files(root, "layers") == {store.layer_disks(kept)[0].name}


async def test_an_index_of_a_newer_version_is_not_touched(tmp_path: Path, store: ImageStore) -> None:
    await store.close()
    with sqlite3.connect(tmp_path / "images/images.db") as database:
        database.execute("PRAGMA user_version=99")
    with pytest.raises(sqlite3.DatabaseError, match="version 99"):
        await store.start()
    with sqlite3.connect(tmp_path / "images/images.db") as database:
        database.execute("PRAGMA user_version=2")
    await store.start()


@pytest.mark.parametrize(("limits", "words"), [
    ({"layer_entries": 3}, "more than 3 entries"), ({"layer_bytes": 500_000}, "longer than 1000000 bytes"),
    ({"layers": 0}, "at most 0"), ({"archive_bytes": 10_000}, "10000 bytes")])
async def test_limits_are_named(tmp_path: Path, limits: dict[str, int], words: str) -> None:
    limited = ImageStore(tmp_path / "limited", config=options(limits=Limits(**limits)))
    await limited.start()
    try:
        layer = make_tar(*(member(str(number), data=os.urandom(700_000)) for number in range(4)))
        with pytest.raises(InvalidArgument, match=words):
            await load(limited, build([layer]), "a:1")
    finally:
        await limited.close()


async def test_a_layer_that_needs_too_much_memory_is_refused(tmp_path: Path) -> None:
    limited = ImageStore(tmp_path / "limited", config=options(limits=Limits(unpack_memory=48 << 20)))
    await limited.start()
    try:
        layer = make_tar(*(member(f"{number:0200d}/{number:0200d}", tarfile.DIRTYPE) for number in range(12_000)),
                         layout=tarfile.GNU_FORMAT)
        with pytest.raises(InvalidArgument, match="bytes of memory"):
            await load(limited, build([layer], packing="zstd"), "a:1")
    finally:
        await limited.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount a small file system")
async def test_a_full_disk_is_told_and_survived(tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", small], check=True)
    try:
        cramped = ImageStore(small / "images", config=options())
        await cramped.start()
        try:
            fits = build([make_tar(member("f", data=b"x"))])
            await load(cramped, fits, "fits:1")
            for layer in (make_tar(member("f", data=os.urandom(8 << 20))), make_tar(member("f",
                                                                                           data=os.urandom(4 << 20)))):
                with pytest.raises(Exhausted, match="no space left"):
                    await load(cramped, build([layer]), "big:1")
            assert [image.id for image in cramped.list_all()] == [fits.id]
            assert files(small / "images", "tmp") == set()
            cramped.prune(dangling_only=True, in_use=[])
            await load(cramped, build(Cmd=["again"]), "again:1")
        finally:
            await cramped.close()
    finally:
        subprocess.run(["umount", small], check=True)


async def test_two_loads_of_one_image_at_a_time(store: ImageStore) -> None:
    archive = oci_archive(build(), "a:1")
    first, second = await asyncio.gather(store.load(stream(archive)), store.load(stream(archive)))
    assert first == second
    assert len(store.list_all()) == 1
