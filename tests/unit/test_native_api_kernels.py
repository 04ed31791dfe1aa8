"""The native API's kernels over a real socket."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.unit.docker_api_server import Served, serve
from tests.unit.kernel_service import archive
from tests.unit.test_engine_kernels import FIT

V1 = "/hyperstack/v1"


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    async with serve() as running:
        yield running


async def listed(served: Served) -> list[Any]:
    status, kernels = await served.call("GET", f"{V1}/kernels")
    assert status == 200
    assert isinstance(kernels, list)
    return kernels


async def test_kernels_are_listed_inspected_chosen_and_removed(served: Served) -> None:
    assert [kernel["name"] for kernel in await listed(served)] == ["debian", "other"]
    _, one = await served.call("GET", f"{V1}/kernels/other")
    assert isinstance(one, dict)
    assert one["config"] == {"EXT4_FS": "y"}
    assert (await served.call("DELETE", f"{V1}/kernels/debian"))[0] == 409
    assert (await served.call("POST", f"{V1}/kernels/other/default"))[0] == 204
    assert (await served.call("POST", f"{V1}/kernels/debian/default?project=default"))[0] == 204
    assert [(kernel["default"], kernel["project_default"]) for kernel in await listed(served)] == [
        (False, True), (True, False)]
    assert (await served.call("DELETE", f"{V1}/projects/default/kernel"))[0] == 204
    assert (await served.call("DELETE", f"{V1}/kernels/debian"))[0] == 204
    assert (await served.call("GET", f"{V1}/kernels/debian"))[0] == 404
    assert (await served.call("POST", f"{V1}/kernels/debian/default"))[0] == 404


@pytest.mark.parametrize(("query", "data", "status", "words"), [
    ("?name=mine", b"no archive", 400, "archive"), ("?name=mine", archive({"image": b"x" * 2000}), 400, "bzImage"),
    ("?name=debian", archive({"image": FIT}), 409, "already"), ("", archive({"image": FIT}), 400, "name"),
    ("?name=a/b", archive({"image": FIT}), 400, "name"), ("?name=mine&cmdline=%01", b"", 400, "command line"),
    ("?name=mine", archive({"image": FIT}), 503, "no machines")])
async def test_a_kernel_that_is_not_added_is_answered_with_the_reason(served: Served, query: str, data: bytes,
                                                                     status: int, words: str) -> None:
    got, answer = await served.call("POST", f"{V1}/kernels{query}", data=data)
    assert isinstance(answer, dict)
    assert (got, words in answer["message"]) == (status, True), answer
    assert len(await listed(served)) == 2
