"""Pods of several containers, from a Kubernetes manifest."""

from __future__ import annotations

import json

from tests.harness import Daemon, wait_until
from tests.images import BUSYBOX

MANIFEST = f"""
apiVersion: v1
kind: Pod
metadata: {{name: duo, labels: {{app: test}}}}
spec:
  hostname: together
  restartPolicy: Never
  volumes: [{{name: scratch, emptyDir: {{}}}}]
  initContainers:
  - name: prepare
    image: {BUSYBOX}
    command: [sh, -c, "echo prepared >/scratch/state"]
    volumeMounts: [{{name: scratch, mountPath: /scratch}}]
  containers:
  - name: server
    image: {BUSYBOX}
    command: [sh, -c, "while :; do nc -l -p 8000 </scratch/state; done"]
    volumeMounts: [{{name: scratch, mountPath: /scratch}}]
  - name: client
    image: {BUSYBOX}
    command: [sh, -c, "until nc 127.0.0.1 8000 </dev/null; do sleep 0.2; done; hostname; sleep 600"]
    env: [{{name: WHO, value: client}}]
    resources: {{limits: {{memory: 64Mi, cpu: 500m}}}}
"""


def test_the_containers_of_a_pod_share_network_name_and_volumes(daemon: Daemon) -> None:
    daemon.ctl("pod", "create", "-f", "-", stdin=MANIFEST.encode())
    try:
        client = container_of(daemon, "client")
        wait_until(lambda: daemon.text("logs", client).split() == ["prepared", "together"],
                   "one container reached the other over the pod's loopback")
        assert len(daemon.vms()) == 1
        assert daemon.text("exec", client, "sh", "-c", "echo $WHO") == "client"
        # A PID namespace each: the other container's processes are not to be seen.
        assert "nc" not in daemon.text("exec", client, "ps").split()
        daemon.ctl("exec", client, "sh", "-c", "echo shared >/dev/shm/note")
        server = container_of(daemon, "server")
        assert daemon.text("exec", server, "cat", "/dev/shm/note") == "shared"
        # Docker's default: a port below 1024 needs no privilege, as the network is the pod's own.
        assert daemon.text("exec", "-u", "alice", server, "cat", "/proc/sys/net/ipv4/ip_unprivileged_port_start") == "0"
        assert "duo" in daemon.text("pod", "ls")
        daemon.ctl("pod", "stop", "-t", "1", "duo")
        assert daemon.vms() == {}
    finally:
        daemon.ctl("pod", "rm", "-f", "duo")
    assert daemon.text("ps", "-aq") == ""


def container_of(daemon: Daemon, name: str) -> str:
    lines = daemon.text("ps", "-a", "--no-trunc", "--format", "{{.ID}} {{.Names}}").splitlines()
    found = [line.split()[0] for line in lines if name in line.split()[1]]
    assert len(found) == 1, lines
    return found[0]


def test_processes_are_shared_where_the_pod_says_so(daemon: Daemon) -> None:
    watch = "until ps | grep -q 'sleep 61[1]'; do sleep 0.2; done; echo seen; sleep 600"
    manifest = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "shared"}, "spec": {
        "shareProcessNamespace": True, "restartPolicy": "Never", "containers": [
            {"name": "a", "image": BUSYBOX, "command": ["sleep", "611"]},
            {"name": "b", "image": BUSYBOX, "command": ["sh", "-c", watch]}]}}
    daemon.ctl("pod", "create", "-f", "-", stdin=json.dumps(manifest).encode())
    try:
        wait_until(lambda: daemon.text("logs", container_of(daemon, "b")) == "seen", "b sees a's process")
    finally:
        daemon.ctl("pod", "rm", "-f", "shared")


def test_an_unknown_or_unhonoured_field_is_refused_by_name_and_nothing_is_made(daemon: Daemon) -> None:
    for field, value in (("hostNetwork", True), ("contaners", []), ("hostPID", True)):
        manifest = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "bad"}, "spec": {
            field: value, "containers": [{"name": "a", "image": BUSYBOX}]}}
        done = daemon.ctl("pod", "create", "-f", "-", stdin=json.dumps(manifest).encode(), check=False)
        assert done.returncode != 0
        assert field.encode() in done.stderr
    assert daemon.text("pod", "ls", "-q") == ""
    assert daemon.text("ps", "-aq") == ""
