"""Pulls from Debian's docker-registry."""

from __future__ import annotations

import asyncio
import os
import subprocess
from pathlib import Path

import pytest

from hyperstack.image import names
from hyperstack.image.api import Credentials, Progress
from hyperstack.image.assemble import assemble
from hyperstack.image.manifest import OCI_MANIFEST
from hyperstack.image.push import push_image
from hyperstack.pod.errors import NotFound, RegistryError, Unauthorized
from tests.registry.conftest import PASSWORD, USER, MakeStore, RealRegistry
from tests.unit.image_builds import build, digest, index_of
from tests.unit.image_layers import extract, make_tar, member


def statuses(heard: list[Progress]) -> list[str]:
    """Without repetitions in a row."""
    words = [step.status for step in heard]
    return [word for at, word in enumerate(words) if at == 0 or words[at - 1] != word]


@pytest.mark.parametrize("packing", ["gzip", "zstd", ""])
async def test_a_pull_brings_the_image(registry: RealRegistry, make_store: MakeStore, tmp_path: Path,
                                       packing: str) -> None:
    built = build([make_tar(member("f", data=os.urandom(300_000)))], packing=packing, Cmd=["x"])
    reference = registry.push(built, f"pulls/{packing or 'plain'}:1", tmp_path)
    store = await make_store(insecure=[registry.host])
    heard: list[Progress] = []
    image = await store.pull(reference, progress=heard.append)
    assert image.id == built.id
    assert image.references == (reference,)
    assert image.digests == (f"{reference.rpartition(':')[0]}@{digest(built.manifest)}",)
    assert (extract(store.layer_disks(image)[0], tmp_path / "out") / "f").stat().st_size == 300_000
    assert statuses(heard)[:2] == [f"Pulling from pulls/{packing or 'plain'}", "Pulling fs layer"]
    assert statuses(heard)[-5:] == [
        "Verifying Checksum", "Download complete", "Pull complete", f"Digest: {digest(built.manifest)}",
        f"Status: Downloaded newer image for {reference}"]
    heard.clear()
    assert await store.pull(reference, progress=heard.append) == image
    # As in Docker, an image that is here already has no word of its layers.
    assert statuses(heard) == [f"Pulling from pulls/{packing or 'plain'}", f"Digest: {digest(built.manifest)}",
                               f"Status: Image is up to date for {reference}"]


async def test_a_pull_by_digest(registry: RealRegistry, make_store: MakeStore, tmp_path: Path) -> None:
    built = build(Cmd=["by digest"])
    name = registry.push(built, "digests:1", tmp_path).removesuffix(":1")
    store = await make_store(insecure=[registry.host])
    image = await store.pull(f"{name}@{digest(built.manifest)}")
    assert image.references == ()
    assert store.get(f"{name}@{digest(built.manifest)}") == image


async def test_what_is_not_there(registry: RealRegistry, make_store: MakeStore, tmp_path: Path) -> None:
    name = registry.push(build(), "there:1", tmp_path).removesuffix(":1")
    store = await make_store(insecure=[registry.host])
    for missing in (f"{name}:2", f"{registry.host}/nowhere:1", f"{name}@sha256:{'0' * 64}"):
        with pytest.raises(NotFound, match=f"manifest for {missing} not found: manifest unknown"):
            await store.pull(missing)
    assert store.list_all() == []


async def test_platforms(registry: RealRegistry, make_store: MakeStore, tmp_path: Path) -> None:
    own, foreign = build(Cmd=["amd64"]), build(architecture="arm64", Cmd=["arm64"])
    for built, tag in ((own, "amd64"), (foreign, "arm64")):
        registry.push(built, f"multi:{tag}", tmp_path)
    index = index_of(amd64=own, arm64=foreign)
    reference = names.parse(f"{registry.host}/multi:both")
    await push_image(reference, index, "application/vnd.oci.image.index.v1+json", {})
    store = await make_store(insecure=[registry.host])
    image = await store.pull(str(reference))
    assert image.config.command == ("amd64",)
    assert {name.partition("@")[2] for name in image.digests} == {digest(index), digest(own.manifest)}
    assert (await store.pull(str(reference), platform="linux/arm64")).architecture == "arm64"
    with pytest.raises(NotFound, match="no matching manifest for linux/s390x"):
        await store.pull(str(reference), platform="linux/s390x")
    with pytest.raises(NotFound, match="does not match this host"):
        await store.pull(f"{registry.host}/multi:arm64")


async def test_mirrors_keep_names_and_fall_back(registry: RealRegistry, make_store: MakeStore, tmp_path: Path) -> None:
    built = build(Cmd=["mirrored"])
    registry.push(built, "library/mirrored:1", tmp_path)
    store = await make_store(mirrors={"docker.io": ("http://localhost:1", f"http://{registry.host}/")})
    image = await store.pull("mirrored:1", credentials=Credentials(username="secret", password="secret"))
    assert image.references == ("docker.io/library/mirrored:1",)
    elsewhere = await make_store("elsewhere", insecure=[registry.host],
                                 mirrors={registry.host: ("http://localhost:1",)})
    assert (await elsewhere.pull(f"{registry.host}/library/mirrored:1")).id == built.id


async def test_plain_http_only_where_configured(registry: RealRegistry, make_store: MakeStore, tmp_path: Path) -> None:
    reference = registry.push(build(), "plain-http:1", tmp_path)
    store = await make_store()
    with pytest.raises(RegistryError, match="http: server gave HTTP response to HTTPS client") as caught:
        await store.pull(reference)
    assert "insecure registries" in str(caught.value)


async def test_passwords(guarded_registry: RealRegistry, make_store: MakeStore, tmp_path: Path) -> None:
    reference = guarded_registry.push(build(Cmd=["guarded"]), "guarded:1", tmp_path)
    store = await make_store(insecure=[guarded_registry.host])
    for none in (None, Credentials(identity_token="x")):
        with pytest.raises(RegistryError, match="no basic auth credentials"):
            await store.pull(reference, credentials=none)
    with pytest.raises(Unauthorized, match="unauthorized: authentication required"):
        await store.pull(reference, credentials=Credentials(username=USER, password="wrong"))
    image = await store.pull(reference, credentials=Credentials(username=USER, password=PASSWORD))
    assert image.config.command == ("guarded",)
    with pytest.raises(RegistryError, match="no basic auth credentials"):
        await store.pull(reference)


async def test_two_pulls_share_the_work(registry: RealRegistry, make_store: MakeStore, tmp_path: Path) -> None:
    shared = make_tar(member("shared", data=os.urandom(3 << 20)))
    one = registry.push(build([shared, make_tar(member("1"))]), "sharing:1", tmp_path)
    two = registry.push(build([shared, make_tar(member("2"))]), "sharing:2", tmp_path)
    store = await make_store(insecure=[registry.host])
    heard: list[Progress] = []
    images = await asyncio.gather(*(store.pull(name, progress=heard.append) for name in (one, two, one)))
    assert images[0] == images[2]
    assert images[0].diff_ids[0] == images[1].diff_ids[0]
    assert len(store.list_all()) == 2


async def test_a_cancelled_pull_leaves_others_alone(registry: RealRegistry, make_store: MakeStore,
                                                    tmp_path: Path) -> None:
    built = build([make_tar(member(str(number), data=os.urandom(1 << 20))) for number in range(4)])
    reference = registry.push(built, "cancelled:1", tmp_path)
    store = await make_store(insecure=[registry.host])
    started = asyncio.Event()
    first = asyncio.create_task(store.pull(reference, progress=lambda step: started.set()))
    second = asyncio.create_task(store.pull(reference))
    await started.wait()
    first.cancel()
    assert (await second).id == built.id
    with pytest.raises(asyncio.CancelledError):
        await first


async def test_a_hundred_layers(registry: RealRegistry, make_store: MakeStore, tmp_path: Path) -> None:
    built = build([make_tar(member(f"layer-{number}", data=b"x")) for number in range(100)])
    reference = registry.push(built, "hundred:1", tmp_path)
    store = await make_store(insecure=[registry.host])
    image = await store.pull(reference)
    assert len({disk.name for disk in store.layer_disks(image)}) == 100
    many = build([make_tar(member(f"layer-{number}")) for number in range(128)])
    too_many = registry.push(many, "hundred:2", tmp_path)
    with pytest.raises(RegistryError, match="128 layers"):
        await store.pull(too_many)


async def test_the_assembled_image_is_pushed_and_pulled(registry: RealRegistry, make_store: MakeStore,
                                                        tmp_path: Path) -> None:
    assembled = assemble()
    assert assembled == assemble()
    reference = names.parse(f"{registry.host}/library/busybox:latest")
    for _ in range(2):
        await push_image(reference, assembled.manifest, OCI_MANIFEST, assembled.blobs)
    store = await make_store(insecure=[registry.host])
    image = await store.pull(str(reference))
    assert image.config.command == ("sh",)
    root = extract(store.layer_disks(image)[0], tmp_path / "root")
    assert (root / "bin/sh").readlink() == Path("/bin/busybox")
    assert (root / "tmp").stat().st_mode & 0o7777 == 0o1777
    assert subprocess.run([root / "bin/busybox", "echo", "hi"], check=True, capture_output=True).stdout == b"hi\n"


async def test_a_registry_whose_blob_rotted_is_not_believed(registry: RealRegistry, make_store: MakeStore,
                                                            tmp_path: Path) -> None:
    built = build([make_tar(member("lost", data=os.urandom(50_000)))])
    reference = registry.push(built, "lossy:1", tmp_path)
    name = digest(built.layers[0]).removeprefix("sha256:")
    stored = registry.data / "docker/registry/v2/blobs/sha256" / name[:2] / name / "data"
    stored.write_bytes(os.urandom(len(built.layers[0])))
    store = await make_store(insecure=[registry.host])
    with pytest.raises(RegistryError, match="in place of the blob"):
        await store.pull(reference)
    assert store.list_all() == []
    stored.write_bytes(built.layers[0])
    assert (await store.pull(reference)).id == built.id
