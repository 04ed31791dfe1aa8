"""What containers use, and what their pods cost the host."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from tests.harness import Daemon, wait_until
from tests.images import BUSYBOX

NATIVE = "http://hyperd/hyperstack/v1"
TWINS = f"""apiVersion: v1
kind: Pod
metadata: {{name: twins}}
spec:
  containers:
  - {{name: left, image: {BUSYBOX}, command: [sleep, "600"]}}
  - {{name: right, image: {BUSYBOX}, command: [sleep, "600"]}}
"""
_MIB = 1 << 20
_UNITS = {"KiB": 1 << 10, "MiB": _MIB, "GiB": 1 << 30}


def native(daemon: Daemon, path: str) -> Any:
    return json.loads(subprocess.run(["curl", "-sS", "--unix-socket", str(daemon.socket), NATIVE + path], check=True,
                                     capture_output=True).stdout)


def rollup(pid: int) -> int:
    """PSS in bytes, from the kernel itself."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("Pss:"))


def size(text: str) -> float:
    return next(float(text.removesuffix(unit)) * factor for unit, factor in _UNITS.items() if text.endswith(unit))


def host_memory(daemon: Daemon, *names: str) -> dict[str, float]:
    lines = daemon.text("stats", "--no-stream", "--format", "json", *names).splitlines()
    return {row["Name"]: size(row["HostMem"]) for row in map(json.loads, lines)}


def test_stats_tell_what_a_pod_takes_of_the_host(daemon: Daemon) -> None:
    daemon.ctl("run", "-d", "--name", "costly", "--tmpfs", "/fill", BUSYBOX, "sleep", "600")
    [pid] = [pid for pid, ident in daemon.vms().items() if ident == native(daemon, "/pods/costly/stats")["id"]]
    title, line = daemon.text("stats", "--no-stream", "costly").splitlines()
    assert title.endswith("PIDS      HOST MEM (PSS)")
    assert abs(size(line.split()[-1]) - rollup(pid)) < 16 * _MIB
    before = host_memory(daemon, "costly")["costly"]
    daemon.ctl("exec", "costly", "sh", "-c", "head -c 67108864 /dev/zero > /fill/x")
    after = host_memory(daemon, "costly")["costly"]
    assert after - before > 48 * _MIB, "what the guest has touched is the host's to pay"
    cost = native(daemon, "/pods/costly/stats")
    [container] = cost["containers"]
    assert container["name"] == "costly"
    assert container["memory_bytes"] > 64 * _MIB
    assert abs(cost["host"]["pss_bytes"] - rollup(pid)) < 16 * _MIB
    assert cost["host"]["cpu_ns"] > 0
    daemon.ctl("rm", "-f", "costly")
    assert "costly" not in [pod["name"] for pod in native(daemon, "/stats")]


def test_containers_of_one_pod_share_what_it_costs(daemon: Daemon) -> None:
    daemon.ctl("pod", "create", "-f", "-", stdin=TWINS.encode())
    [pod] = [pod for pod in native(daemon, "/stats") if pod["name"] == "twins"]
    left, right = host_memory(daemon, *pod["containers"]).values()
    assert left > 8 * _MIB
    assert left == right
    inside = native(daemon, "/pods/twins/stats")["containers"]
    assert [container["id"] for container in inside] == pod["containers"]
    daemon.ctl("pod", "rm", "-f", "twins")


def test_a_stream_of_stats_has_it_too_and_what_is_stopped_costs_nothing(daemon: Daemon) -> None:
    daemon.ctl("run", "-d", "--name", "watched", BUSYBOX, "sleep", "600")
    daemon.ctl("create", "--name", "idle", BUSYBOX, "true")
    stream = daemon.ctl_popen("stats", "-a", "--format", "{{.Name}}={{.HostMem}}")
    try:
        assert stream.stdout is not None
        seen = b""

        def shown() -> bool:
            nonlocal seen
            seen += stream.stdout.read(1024) if stream.stdout is not None else b""
            return b"watched=" in seen and b"MiB" in seen.split(b"watched=")[-1]

        wait_until(shown, "the stream shows it")
        assert b"idle=--" in seen or b"--=--" in seen
    finally:
        stream.terminate()
        stream.communicate(timeout=30)
    daemon.ctl("rm", "-f", "watched", "idle")


def test_dockers_own_stats_have_their_usual_shape(daemon: Daemon) -> None:
    daemon.ctl("run", "-d", "--name", "plain", BUSYBOX, "sleep", "600")
    with daemon.sdk() as client:
        sample = client.containers.get("plain").stats(stream=False)
    assert set(sample["memory_stats"]) == {"usage", "max_usage", "limit", "stats"}
    assert set(sample["memory_stats"]["stats"]) == {"file", "inactive_file", "host_memory"}
    assert "pss" not in json.dumps(sample)
    daemon.ctl("rm", "-f", "plain")
