"""docker network and docker volume."""

from __future__ import annotations

import json

from tests.clients.peers import LABEL, Cli, missing
from tests.images import BUSYBOX


def test_the_list_of_networks(cli: Cli) -> None:
    ident = cli("network", "create", "--label", LABEL, "hs-n")
    assert len(ident) == 64
    rows = {row["NAME"]: row for row in cli.table("network", "ls")}
    assert cli.expect.networks <= set(rows)
    assert (rows["hs-n"]["NETWORK ID"], rows["hs-n"]["DRIVER"], rows["hs-n"]["SCOPE"]) == (ident[:12], "bridge",
                                                                                           "local")
    assert cli.lines("network", "ls", "--no-trunc", "-q", "-f", "name=hs-n") == [ident]
    assert cli.lines("network", "ls", "--filter", f"label={LABEL}", "--format", "{{.Name}}") == ["hs-n"]
    assert "hs-n" not in cli.lines("network", "ls", "-f", "type=builtin", "--format", "{{.Name}}")
    assert "network with name hs-n already exists" in cli.fails("network", "create", "hs-n")
    assert "operation is not permitted on predefined bridge network" in cli.fails("network", "create", "bridge")
    assert "bridge is a pre-defined network and cannot be removed" in cli.fails("network", "rm", "bridge")
    assert cli("network", "rm", ident[:12]) == ident[:12]


def test_no_such_network(cli: Cli) -> None:
    for words in (("network", "inspect", "hs-none"), ("network", "rm", "hs-none"), ("network", "connect", "hs-none",
                                                                                    "hs-none")):
        said = cli.fails(*words)
        assert missing("network", "hs-none", said) or missing("container", "hs-none", said), words


def test_addresses_and_names(cli: Cli) -> None:
    cli("network", "create", "--driver", "bridge", "--subnet", "10.241.7.0/24", "--gateway", "10.241.7.1",
        "--ip-range", "10.241.7.128/25", "--aux-address", "x=10.241.7.5", "-o", "com.docker.network.driver.mtu=1400",
        "hs-n")
    [shown] = json.loads(cli("network", "inspect", "hs-n"))
    assert shown["IPAM"]["Config"] == [{
        "Subnet": "10.241.7.0/24", "Gateway": "10.241.7.1", "IPRange": "10.241.7.128/25",
        "AuxiliaryAddresses": {"x": "10.241.7.5"}}]
    assert shown["Options"] == {"com.docker.network.driver.mtu": "1400"}
    cli("run", "-d", "--name", "hs-a", "--network", "hs-n", "--ip", "10.241.7.9", "--network-alias", "other", BUSYBOX,
        "sleep", "600")
    cli("run", "-d", "--name", "hs-b", "--network", "hs-n", BUSYBOX, "sleep", "600")
    assert cli("inspect", "-f", '{{(index .NetworkSettings.Networks "hs-n").IPAddress}}', "hs-a") == "10.241.7.9"
    assert cli("inspect", "-f", "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}",
               "hs-b").startswith("10.241.7.1")
    for name in ("hs-a", "other"):
        assert "10.241.7.9" in cli("exec", "hs-b", "nslookup", name)
    assert "(bad address" in cli.fails("exec", "hs-b", "ping", "-c", "1", "hs-none").replace("ping: ", "(")
    members = json.loads(cli("network", "inspect", "-f", "{{json .Containers}}", "hs-n"))
    assert {member["Name"]: member["IPv4Address"] for member in members.values()}["hs-a"] == "10.241.7.9/24"
    said = cli.fails("network", "rm", "hs-n")
    assert "has active endpoints" in said


def test_prune_of_networks(cli: Cli) -> None:
    cli("network", "create", "--label", LABEL, "--internal", "hs-n")
    assert cli("network", "inspect", "-f", "{{.Internal}}", "hs-n") == "true"
    assert cli("network", "prune", "-f", "--filter", f"label={LABEL}").splitlines() == ["Deleted Networks:", "hs-n"]
    assert cli("network", "prune", "-f", "--filter", f"label={LABEL}") == ""


def test_connect_and_disconnect(cli: Cli) -> None:
    for name in ("hs-n", "hs-m"):
        cli("network", "create", name)
    cli("create", "--name", "hs-c", BUSYBOX, "sleep", "600")
    cli("network", "disconnect", "bridge", "hs-c")
    assert cli("network", "connect", "--alias", "also", "hs-n", "hs-c") == ""
    cli("start", "hs-c")
    assert cli("network", "connect", "hs-m", "hs-c") == "", "while it runs"
    assert set(json.loads(cli("inspect", "-f", "{{json .NetworkSettings.Networks}}", "hs-c"))) == {"hs-n", "hs-m"}
    assert len(cli.lines("exec", "hs-c", "ls", "/sys/class/net")) == 3
    assert "is not connected to" in cli.fails("network", "disconnect", "bridge", "hs-c")
    assert missing("network", "hs-none", cli.fails("network", "disconnect", "hs-none", "hs-c"))
    assert cli("network", "disconnect", "-f", "hs-n", "hs-c") == ""
    assert cli("ps", "--filter", "name=hs-c", "--format", "{{.Networks}}") == "hs-m"


def test_the_list_of_volumes(cli: Cli) -> None:
    assert cli("volume", "create", "--label", "k=v", "hs-v") == "hs-v"
    assert cli("volume", "create", "hs-v") == "hs-v"
    assert {"DRIVER": "local", "VOLUME NAME": "hs-v"} in cli.table("volume", "ls")
    assert cli.lines("volume", "ls", "-q", "-f", "label=k=v") == ["hs-v"]
    assert "hs-v" in cli.lines("volume", "ls", "-q", "-f", "dangling=true", "-f", "name=hs-")
    [shown] = json.loads(cli("volume", "inspect", "hs-v"))
    assert (shown["Name"], shown["Driver"], shown["Scope"], shown["Labels"]) == ("hs-v", "local", "local", {"k": "v"})
    assert bool(shown["Mountpoint"]) == cli.expect.volumes_have_paths
    assert cli("volume", "rm", "hs-v") == "hs-v"
    assert missing("volume", "hs-v", cli.fails("volume", "rm", "hs-v"))
    assert missing("volume", "hs-v", cli.fails("volume", "inspect", "hs-v"))
    assert cli.run("volume", "rm", "-f", "hs-v").stdout == "hs-v\n"
    assert "only " in cli.fails("volume", "create", "hs@v")
    assert cli.fails("volume", "create", "-d", "hs-none", "hs-v") != ""


def test_volumes_outlive_containers(cli: Cli) -> None:
    cli("run", "--rm", "-v", "hs-v:/d", BUSYBOX, "sh", "-c", "echo kept > /d/f")
    cli("run", "-d", "--name", "hs-u", "--mount", "type=volume,src=hs-v,dst=/d,readonly", BUSYBOX, "sleep", "600")
    assert cli("exec", "hs-u", "cat", "/d/f") == "kept"
    assert "Read-only file system" in cli.fails("exec", "hs-u", "touch", "/d/g")
    said = cli.fails("volume", "rm", "hs-v")
    assert "remove hs-v: volume is in use - [" in said
    assert cli.lines("ps", "-q", "--no-trunc", "--filter", "volume=hs-v")[0] in said
    assert cli("ps", "--filter", "name=hs-u", "--format", "{{.Mounts}} {{.LocalVolumes}}") == "hs-v 1"


def test_prune_of_volumes(cli: Cli) -> None:
    named = ("volume", "prune", "-f", "--filter", f"label={LABEL}")
    cli("volume", "create", "--label", LABEL, "hs-v")
    anonymous = cli("volume", "create", "--label", LABEL)
    if cli.expect.anonymous_are_labelled:
        assert anonymous in cli.lines("volume", "ls", "-q", "-f", "label=com.docker.volume.anonymous")
    assert anonymous in cli(*named)
    if "hs-v" in cli.lines("volume", "ls", "-q"):  # Clients of today's API say which they mean.
        assert "hs-v" in cli(*named, "-a")
    assert "Total reclaimed space: 0B" in cli(*named)
