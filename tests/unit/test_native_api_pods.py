"""The native API over a real socket."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.unit.docker_api_server import Served, serve

V1 = "/hyperstack/v1"
POD = """apiVersion: v1
kind: Pod
metadata: {name: NAME, namespace: team, labels: {app: web}}
spec:
  initContainers: [{name: first, image: busybox}]
  containers: [{name: main, image: busybox, command: [sleep, "5"]}]
"""


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    async with serve() as running:
        yield running


def manifest(*names: str) -> str:
    return "---\n".join(POD.replace("NAME", name) for name in names)


async def create(served: Served, text: str, query: str = "") -> tuple[int, Any]:
    return await served.call("POST", f"{V1}/pods{query}", data=text, headers={"Content-Type": "application/yaml"})


async def test_a_pods_life(served: Served) -> None:
    status, made = await create(served, manifest("web"))
    assert status == 201
    assert [pod["id"] for pod in made["pods"]] == [made["id"]]
    _, listed = await served.call("GET", f"{V1}/pods")
    assert isinstance(listed, list)
    assert (listed[0]["name"], listed[0]["state"], listed[0]["namespace"], listed[0]["labels"]) == (
        "web", "ready", "team", {"app": "web"})
    assert [(item["name"], item["init"]) for item in listed[0]["containers"]] == [("first", True), ("main", False)]
    _, one = await served.call("GET", f"{V1}/pods/web")
    assert isinstance(one, dict)
    assert one["spec"]["containers"][0]["entrypoint"] == ["sleep", "5"]
    assert "agent_key" not in str(one)
    assert (await served.call("DELETE", f"{V1}/pods/web"))[0] == 409
    assert (await served.call("POST", f"{V1}/pods/web/stop?t=1"))[0] == 204
    assert (await served.call("POST", f"{V1}/pods/web/start"))[0] == 204
    assert (await served.call("DELETE", f"{V1}/pods/web?force=1"))[0] == 204
    status, answer = await served.call("GET", f"{V1}/pods/web")
    assert (status, answer) == (404, {"message": "No such pod: web"})


async def test_a_pods_cost_is_told_while_it_runs(served: Served) -> None:
    await create(served, manifest("web"))
    _, pods = await served.call("GET", f"{V1}/stats")
    assert isinstance(pods, list)
    assert [(pod["name"], pod["host"]) for pod in pods] == [
        ("web", {"pss_bytes": 40 << 20, "memory_bytes": 90 << 20, "cpu_ns": 5, "pids": 4})]
    assert len(pods[0]["containers"]) == 2
    _, one = await served.call("GET", f"{V1}/pods/web/stats")
    assert isinstance(one, dict)
    assert one["host"] == pods[0]["host"]
    await served.call("POST", f"{V1}/pods/web/stop?t=1")
    assert (await served.call("GET", f"{V1}/stats"))[1] == []
    assert await served.call("GET", f"{V1}/pods/web/stats") == (409, {"message": "Pod web is not running"})
    assert (await served.call("GET", f"{V1}/pods/none/stats"))[0] == 404


async def test_all_pods_of_a_manifest_or_none(served: Served) -> None:
    assert (await create(served, manifest("taken"), "?start=0"))[0] == 201
    status, answer = await create(served, manifest("one", "two", "taken"))
    assert (status, "already in use" in answer["message"]) == (409, True)
    assert [record.name for record in served.engine.pods.records.values()] == ["taken"]


async def test_absent_images_are_pulled_unless_never(served: Served) -> None:
    served.engine.images.images.clear()
    never = manifest("web").replace("image: busybox", "image: busybox, imagePullPolicy: Never")
    assert (await create(served, never))[0] == 404
    assert (await create(served, manifest("web")))[0] == 201


async def test_a_missing_image_leaves_nothing(served: Served) -> None:
    assert (await create(served, manifest("web").replace("busybox", "absent")))[0] == 404
    assert served.engine.pods.records == {}


@pytest.mark.parametrize(("text", "words"), [
    ("", "the manifest is empty"),
    (manifest("web").replace("command", "comand"), 'unknown field "spec.containers[0].comand"'),
    (manifest("web").replace("spec:", "spec:\n  hostPID: true"), "spec.hostPID is not supported"),
    ("a" * (1024 * 1024 + 1), "longer than"),
    ("[" * 10000, "nested deeper"),
])
async def test_bad_manifests_are_answered_with_the_reason(served: Served, text: str, words: str) -> None:
    status, answer = await create(served, text)
    assert (status, words in answer["message"]) == (400, True), answer


async def test_doctor_and_version(served: Served) -> None:
    assert await served.call("GET", f"{V1}/doctor") == (200, {"findings": [
        {"name": "accelerator", "status": "warn", "detail": "no KVM", "remedy": "enable nested virtualisation"}]})
    _, version = await served.call("GET", f"{V1}/version")
    assert isinstance(version, dict)
    assert (version["api"], version["project"]) == ("v1", "default")
    assert (await served.call("GET", f"{V1}/nothing")) == (404, {"message": "page not found"})

