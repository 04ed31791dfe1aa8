"""States and their legal transitions. The words are the ones that Docker and Kubernetes users read."""

from __future__ import annotations

import enum
from collections.abc import Mapping

from hyperstack.pod.errors import IllegalTransition


class SandboxState(enum.StrEnum):
    """A sandbox is the virtual machine of a pod; it can come and go while the pod and its disks stay."""

    ABSENT = "absent"        # no VM: never started, or stopped; disks may exist
    STARTING = "starting"    # resources are being made; a crash here is undone
    READY = "ready"          # the agent answers
    STOPPING = "stopping"    # being torn down; a crash here is finished
    FAILED = "failed"        # the VM died or never answered; `reason` says why; torn down like STOPPING


class ContainerState(enum.StrEnum):
    """Docker's container states."""

    CREATED = "created"
    STARTING = "starting"      # not shown to users: inspect says "created" or "exited" with no process yet
    RUNNING = "running"
    PAUSED = "paused"
    RESTARTING = "restarting"  # waits for its back-off
    EXITED = "exited"
    REMOVING = "removing"
    DEAD = "dead"              # removal failed half-way; only removal is left


_SANDBOX: Mapping[SandboxState, frozenset[SandboxState]] = {
    SandboxState.ABSENT: frozenset({SandboxState.STARTING}),
    SandboxState.STARTING: frozenset({SandboxState.READY, SandboxState.FAILED, SandboxState.STOPPING}),
    SandboxState.READY: frozenset({SandboxState.STOPPING, SandboxState.FAILED}),
    SandboxState.STOPPING: frozenset({SandboxState.ABSENT, SandboxState.FAILED}),
    SandboxState.FAILED: frozenset({SandboxState.ABSENT, SandboxState.STARTING, SandboxState.STOPPING}),
}

_C = ContainerState
_CONTAINER: Mapping[ContainerState, frozenset[ContainerState]] = {
    _C.CREATED: frozenset({_C.STARTING, _C.REMOVING}),
    _C.STARTING: frozenset({_C.RUNNING, _C.CREATED, _C.EXITED, _C.RESTARTING, _C.REMOVING}),
    _C.RUNNING: frozenset({_C.PAUSED, _C.EXITED, _C.RESTARTING, _C.REMOVING}),
    _C.PAUSED: frozenset({_C.RUNNING, _C.EXITED, _C.RESTARTING, _C.REMOVING}),
    _C.RESTARTING: frozenset({_C.STARTING, _C.EXITED, _C.REMOVING}),
    _C.EXITED: frozenset({_C.STARTING, _C.RESTARTING, _C.REMOVING}),
    _C.REMOVING: frozenset({_C.DEAD}),
    _C.DEAD: frozenset({_C.REMOVING}),
}


def check_sandbox(ident: str, current: SandboxState, wanted: SandboxState) -> SandboxState:
    """`wanted`, where the step is legal.

    :raise IllegalTransition: it is not; the error names both states.
    """
    if wanted not in _SANDBOX[current]:
        raise IllegalTransition("Sandbox", ident[:12], current, wanted)
    return wanted


def check_container(ident: str, current: ContainerState, wanted: ContainerState) -> ContainerState:
    """`wanted`, where the step is legal.

    :raise IllegalTransition: it is not; the error names both states.
    """
    if wanted not in _CONTAINER[current]:
        raise IllegalTransition("Container", ident[:12], current, wanted)
    return wanted
