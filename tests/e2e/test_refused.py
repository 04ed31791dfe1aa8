"""The page's table of what is refused, asked of a running daemon: each field by itself, with its name in the answer,
and nothing made."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from tests.harness import Daemon
from tests.images import BUSYBOX
from tests.reference.client import Checked
from tests.reference.pages import statements

SECTION = "Options that are refused"


def mount(kind: str, **more: Any) -> dict[str, Any]:
    return {"Mounts": [{"Type": kind, "Source": "/tmp" if kind == "bind" else "vol", "Target": "/m", **more}]}


def volume(name: str = "local", **options: str) -> dict[str, Any]:
    return mount("volume", VolumeOptions={"DriverConfig": {"Name": name, "Options": options}})


def endpoint(network: str = "bridge", **settings: Any) -> dict[str, Any]:
    return {"NetworkingConfig": {"EndpointsConfig": {network: settings}}}


_BLOCK = {"BlkioWeight": 10, "BlkioWeightDevice": [{"Path": "/dev/sda", "Weight": 10}], **{
    f"BlkioDevice{way}{unit}": [{"Path": "/dev/sda", "Rate": 10}]
    for way in ("Read", "Write") for unit in ("Bps", "IOps")}}
CASES: dict[str, list[tuple[dict[str, Any], str]]] = {
    "PidMode host": [({"PidMode": "host"}, "HostConfig.PidMode=host")],
    "IpcMode host": [({"IpcMode": "host"}, "HostConfig.IpcMode=host")],
    "UTSMode": [({"UTSMode": "host"}, "HostConfig.UTSMode=host")],
    "UsernsMode but host": [({"UsernsMode": "keep-id"}, "HostConfig.UsernsMode=keep-id")],
    "CgroupnsMode host": [({name: value}, f"HostConfig.{name}={value}") for name, value in (
        ("CgroupnsMode", "host"), ("Cgroup", "container:x"), ("CgroupParent", "/x"))],
    "NetworkMode host": [({"NetworkMode": "host"}, "HostConfig.NetworkMode=host")],
    "EndpointsConfig.*.DriverOpts": [
        (endpoint(DriverOpts={"a": "b"}), "EndpointsConfig.bridge.DriverOpts"),
        (endpoint(IPAMConfig={"LinkLocalIPs": ["169.254.1.1"]}), "EndpointsConfig.bridge.IPAMConfig.LinkLocalIPs")],
    "EndpointsConfig.*.Aliases": [(endpoint(Aliases=["x"]), "EndpointsConfig.bridge.Aliases"),
                                  (endpoint(Links=["x:y"]), "EndpointsConfig.bridge.Links")],
    "Binds, Mounts with shared": [
        *(({"Binds": [f"/tmp:/m:{mode}"]}, f"HostConfig.Binds mode {mode}")
          for mode in ("shared", "rshared", "slave", "rslave")),
        *((mount("bind", BindOptions={"Propagation": mode}), f"HostConfig.Mounts[0].BindOptions.Propagation={mode}")
          for mode in ("shared", "rshared", "slave", "rslave")),
        (mount("bind", BindOptions={"ReadOnlyNonRecursive": True}), "BindOptions.ReadOnlyNonRecursive")],
    "binds of sockets": [({"Binds": [f"SPECIAL/{kind}:/m"]}, f"SPECIAL/{kind}")
                         for kind in ("socket", "pipe", "device")],
    "VolumeDriver": [({"VolumeDriver": "nfs"}, "HostConfig.VolumeDriver=nfs"),
                     (volume("nfs"), "VolumeOptions.DriverConfig.Name=nfs")],
    "volumes with type": [*((volume(type=kind, device="x", o="rw"), f"volume option type={kind}")
                            for kind in ("nfs", "cifs", "overlay", "ext4")),
                          (volume(type="none", device="/tmp", o="bind,uid=1"), "volume option o=uid=1"),
                          (volume(type="tmpfs", device="tmpfs", o="huge=always"), "volume option o=huge=always")],
    "Devices": [({"Devices": [{"PathOnHost": "/dev/sda"}]}, "HostConfig.Devices"),
                ({"DeviceCgroupRules": ["c 1:1 rwm"]}, "HostConfig.DeviceCgroupRules"),
                ({"DeviceRequests": [{"Count": -1}]}, "HostConfig.DeviceRequests")],
    "CpusetMems": [({"CpusetMems": "1"}, "HostConfig.CpusetMems=1")],
    "CpuRealtimePeriod": [({name: 1000}, f"HostConfig.{name}=1000")
                          for name in ("CpuRealtimePeriod", "CpuRealtimeRuntime")],
    "CpuCount": [*(({name: 7}, f"HostConfig.{name}=7")
                   for name in ("CpuCount", "CpuPercent", "IOMaximumIOps", "IOMaximumBandwidth")),
                 ({"Isolation": "hyperv"}, "HostConfig.Isolation=hyperv")],
    "MemorySwappiness": [({"MemorySwappiness": 10}, "HostConfig.MemorySwappiness=10")],
    "KernelMemory": [({name: 1 << 24}, f"HostConfig.{name}=") for name in ("KernelMemory", "KernelMemoryTCP")],
    "OomKillDisable": [({"OomKillDisable": True}, "HostConfig.OomKillDisable")],
    "BlkioWeight": [({name: value}, f"HostConfig.{name}") for name, value in _BLOCK.items()],
    "SecurityOpt": [({"SecurityOpt": [option]}, f"HostConfig.SecurityOpt {option.partition('{')[0]}")
                    for option in ("seccomp={}", "apparmor=mine", "label=type:mine")],
    "LogConfig": [({"LogConfig": {"Type": "syslog"}}, "HostConfig.LogConfig.Type=syslog"),
                  ({"LogConfig": {"Config": {"mode": "x"}}}, "HostConfig.LogConfig.Config.mode"),
                  ({"LogConfig": {"Type": "none", "Config": {"max-size": "1m"}}}, "LogConfig.Config.max-size")],
    "PortBindings": [({"PortBindings": {"80/sctp": [{}]}}, "HostConfig.PortBindings 80/sctp")],
    "Runtime": [({"Runtime": "runc"}, "HostConfig.Runtime=runc")],
    "Capabilities": [({"Capabilities": ["CHOWN"]}, "HostConfig.Capabilities")],
    "MacAddress": [({"MacAddress": "02:00:00:00:00:01"}, "MacAddress")],
    "build/prune": [({"min-free-space": 9}, "min-free-space")],
}
"""By the beginning of a row: fields of HostConfig (or of the whole, where they are such), and what the answer names."""
_OF_THE_WHOLE = ("NetworkingConfig", "MacAddress")


@pytest.fixture(scope="module")
def special(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A directory with files that no VM reaches."""
    directory = tmp_path_factory.mktemp("special")
    os.mkfifo(directory / "pipe")
    os.mknod(directory / "device", 0o20600, os.makedev(1, 3))
    os.mknod(directory / "socket", 0o140600)
    return str(directory)


def everything(api: Checked, daemon: Daemon) -> tuple[Any, Any, list[Path]]:
    """What a creation could leave behind."""
    containers = api.ask("GET", "/containers/json", query={"all": 1}).value
    volumes = api.ask("GET", "/volumes").value["Volumes"]
    return [one["Id"] for one in containers], [one["Name"] for one in volumes], sorted(daemon.state.glob("pods/*"))


@pytest.mark.parametrize("row", CASES)
def test_each_is_refused_by_its_name_and_nothing_is_made(shared_daemon: Daemon, special: str, row: str) -> None:
    api = Checked(shared_daemon.socket)
    before = everything(api, shared_daemon)
    for fields, words in CASES[row]:
        if row == "build/prune":
            answer = api.ask("POST", f"/{row}", query=fields)
        else:
            whole = {name: value for name, value in fields.items() if name in _OF_THE_WHOLE}
            host = {name: value for name, value in fields.items() if name not in _OF_THE_WHOLE}
            if row == "binds of sockets":
                host = {"Binds": [bind.replace("SPECIAL", special) for bind in host["Binds"]]}
            answer = api.ask("POST", "/containers/create", {"Image": BUSYBOX, "HostConfig": host, **whole})
        assert answer.status == 400, (fields, answer.raw)
        assert words.replace("SPECIAL", special) in answer.message, fields
    assert everything(api, shared_daemon) == before


@pytest.mark.parametrize(("fields", "words"), [
    ({"Driver": "overlay"}, "not a swarm manager"), ({"IPAM": {"Driver": "mine"}}, 'plugin "mine" not found'),
    ({"IPAM": {"Options": {"a": "b"}}}, "IPAM.Options"), ({"ConfigOnly": True}, "ConfigOnly"),
    ({"ConfigFrom": {"Network": "x"}}, 'configuration network "x" does not exist'), ({"Ingress": True}, "Ingress"),
    ({"Scope": "swarm"}, "swarm scoped"), ({"EnableIPv4": False}, "IPv4 or IPv6 must be enabled"),
    ({"EnableIPv4": False, "EnableIPv6": True}, "EnableIPv4=false"),
    ({"Options": {"com.docker.network.bridge.name": "br0"}}, "com.docker.network.bridge.name"),
    ({"Options": {"com.docker.network.bridge.gateway_mode_ipv4": "routed"}}, "gateway_mode_ipv4"),
    ({"IPAM": {"Config": [{"Subnet": "198.51.100.0/24"}]}}, "198.51.100.0/24"),
    ({"IPAM": {"Config": [{"Subnet": f"10.77.{number}.0/24"} for number in range(17)]}}, "17 subnets (give 1 to 16")])
def test_so_is_what_no_network_can_be(shared_daemon: Daemon, fields: dict[str, Any], words: str) -> None:
    api = Checked(shared_daemon.socket)
    answer = api.ask("POST", "/networks/create", {"Name": "refused", **fields})
    assert answer.status in (400, 403, 404), answer.raw
    assert words in answer.message
    assert api.ask("GET", "/networks/refused").status == 404


def test_every_row_has_a_case() -> None:
    rows = [statement.text for statement in statements("docker.md") if statement.section == SECTION]
    without = [row for row in rows if not any(row.startswith(beginning) for beginning in CASES)]
    stale = [beginning for beginning in CASES if not any(row.startswith(beginning) for row in rows)]
    assert (without, stale) == ([], []), (
        f'docs/docker.md, "{SECTION}": give each row a case in CASES, by its beginning, and take those of no row away')
