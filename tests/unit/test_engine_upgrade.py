"""What the first version wrote, every later one reads: pods outlive the daemon that started them."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from hyperstack.engine.store import Store
from hyperstack.network.api import Subnet
from hyperstack.pod.spec import MountKind, RestartKind
from hyperstack.pod.states import ContainerState, SandboxState

POD, CONTAINER = "a" * 64, "b" * 64

# Never edit: these are rows on the disks of users. Where a record changes its shape, a migration turns these into it.
VERSION_1 = f"""
CREATE TABLE pod (id TEXT PRIMARY KEY, project TEXT NOT NULL, name TEXT NOT NULL, doc BLOB NOT NULL,
                  UNIQUE (project, name));
CREATE TABLE container (id TEXT PRIMARY KEY, project TEXT NOT NULL, name TEXT NOT NULL, doc BLOB NOT NULL,
                        UNIQUE (project, name));
CREATE TABLE exec (id TEXT PRIMARY KEY, project TEXT NOT NULL, name TEXT NOT NULL, doc BLOB NOT NULL);
CREATE TABLE network (id TEXT PRIMARY KEY, project TEXT NOT NULL, name TEXT NOT NULL, doc BLOB NOT NULL,
                      UNIQUE (project, name));
CREATE TABLE volume (id TEXT PRIMARY KEY, project TEXT NOT NULL, name TEXT NOT NULL, doc BLOB NOT NULL,
                     UNIQUE (project, name));
CREATE TABLE event (seq INTEGER PRIMARY KEY AUTOINCREMENT, time_ns INTEGER NOT NULL, doc BLOB NOT NULL);
PRAGMA user_version = 1;
INSERT INTO pod VALUES ('{POD}', 'default', 'web', CAST('{{"id":"{POD}","name":"web","project":"default",
  "spec":{{"name":"web","ports":[{{"container_port":80,"host_port":8080}}],"sysctls":{{"net.core.somaxconn":"9"}}}},
  "implicit":true,"created_at":5,"state":"ready","vm_uid":1879048192,"agent_key":"AAECAwQFBgcICQoLDA0ODw==",
  "memory_mib":512,"vcpus":1,"kernel":"debian-6.1.0-1-cloud-amd64","kernel_release":"6.1.0-1-cloud-amd64",
  "binding":{{"pod_id":"{POD}","network_id":"n","mac":"02:48:0a:d4:00:02","address":"10.212.0.2/24",
  "gateway":"10.212.0.1","tap":"ht0","bridge":"hs0","dns":["9.9.9.9"],"mtu":1500}},
  "ports":[{{"pod_id":"{POD}","container_port":80,"protocol":"tcp","host_ip":"","host_port":8080,
  "address":"10.212.0.2"}}],"started_at":6}}' AS BLOB));
INSERT INTO container VALUES ('{CONTAINER}', 'default', 'web', CAST('{{"id":"{CONTAINER}","pod_id":"{POD}",
  "project":"default","name":"web","spec":{{"image":"busybox","name":"web","command":["sh"],
  "mounts":[{{"kind":"volume","target":"/data","source":"v"}}],"restart":{{"kind":"on-failure","max_retries":3}}}},
  "image_id":"sha256:0","image_config":{{"env":["A=1"]}},"created_at":5,"state":"running","handle":1,"pid":80,
  "started_at":6}}' AS BLOB));
INSERT INTO exec VALUES ('e', 'default', 'e', CAST('{{"id":"e","container_id":"{CONTAINER}","project":"default",
  "request":{{"argv":["true"],"tty":true}},"created_at":7,"handle":2,"running":true}}' AS BLOB));
INSERT INTO network VALUES ('n', 'default', 'bridge', CAST('{{"id":"n","name":"bridge","project":"default",
  "subnet":"10.212.0.0/24","gateway":"10.212.0.1","created_at":4}}' AS BLOB));
INSERT INTO volume VALUES ('v', 'default', 'v', CAST('{{"id":"v","name":"v","project":"default","driver":"local",
  "created_at":4,"size":1048576}}' AS BLOB));
INSERT INTO event (time_ns, doc) VALUES (9, CAST('{{"kind":"container","action":"start","ident":"{CONTAINER}",
  "attributes":{{"name":"web"}},"time_ns":9,"project":"default"}}' AS BLOB));
"""


def test_the_first_versions_records_are_read(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "engine.db") as connection:
        connection.executescript(VERSION_1)
    connection.close()
    store = Store(tmp_path / "engine.db")
    pod, container, execution = store.pods.get(POD), store.containers.get(CONTAINER), store.execs.get("e")
    assert pod is not None
    assert container is not None
    assert execution is not None
    assert (pod.state, pod.vm_uid, pod.agent_key) == (SandboxState.READY, 1879048192, bytes(range(16)))
    assert pod.binding is not None
    assert (pod.binding.tap, pod.ports[0].host_port, pod.spec.ports[0].container_port) == ("ht0", 8080, 80)
    assert (container.state, container.handle, container.spec.command) == (ContainerState.RUNNING, 1, ("sh",))
    assert (container.spec.mounts[0].kind, container.spec.restart.kind) == (MountKind.VOLUME, RestartKind.ON_FAILURE)
    assert (execution.request.argv, execution.request.tty, execution.running) == (("true",), True, True)
    network, volume = store.networks.named("default", "bridge"), store.volumes.named("default", "v")
    assert network is not None
    assert volume is not None
    assert (volume.size, volume.pending) == (1048576, False)
    assert network.subnets == (Subnet(cidr="10.212.0.0/24", gateway="10.212.0.1"),)
    assert (network.builtin, network.internal) == (True, False)
    assert [event.action for event in store.events_since(1)] == ["start"]
