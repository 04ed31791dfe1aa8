"""What a daemon's records say there is, against what the host says there is."""

from __future__ import annotations

import json
import re
import sqlite3
from pathlib import Path
from typing import Any

from hyperstack.daemon.config import Config
from hyperstack.hypervisor.api import POOL_PREFIX, TRIAL_PREFIX
from hyperstack.network.bridge.names import Names
from tests.harness import Daemon, processes

_IDENT = re.compile(r"[0-9a-f]{64}")


def records(daemon: Daemon, kind: str) -> dict[str, dict[str, Any]]:
    """The stored documents of a kind (pod, container...) by id, read beside the running daemon."""
    connection = sqlite3.connect(f"file:{daemon.state}/engine.db?mode=ro", uri=True)
    try:
        return {ident: json.loads(doc) for ident, doc in connection.execute(f"SELECT id, doc FROM {kind}")}
    finally:
        connection.close()


def leaks(daemon: Daemon) -> list[str]:
    """Everything on the host that no record accounts for, and every record without its thing; empty when all is well.

    Only for a daemon at rest: while it works, records are ahead of the host by design.
    """
    pods, containers = records(daemon, "pod"), records(daemon, "container")
    running = {ident for ident, pod in pods.items() if pod.get("state") == "ready"}
    held = {pods[ident].get("machine_id") or ident for ident in running}
    return [*_machines(daemon, running), *_places(daemon, held), *_ready(daemon), *_taps(daemon, pods, running),
            *_bridges(daemon), *_files(daemon, set(pods), set(containers), held), *_mounts(daemon, held),
            *_orphans(daemon)]


def _machines(daemon: Daemon, running: set[str]) -> list[str]:
    owners = list(daemon.vms().values())
    return [*(f"VM of pod {ident[:12]}, which is not running" for ident in set(owners) - running),
            *(f"no VM of running pod {ident[:12]}" for ident in running - set(owners)),
            *(f"{owners.count(ident)} VMs of pod {ident[:12]}" for ident in running if owners.count(ident) > 1)]


def _places(daemon: Daemon, held: set[str]) -> list[str]:
    """Cgroups and directories of machines."""
    standing = {path.name for path in daemon.cgroups() if _stands(daemon, path)}
    directories = [path for path in (daemon.run_dir / "machines").glob("*") if _is_machine(path.name)]
    return [f"{path} of no machine" for path in (*daemon.cgroups(), *directories)
            if _is_machine(path.name) and path.name not in held | standing]


def _is_machine(name: str) -> bool:
    return bool(_IDENT.fullmatch(name)) or name.startswith((TRIAL_PREFIX, POOL_PREFIX))


def _stands(daemon: Daemon, cgroup: Path) -> bool:
    """Whether it is that of a machine which the present daemon keeps for others to be forked from, or for a pod to
    take."""
    if not cgroup.name.startswith((TRIAL_PREFIX, POOL_PREFIX)):
        return False
    try:
        pids = (cgroup / "cgroup.procs").read_text().split()
    except OSError:  # Its machine ended just now.
        return False
    return len(pids) == 1 and daemon.process is not None and _parent(int(pids[0])) == daemon.process.pid


def _ready(daemon: Daemon) -> list[str]:
    """Those that stand ready, against what the daemon says it has."""
    there = len(daemon.ready())
    known = json.loads(daemon.text("info", "--format", "{{json .HyperStack.pool.ready}}")) if there else 0
    return [f"{there} machines stand ready where {known} are known"] if there != known else []


def _taps(daemon: Daemon, pods: dict[str, dict[str, Any]], running: set[str]) -> list[str]:
    wanted = {pods[ident]["binding"]["tap"] for ident in running if pods[ident].get("binding")}
    # Other daemons may share the namespace, so only ours.
    names = Names(Config(run_dir=str(daemon.run_dir)).instance)
    spares = {names.tap(path.name) for path in daemon.cgroups()
              if path.name.startswith(POOL_PREFIX) and _stands(daemon, path)}
    found = {name for name in daemon.namespace.links() if name.startswith(names.tap_prefix)} - spares
    return [*(f"tap {name}" for name in found - wanted), *(f"no tap {name}" for name in wanted - found)]


def _bridges(daemon: Daemon) -> list[str]:
    names = Names(Config(run_dir=str(daemon.run_dir)).instance)
    known = {names.bridge(ident) for ident in records(daemon, "network")}
    half = [f"network {ident[:12]} half removed" for ident, network in records(daemon, "network").items()
            if network.get("removing")]
    return half + [f"bridge {name} of no network" for name in daemon.namespace.links()
                   if name.startswith(names.bridge_prefix) and name not in known]


def _files(daemon: Daemon, pods: set[str], containers: set[str], held: set[str]) -> list[str]:
    kept = daemon.state / "pods"
    found = [f"directory {path} of no pod" for path in kept.glob("*") if path.name not in pods]
    for path in kept.glob("*/*"):
        if path.name.partition(".")[0] not in containers:
            found.append(f"file {path} of no container")
    for path in daemon.run_dir.rglob("*"):
        named = _IDENT.search(path.name)
        if named and named[0] not in held:
            found.append(f"{path} of no machine")
    return found


def _mounts(daemon: Daemon, held: set[str]) -> list[str]:
    return [f"mount {path}" for path in daemon.mounts() if not any(ident in path for ident in held)]


def _orphans(daemon: Daemon) -> list[str]:
    """Helpers (a layer's conversion, say) that outlived the daemon that started them."""
    ours = {daemon.process.pid} if daemon.process is not None else set()
    return [f"process {pid}: {argv[:120]}" for pid, argv in processes()
            if str(daemon.state) in argv and pid not in ours and _parent(pid) not in ours]


def _parent(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return int(file.read().rpartition(")")[2].split()[1])
    except FileNotFoundError:
        return 0
