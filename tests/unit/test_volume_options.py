"""What a volume's options make of it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperstack.pod.errors import InvalidArgument, UnsupportedOption
from hyperstack.volume.api import DiskForm, Form, HostForm, MemoryForm
from hyperstack.volume.local.options import parse_options

MIB = 1 << 20


def mounted(kind: str, device: str, words: str) -> dict[str, str]:
    return {"type": kind, "device": device, "o": words}


@pytest.mark.parametrize(("options", "form"), [
    ({}, DiskForm()),
    ({"size": "32m"}, DiskForm(size=32 * MIB)),
    ({"type": "tmpfs", "device": "tmpfs"}, MemoryForm()),
    (mounted("tmpfs", "tmpfs", "size=100m,uid=1000,gid=7,mode=1770"),
     MemoryForm(size=100 * MIB, uid=1000, gid=7, mode=0o1770)),
    (mounted("tmpfs", "none", "nr_inodes=10k,noexec,nosuid,rw,relatime,"),
     MemoryForm(files=10240, flags=("noexec", "nosuid"))),
    (mounted("none", "/srv/data", "bind"), HostForm(path="/srv/data")),
    (mounted("bind", "/srv//data/../x/", "rbind,ro,rprivate"),
     HostForm(path="/srv/x", recursive=True, flags=("ro",))),
])
def test_as_dockers_users_write_them(options: dict[str, str], form: Form) -> None:
    assert parse_options(options) == form


@pytest.mark.parametrize(("options", "said"), [
    ({"tardis": "blue"}, 'invalid option: "tardis"'),
    ({"type": "tmpfs"}, 'missing required option: "device"'),
    ({"device": "/srv"}, 'missing required option: "type"'),
    ({"o": "bind"}, 'missing required option: "device"'),
    ({"size": "much"}, "invalid size"),
    (mounted("tmpfs", "tmpfs", "size=0"), "invalid size"),
    (mounted("none", "data", "bind"), "must be an absolute path"),
])
def test_what_is_malformed_is_refused(options: dict[str, str], said: str) -> None:
    with pytest.raises(InvalidArgument, match=said) as caught:
        parse_options(options)
    assert caught.value.hint


@pytest.mark.parametrize(("options", "named"), [
    (mounted("nfs", ":/export", "addr=10.0.0.1,rw"), "type=nfs"),
    (mounted("cifs", "//server/share", "username=a"), "type=cifs"),
    (mounted("overlay", "overlay", "lowerdir=/etc,upperdir=/u,workdir=/w"), "type=overlay"),
    ({"type": "ext4", "device": "/dev/sda1"}, "type=ext4"),
    ({"type": "none", "device": "/srv"}, "type=none without o=bind"),
    (mounted("none", "/srv", "bind,rshared"), "o=rshared"),
    (mounted("none", "/srv", "bind,uid=5"), "o=uid=5"),
    (mounted("tmpfs", "tmpfs", "size=50%"), "o=size=50%"),
    (mounted("tmpfs", "tmpfs", "mode=8"), "o=mode=8"),
    (mounted("tmpfs", "tmpfs", "uid=root"), "o=uid=root"),
    ({"type": "tmpfs", "device": "tmpfs", "size": "1g"}, "size with type"),
])
def test_what_the_host_does_not_do_for_a_tenant_is_refused_by_name(options: dict[str, str], named: str) -> None:
    with pytest.raises(UnsupportedOption) as caught:
        parse_options(options)
    assert named in caught.value.message
    assert caught.value.hint


@given(st.dictionaries(st.sampled_from(["type", "device", "o", "size", "x"]), st.text(max_size=20)),
       st.sampled_from([None, "tmpfs", "none"]),
       st.lists(st.sampled_from(["bind", "ro", "size=1m", "mode=7", "uid=1", "uid=\u0661", "mode=", "=", "gid=-1"])))
def test_any_options_have_a_form_or_an_error(options: dict[str, str], kind: str | None, words: list[str]) -> None:
    if kind is not None:
        options |= {"type": kind, "o": ",".join(words)}
    try:
        form = parse_options(options)
    except InvalidArgument:
        return
    match form:
        case MemoryForm():
            assert 0 <= form.uid < 2**32 - 1
            assert 0 <= form.gid < 2**32 - 1
            assert 0 < form.mode <= 0o7777
        case HostForm():
            assert form.path.startswith("/")
        case DiskForm():
            assert form.size >= 0
