"""A list of changes comes from a guest, which may send anything."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperstack.engine.api import ChangeKind
from hyperstack.engine.layers import parse_change, read_changes, split_names
from hyperstack.pod.errors import Exhausted, GuestError


async def names(*chunks: bytes) -> list[bytes]:
    async def pieces() -> AsyncIterator[bytes]:
        for chunk in chunks:
            yield chunk

    return [name async for name in split_names(pieces())]


@given(st.lists(st.binary(min_size=1, max_size=20).filter(lambda name: b"\0" not in name), max_size=20), st.data())
async def test_names_are_whole_wherever_the_chunks_are_cut(wanted: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(name + b"\0" for name in wanted)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=10)))
    assert await names(*(stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True))) == wanted


@pytest.mark.parametrize("chunks", [(b"A/x",), (b"A/x\0\0",), (b"\0",), (b"A/" + b"x" * 4096, b"x" * 4096)])
async def test_a_list_that_is_none_is_the_guests_fault(chunks: tuple[bytes, ...]) -> None:
    with pytest.raises(GuestError, match="the guest's list of changes"):
        await names(*chunks)


async def test_a_list_without_an_end_is_refused() -> None:
    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield b"A/x\0" * 10_000

    with pytest.raises(Exhausted, match="more than 500000 changes"):
        await read_changes(endless(), container="box")


def test_kinds_are_dockers_and_paths_need_not_be_text() -> None:
    found = parse_change(b"D/bin/\xff")
    assert (found.kind, found.path) == (ChangeKind.DELETED, "/bin/\udcff")
    assert [parse_change(kind + b"/x").kind.value for kind in (b"C", b"A", b"D")] == [0, 1, 2]
    for bad in (b"X/x", b"A", b"Ax"):
        with pytest.raises(GuestError):
            parse_change(bad)
