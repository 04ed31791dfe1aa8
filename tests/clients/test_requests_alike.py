"""Each row of `alike`, asked of Docker's own engine and of ours, in the order in which it stands there."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.clients.alike import VERSION, Row, ask, containers, differences, images, networks, system
from tests.clients.conftest import Engine, clean
from tests.clients.peers import Cli

PARTS = {"containers": containers.ROWS, "images": images.ROWS, "networks": networks.ROWS, "system": system.ROWS}


@pytest.mark.parametrize("part", PARTS)
def test_both_answer_alike(docker: Cli, engine: Engine, part: str) -> None:
    release, _, version = docker("version", "--format", "{{.Server.Version}} {{.Server.APIVersion}}").partition(" ")
    if tuple(map(int, version.split("."))) < tuple(map(int, VERSION.split("."))):
        pytest.skip(f"Docker's engine here is {release}, which has API {version}: the rows are of {VERSION}")
    sockets = [Path(host.removeprefix("unix://")) for host in (docker.host, engine.host)]
    found = []
    try:
        for row in PARTS[part]:
            theirs, here = (ask(path, row) for path in sockets)
            if int(release.partition(".")[0]) >= row.since:
                found += [f"{row}: {what}" for what in differences(row, theirs, here)]
    finally:
        for host in (docker.host, engine.host):
            clean(host)
    assert found == []


def test_a_difference_is_seen(docker: Cli) -> None:
    """So that the rows can fail."""
    path = Path(docker.host.removeprefix("unix://"))
    gone, there, other = (ask(path, Row(f"GET {of}")) for of in ("/containers/hs-none/json", "/info", "/version"))
    row = Row("GET /")
    assert list(differences(row, gone, there)) != []
    assert list(differences(row, there, other)) != []
    assert list(differences(row, there, there)) == []
