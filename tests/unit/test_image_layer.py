"""Layers with odd or hostile members."""

from __future__ import annotations

import stat
import tarfile
from pathlib import Path
from typing import Any

import pytest

from hyperstack.image.erofs.writer import Directory
from hyperstack.image.layer import LayerError
from tests.unit.image_layers import check, extract, make_disk, make_tar, member, tree


def contents(tmp_path: Path, *members: tuple[tarfile.TarInfo, bytes]) -> dict[str, bytes]:
    disk = tmp_path / "disk"
    make_disk(make_tar(*members), disk)
    check(disk)
    return {name: found[-1] for name, found in tree(extract(disk, tmp_path / "out")).items()}


def link(name: str, target: str, kind: bytes = tarfile.LNKTYPE) -> tuple[tarfile.TarInfo, bytes]:
    return member(name, kind, linkname=target)


@pytest.mark.parametrize("name", ["../f", "a/../../f", "/../f", "a/b/../../../f"])
def test_a_name_that_climbs_out_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(LayerError, match="leads out of the layer"):
        contents(tmp_path, member(name, data=b"x"))


@pytest.mark.parametrize("name", ["/etc/f", "./etc/f", "etc//f", "etc/./f", "etc/x/../f", "./././etc/f"])
def test_names_are_taken_from_the_layer_s_root(tmp_path: Path, name: str) -> None:
    assert contents(tmp_path, member(name, data=b"x")) == {"etc": b"", "etc/f": b"x"}


@pytest.mark.parametrize("target", ["/../../etc/shadow", "../f", "nowhere", "d", "d/nowhere", ""])
def test_a_hard_link_to_what_is_not_in_the_layer_is_refused(tmp_path: Path, target: str) -> None:
    with pytest.raises(LayerError, match=r"leads out|hard link"):
        contents(tmp_path, member("d", tarfile.DIRTYPE), link("f", target))


def test_an_absolute_hard_link_is_within_the_layer(tmp_path: Path) -> None:
    assert contents(tmp_path, member("a/f", data=b"x"), link("b", "/a/f"))["b"] == b"x"


def test_a_hard_link_to_a_whiteout_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LayerError, match="not a file of this layer"):
        contents(tmp_path, member(".wh.f"), link("g", "f"))


def test_a_hard_link_to_itself_changes_nothing(tmp_path: Path) -> None:
    assert contents(tmp_path, member("f", data=b"x"), link("f", "f")) == {"f": b"x"}


def test_symbolic_links_may_point_anywhere(tmp_path: Path) -> None:
    found = contents(tmp_path, link("l", "/../../../etc/shadow", tarfile.SYMTYPE))
    assert found == {"l": b"/../../../etc/shadow"}


def test_a_parent_that_is_a_link_is_followed_within_the_layer(tmp_path: Path) -> None:
    found = contents(tmp_path, member("usr/lib", tarfile.DIRTYPE), link("lib", "usr/lib", tarfile.SYMTYPE),
                     member("lib/f", data=b"x"), link("up", "../../..", tarfile.SYMTYPE), member("up/g", data=b"y"),
                     link("abs", "/usr", tarfile.SYMTYPE), member("abs/lib/h", data=b"z"))
    assert found["usr/lib/f"] == b"x"
    assert found["g"] == b"y"
    assert found["usr/lib/h"] == b"z"


def test_links_in_a_circle_are_refused(tmp_path: Path) -> None:
    with pytest.raises(LayerError, match="symbolic links"):
        contents(tmp_path, link("a", "b", tarfile.SYMTYPE), link("b", "a", tarfile.SYMTYPE), member("a/f"))


def test_a_file_as_a_parent_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LayerError, match="a file and a directory"):
        contents(tmp_path, member("a", data=b"x"), member("a/f"))


def test_the_last_entry_of_a_name_wins(tmp_path: Path) -> None:
    assert contents(tmp_path, member("f", data=b"1"), member("f", data=b"2")) == {"f": b"2"}


def test_a_directory_over_a_file_and_a_file_over_a_directory(tmp_path: Path) -> None:
    found = contents(tmp_path, member("a", data=b"1"), member("a", tarfile.DIRTYPE), member("a/f", data=b"2"),
                     member("b/deep/f", data=b"3"), member("b/deep/g", data=b"3"), member("b", data=b"4"))
    assert found == {"a": b"", "a/f": b"2", "b": b"4"}


def test_files_below_a_replaced_directory_do_not_go_to_the_old_one(tmp_path: Path) -> None:
    found = contents(tmp_path, member("d/f", data=b"1"), member("d", data=b"2"), member("d", tarfile.DIRTYPE),
                     member("d/g", data=b"3"))
    assert found == {"d": b"", "d/g": b"3"}


def test_a_directory_that_comes_again_keeps_its_children(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    make_disk(make_tar(member("d/f", data=b"1"), member("d", tarfile.DIRTYPE, mode=0o700, uid=7)), disk)
    files = tree(extract(disk, tmp_path / "out"))
    assert files["d/f"][-1] == b"1"
    assert files["d"][:2] == (stat.S_IFDIR | 0o700, 7)


def test_the_root_s_own_entry_sets_its_mode(tmp_path: Path) -> None:
    builder = make_disk(make_tar(member("./", tarfile.DIRTYPE, mode=0o711, uid=3)), tmp_path / "disk")
    assert (builder.root.attributes.mode, builder.root.attributes.uid) == (stat.S_IFDIR | 0o711, 3)
    with pytest.raises(LayerError, match="root is not a directory"):
        make_disk(make_tar(member("./", data=b"x")), tmp_path / "disk")


def child(directory: Directory, name: bytes) -> Directory:
    found = directory.children[name]
    assert isinstance(found, Directory)
    return found


@pytest.mark.parametrize("order", [1, -1])
def test_a_directory_made_anew_hides_the_old_one_whatever_comes_first(tmp_path: Path, order: int) -> None:
    members = [member(".wh.d"), member("d", tarfile.DIRTYPE)][::order]
    builder = make_disk(make_tar(*members), tmp_path / "disk")
    assert child(builder.root, b"d").opaque


@pytest.mark.parametrize("order", [1, -1])
def test_a_file_of_the_layer_wins_over_its_whiteout(tmp_path: Path, order: int) -> None:
    members = [member(".wh.f"), member("f", data=b"x")][::order]
    assert contents(tmp_path, *members) == {"f": b"x"}


def test_aufs_s_own_files_are_left_out(tmp_path: Path) -> None:
    assert contents(tmp_path, member(".wh..wh.plnk/1"), member(".wh..wh.aufs"), member("f", data=b"x"))["f"] == b"x"


@pytest.mark.parametrize("name", [".wh.", ".wh..", ".wh..."])
def test_a_whiteout_of_nothing_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(LayerError, match="whiteout"):
        contents(tmp_path, member(name))


@pytest.mark.parametrize("name", ["n" * 256, "d/" + "n" * 300, "n" * 256 + "/f", "/".join(["dir"] * 1100)])
def test_names_too_long_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(LayerError, match="too long"):
        contents(tmp_path, member(name))


@pytest.mark.parametrize(("fields", "words"), [
    ({"uid": 2**32}, "owner"), ({"gid": 2**40}, "owner"), ({"uid": -1}, "owner"),
    ({"pax_headers": {"mtime": "9" * 20}}, "time"), ({"pax_headers": {"SCHILY.xattr.user.x": "v" * 70_000}},
                                                     "too long")])
def test_attributes_out_of_range_are_refused(tmp_path: Path, fields: dict[str, Any], words: str) -> None:
    layout = tarfile.PAX_FORMAT if "pax_headers" in fields else tarfile.GNU_FORMAT
    with pytest.raises(LayerError, match=words):
        make_disk(make_tar(member("f", data=b"", **fields), layout=layout), tmp_path / "disk")


def test_a_device_number_out_of_range_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LayerError, match="device number"):
        contents(tmp_path, member("c", tarfile.CHRTYPE, devmajor=5000))


def test_an_empty_symbolic_link_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LayerError, match="target of 0 bytes"):
        contents(tmp_path, link("l", "", tarfile.SYMTYPE))


def test_too_many_entries_are_refused(tmp_path: Path) -> None:
    with pytest.raises(LayerError, match="more than 10 entries"):
        make_disk(make_tar(*(member(str(number)) for number in range(11))), tmp_path / "disk", max_entries=10)


def test_an_empty_layer_is_a_disk(tmp_path: Path) -> None:
    assert contents(tmp_path) == {}
