"""What builds ask of the image store: contexts of strangers, layers of what is copied, and the cache."""

from __future__ import annotations

import bz2
import gzip
import lzma
import tarfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hyperstack.dockerfile.globs import Steps
from hyperstack.image.api import Context, Copying, NamedFile, NewLayer
from hyperstack.image.composition import CopyError, selected
from hyperstack.image.config import Limits
from hyperstack.image.store import ImageStore
from hyperstack.image.tree import MadeNode, Node, TarTree, TreeError, find, layers_root
from hyperstack.pod.errors import InvalidArgument, NotFound
from tests.unit.image_builds import build, oci_archive, stream
from tests.unit.image_layers import make_disk, make_tar, member
from tests.unit.test_image_store import files, options

DIRECTORY, LINK, HARD = tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE
BASE = (make_tar(member("usr", DIRECTORY), member("usr/lib", DIRECTORY, mode=0o711, uid=3, gid=4),
                 member("lib", LINK, linkname="usr/lib"), member("etc", DIRECTORY),
                 member("etc/passwd", data=b"root:x:0:0::/:\nalice:x:1000:50::/:\nbad\n"),
                 member("etc/group", data=b"staff:x:50:\n"), member("out", LINK, linkname="/../../../etc"),
                 member("usr/abs", LINK, linkname="/etc"), member("loop", LINK, linkname="loop"),
                 member("file", data=b"below"), member("gone", DIRECTORY)),
        make_tar(member("usr", DIRECTORY), member("usr/lib", DIRECTORY, mode=0o711, uid=3, gid=4),
                 member("usr/lib/upper", data=b"u"), member(".wh.gone"), member("opaque/.wh..wh..opq")))


@dataclass
class Copied:
    data: bytes
    mode: int
    uid: int
    gid: int
    kind: bytes
    target: str
    mtime: int


@dataclass
class Workbench:
    store: ImageStore
    base: str
    root: Path

    async def context(self, *members: Any, packed: bytes = b"", dockerfile: str = "Dockerfile") -> Context:
        workshop = self.store.workshop
        path = await workshop.keep(stream(packed or make_tar(*members)))
        try:
            return await workshop.open_context(path, dockerfile)
        finally:
            workshop.discard(path)

    async def layer(self, context: Context | None, *patterns: str, to: str, base: str | None = None, **fields: Any
                    ) -> dict[str, Copied]:
        """The members of the layer that comes of a copy, by name."""
        composed = await self.store.workshop.compose(Copying(
            base=self.base if base is None else base, destination=to, patterns=patterns, context=context, **fields))
        with tarfile.open(composed.tar) as archive:
            found = {}
            for entry in archive:
                file = archive.extractfile(entry) if entry.isreg() else None
                found[entry.name] = Copied(file.read() if file is not None else b"", entry.mode, entry.uid, entry.gid,
                                           entry.type, entry.linkname, int(entry.mtime))
        self.store.workshop.discard(composed.tar)
        return found


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Workbench]:
    store = ImageStore(tmp_path / "images", config=options(limits=Limits(layer_bytes=1 << 20, layer_entries=200)))
    await store.start()
    image, = await store.load(stream(oci_archive(build(BASE), "base:1")))
    yield Workbench(store, image.id, tmp_path / "images")
    await store.close()


@pytest.mark.parametrize("pack", [bytes, gzip.compress, bz2.compress, lzma.compress])
async def test_contexts_come_packed_in_several_ways(bench: Workbench, pack: Any) -> None:
    context = await bench.context(packed=pack(make_tar(member("Dockerfile", data=b"FROM x"), member("a/b"))))
    assert context.dockerfile == b"FROM x"
    assert set(await bench.layer(context, "a", to="/new/")) == {"new", "new/b"}
    assert (await bench.context(member("x"))).dockerfile is None
    assert (await bench.context(member("sub/D", data=b"y"), dockerfile="sub/D")).dockerfile == b"y"


@pytest.mark.parametrize(("members", "words"), [
    ([member("../escaped")], "leads out of the root"), ([member("a/../../b")], "leads out of the root"),
    ([member("null", tarfile.CHRTYPE, devmajor=1, devminor=3)], "null is a device"),
    ([member("disk", tarfile.BLKTYPE, devmajor=8)], "disk is a device"),
    ([member("n" * 300)], "a name of 300 bytes is too long"), ([member("d/" * 2100 + "x")], "is too long"),
    ([member("link", LINK, linkname="/etc"), member("link/passwd")], "beneath what is no directory"),
    ([member("a", HARD, linkname="/etc/passwd")], "is a hard link to /etc/passwd, which is no file before it"),
    ([member("a", HARD, linkname="../../x")], "leads out of the root"),
    ([member("s", LINK, linkname="")], "is a symbolic link to 0 bytes"),
    ([member(f"f{number}") for number in range(300)], "more than 200 files"),
    ([member("big", data=bytes(2 << 20))], "unpacks to more than 1048576 bytes"),
    ([member(".", LINK, linkname="x")], "its root is not a directory"),
    ([member("Dockerfile", DIRECTORY)], "is not a file"),
    ([member(".dockerignore", data=b"[")], "syntax error in pattern")])
async def test_hostile_contexts_are_refused(bench: Workbench, members: list[Any], words: str) -> None:
    before = files(bench.root, "tmp")
    with pytest.raises(InvalidArgument, match=words):
        await bench.context(*members)
    assert files(bench.root, "tmp") == before


@pytest.mark.parametrize("data", [b"garbage" * 200, gzip.compress(bytes(64 << 20)), gzip.compress(b"x" * 4096)[:100],
                                  lzma.compress(b"x" * 4096)[:60], bz2.compress(b"x" * 4096)[:30]])
async def test_what_is_no_tar_or_a_bomb_is_refused(bench: Workbench, data: bytes) -> None:
    with pytest.raises(InvalidArgument, match=r"the build context is refused|archive/tar: invalid tar header"):
        await bench.context(packed=data)


async def test_a_copy_repeats_the_directories_above_it_and_follows_links_within_the_image(bench: Workbench) -> None:
    context = await bench.context(member("f", data=b"x", uid=500, gid=500, mode=0o600))
    found = await bench.layer(context, "f", to="/lib/deep/g")
    assert set(found) == {"usr", "usr/lib", "usr/lib/deep", "usr/lib/deep/g"}
    below, made, put = found["usr/lib"], found["usr/lib/deep"], found["usr/lib/deep/g"]
    assert (below.mode, below.uid, below.gid) == (0o711, 3, 4)
    assert (made.mode, made.uid) == (0o755, 0)
    assert (put.mode, put.uid, put.gid, put.data) == (0o600, 0, 0, b"x")
    # However a link tries, it ends within the image.
    assert "etc/f" in await bench.layer(context, "f", to="/out/")
    assert "etc/f" in await bench.layer(context, "f", to="/../../../../out/")
    assert "etc/f" in await bench.layer(context, "f", to="/etc")
    assert "etc/f" in await bench.layer(context, "f", to="/usr/abs")
    assert "f" in await bench.layer(context, "f", to="/")
    with pytest.raises(InvalidArgument, match="too many levels of symbolic links"):
        await bench.layer(context, "f", to="/loop/")
    with pytest.raises(InvalidArgument, match="cannot copy to non-directory"):
        await bench.layer(context, "f", to="/file/")


async def test_a_tree_is_merged_into_what_is_there(bench: Workbench) -> None:
    context = await bench.context(
        member("t/lib/new", data=b"n"), member("t/etc", DIRECTORY, mode=0o700), member("t/etc/passwd", data=b"p"),
        member("t/hard", HARD, linkname="t/etc/passwd"), member("t/sym", LINK, linkname="/nowhere"),
        member("t/pipe", tarfile.FIFOTYPE))
    found = await bench.layer(context, "t", to="/")
    assert {"usr/lib/new", "etc/passwd", "sym", "pipe"} <= set(found)
    assert "lib" not in found, "the image's link to usr/lib is gone"
    assert found["etc"].mode == 0o700
    assert (found["hard"].kind, found["hard"].target) == (HARD, "etc/passwd")
    assert set(await bench.layer(context, "t", to="/made/here", base="")) >= {"made", "made/here", "made/here/hard"}


async def test_owners_and_modes(bench: Workbench) -> None:
    context = await bench.context(member("f"), member("d/g", mode=0o700))
    for chown, owner in (("alice", (1000, 1000)), ("alice:staff", (1000, 50)), ("7", (7, 7)), ("7:8", (7, 8)),
                         ("alice:9", (1000, 9))):
        entry = (await bench.layer(context, "f", to="/x", chown=chown))["x"]
        assert (entry.uid, entry.gid) == owner
    assert (await bench.layer(context, "d", to="/x/", chmod="0640"))["x/g"].mode == 0o640
    for chown in ("nobody-here", "alice:nogroup", "4294967295", "99999999999"):
        with pytest.raises(InvalidArgument):
            await bench.layer(context, "f", to="/x", chown=chown)
    with pytest.raises(InvalidArgument, match="no /etc/passwd"):
        await bench.layer(context, "f", to="/x", chown="alice", base="")
    with pytest.raises(InvalidArgument, match="invalid chmod parameter"):
        await bench.layer(context, "f", to="/x", chmod="u+x")


async def test_sources(bench: Workbench) -> None:
    context = await bench.context(
        member("a.txt"), member("b.txt"), member("c.md"), member("d/a.txt"), member("way", LINK, linkname="d"),
        member("up", LINK, linkname="../../../d/a.txt"), member("d/root", LINK, linkname="/a.txt"),
        member(".dockerignore", data=b"c.md\nsecret\n"), member("Dockerfile.dockerignore", data=b"b.txt\n"),
        member("secret/key"))
    assert set(await bench.layer(context, "*.txt", to="/x/")) == {"x", "x/a.txt", "x/b.txt"}
    assert set(await bench.layer(context, "*/a.txt", "b.txt", to="/x/")) == {"x", "x/a.txt", "x/b.txt"}
    assert set(await bench.layer(context, "way", to="/x/")) == {"x", "x/a.txt", "x/root"}
    assert (await bench.layer(context, "d/root", to="/x"))["x"].kind == tarfile.REGTYPE
    assert (await bench.layer(context, "up", to="/x"))["x"].kind == tarfile.REGTYPE
    assert set(await bench.layer(context, ".", to="/x/")) == {
        "x", "x/.dockerignore", "x/Dockerfile.dockerignore", "x/a.txt", "x/b.txt", "x/d", "x/d/a.txt", "x/d/root",
        "x/up", "x/way"}
    for pattern, words in (("../x", "forbidden path outside the build context"), ("c.md", "excluded by .dockerignore"),
                           ("secret/key", "file not found in build context"), ("*.none", "no source files"),
                           ("[", "syntax error in pattern")):
        with pytest.raises(InvalidArgument, match=words):
            await bench.layer(context, pattern, to="/x/")
    with pytest.raises(InvalidArgument, match="more than one source file"):
        await bench.layer(context, "*.txt", to="/x")


async def test_archives_are_unpacked_and_kept_within_the_destination(bench: Workbench) -> None:
    inner = make_tar(member("dev", tarfile.CHRTYPE, devmajor=1, devminor=3), member("who", uid=7, gid=8, mode=0o4755),
                     member("dir/sub/f"), member("abs", LINK, linkname="/etc"))
    context = await bench.context(member("i.tgz", data=gzip.compress(inner)), member("i.xz", data=lzma.compress(inner)),
                                  member("no.gz", data=gzip.compress(b"text")),
                                  member("evil.tar", data=make_tar(member("../../out"))))
    found = await bench.layer(context, "i.tgz", to="/to/", extract=True)
    assert {"to/dev", "to/who", "to/dir/sub/f", "to/abs"} <= set(found)
    assert (found["to/who"].uid, found["to/who"].gid, found["to/who"].mode) == (7, 8, 0o4755)
    assert "to/who" in await bench.layer(context, "i.tgz", "i.xz", to="/to/", extract=True)
    assert set(await bench.layer(context, "i.tgz", to="/to/")) == {"to", "to/i.tgz"}
    assert set(await bench.layer(context, "no.gz", to="/to/", extract=True)) == {"to", "to/no.gz"}
    with pytest.raises(InvalidArgument, match="leads out of the root"):
        await bench.layer(context, "evil.tar", to="/to/", extract=True)
    bomb = await bench.context(member("bomb.gz", data=gzip.compress(make_tar(member("x", data=bytes(8 << 20))))))
    with pytest.raises(InvalidArgument, match="more than 1048576 bytes"):
        await bench.layer(bomb, "bomb.gz", to="/to/", extract=True)


async def test_names_that_mean_deletions_are_refused(bench: Workbench) -> None:
    context = await bench.context(member("d/.wh.passwd"), member("e/.wh..wh..opq"))
    for pattern in ("d", "e"):
        with pytest.raises(InvalidArgument, match="means a deletion"):
            await bench.layer(context, pattern, to="/etc/")


async def test_copies_out_of_an_image_see_it_as_an_overlay_shows_it(bench: Workbench) -> None:
    found = await bench.layer(None, ".", to="/copy/", origin=bench.base, base="")
    assert {"copy/usr/lib/upper", "copy/lib", "copy/etc/passwd", "copy/opaque"} <= set(found)
    assert "copy/gone" not in found
    assert (found["copy/usr/lib"].mode, found["copy/usr/lib"].uid) == (0o711, 3)
    assert found["copy/lib"].kind == LINK
    assert set(await bench.layer(None, "/lib/upper", to="/f", origin=bench.base, base="")) == {"f"}
    copied = await bench.layer(None, "out/passwd", to="/f", origin=bench.base, base="")
    assert copied["f"].data.startswith(b"root")
    with pytest.raises(InvalidArgument, match=r"gone: file does not exist \(in the image\)"):
        await bench.layer(None, "gone", to="/f", origin=bench.base)
    with pytest.raises(NotFound):
        await bench.layer(None, "x", to="/f", origin="sha256:" + "0" * 64)


async def test_files_of_no_context(bench: Workbench, tmp_path: Path) -> None:
    (tmp_path / "doc").write_bytes(b"text")
    doc = NamedFile(name="doc", path=tmp_path / "doc", mtime=5, mode=0o600)
    found = await bench.layer(None, to="/d/", files=(doc,))
    assert (found["d/doc"].mode, found["d/doc"].mtime, found["d/doc"].data) == (0o600, 5, b"text")


async def test_a_digest_is_of_what_is_copied_but_not_of_its_times(bench: Workbench) -> None:
    async def digest(**fields: Any) -> str:
        context = await bench.context(member("f", **{"data": b"x", "mtime": 1, "mode": 0o644, **fields}))
        composed = await bench.store.workshop.compose(Copying(base=bench.base, destination="/lib/f", patterns=("f",),
                                                              context=context))
        return composed.digest

    same = await digest()
    assert same == await digest(mtime=99)
    assert same != await digest(data=b"y")
    assert same != await digest(mode=0o600)


async def test_steps_are_cached_for_whoever_asks_again_and_pruned(bench: Workbench) -> None:
    workshop, new = bench.store.workshop, NewLayer(run={"Cmd": ["x"]}, created_by="RUN x")
    one = await workshop.step(bench.base, stream(make_tar(member("new", data=b"n" * 5000))), new, key="k1", project="p")
    two = await workshop.step(one, None, new, key="k2", project="p")
    empty = await workshop.step(two, stream(make_tar()), new, key="k3", project="p")
    assert [len(bench.store.get(ident).diff_ids) for ident in (one, two, empty)] == [3, 3, 3]
    assert bench.store.get(empty).raw_config["history"][-1]["empty_layer"] is True
    assert (workshop.cached("k1"), workshop.cached("absent")) == (one, None)
    assert [image.id for image in bench.store.list_all()] == [bench.base]
    assert len(bench.store.list_all(intermediate=True)) == 4
    # What is nobody's is no dangling image, and pruned with the cache alone.
    assert bench.store.prune(dangling_only=True, in_use=()) == ([], 0)
    workshop.publish(two, ["mine:1"])
    assert {image.id for image in bench.store.list_all()} == {bench.base, two}
    steps = {step.key: step for step in workshop.steps()}
    assert steps["k1"].uses == 1
    assert steps["k1"].size == 0, "an image that is somebody's has the layer as well"
    freed = workshop.forget(["k1", "k2", "k3"], in_use=[empty])
    assert freed >= 0
    assert [step.key for step in workshop.steps()] == ["k3"]
    bench.store.remove("mine:1")
    assert workshop.forget(["k3"], in_use=()) > 0
    assert [image.id for image in bench.store.list_all(intermediate=True)] == [bench.base]


async def test_a_step_that_is_done_anew_leaves_nothing_of_the_first_time(bench: Workbench) -> None:
    workshop, new = bench.store.workshop, NewLayer(run={}, created_by="x")
    made = [await workshop.step(bench.base, stream(make_tar(member("f", data=data))), new, key="k", project="p")
            for data in (b"one", b"two")]
    workshop.forget((), in_use=[made[0]])
    assert {image.id for image in bench.store.list_all(intermediate=True)} == {bench.base, *made}
    assert workshop.forget((), in_use=()) > 0
    assert {image.id for image in bench.store.list_all(intermediate=True)} == {bench.base, made[1]}
    assert workshop.cached("k") == made[1]


async def test_the_cache_survives_a_restart_and_a_half_made_context_does_not(bench: Workbench) -> None:
    workshop = bench.store.workshop
    made = await workshop.step(bench.base, None, NewLayer(run={}, created_by="x"), key="k", project="p")
    await bench.context(member("f"))
    await bench.store.close()
    await bench.store.start()
    assert bench.store.workshop.cached("k") == made
    assert files(bench.root, "tmp") == set()


# -- parsers of strangers' trees

NAMES = st.sampled_from(["a", "b", "a/b", "a/b/c", "../x", "/abs", "a//b", "./a", "a/..", "", ".", "d/e"])


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(entries=st.lists(st.tuples(NAMES, st.sampled_from([b"0", b"1", b"2", b"3", b"5", b"6"]), NAMES), max_size=8),
       asked=NAMES)
def test_any_tar_is_a_tree_or_refused(tmp_path: Path, entries: list[tuple[str, bytes, str]], asked: str) -> None:
    data = make_tar(*(member(name or "x", kind, linkname=target if kind in (b"1", b"2") else "")
                      for name, kind, target in entries))
    with (tmp_path / "tar").open("w+b") as file:
        file.write(data)
        file.flush()
        try:
            tree = TarTree(file.fileno(), max_entries=100, devices=True)
        except TreeError:
            return
        try:
            for _, node in selected(tree.root, asked, where="build context", steps=Steps()):
                assert reachable(tree.root, node)
        except (CopyError, TreeError):
            pass


def reachable(root: Node, wanted: Node) -> bool:
    pending = [root]
    while pending:
        node = pending.pop()
        if node is wanted:
            return True
        pending += node.children().values()
    return False


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(position=st.integers(0, 20_000), value=st.binary(min_size=1, max_size=8))
def test_a_damaged_disk_is_an_error_and_no_endless_walk(tmp_path: Path, position: int, value: bytes) -> None:
    disk = tmp_path / "disk"
    if not disk.exists():
        make_disk(BASE[0], disk)
    data = bytearray(disk.read_bytes())
    position %= len(data)
    data[position:position + len(value)] = value
    damaged = tmp_path / "damaged"
    damaged.write_bytes(data[:len(disk.read_bytes())])
    with damaged.open("rb") as file:
        try:
            root = layers_root([file.fileno()])
            for path in (b"lib/x", b"etc/passwd", b"out/group"):
                node = find(root, path)
                if node is not None and node.is_regular and node.size < 1 << 20:
                    b"".join(node.data())
        except (ValueError, OSError, OverflowError):
            pass


def test_an_empty_stack_of_layers_is_an_empty_directory() -> None:
    assert isinstance(layers_root(()), MadeNode)
