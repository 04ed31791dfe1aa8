"""What a VM that runs already has for its containers."""

from __future__ import annotations

from collections.abc import Iterable

from hyperstack.engine import launch
from hyperstack.engine.lives import ALIVE
from hyperstack.engine.records import ContainerRecord, PodRecord
from hyperstack.pod.errors import InvalidArgument
from hyperstack.pod.spec import Resources

_RESTART = "stop the pod's containers and start them again: the machine is made large enough for all of them"


def check_room(pod: PodRecord, wanted: Resources, container: ContainerRecord, containers: Iterable[ContainerRecord]
               ) -> None:
    """Whether the container may have these limits beside those of the pod's that have a process.

    :raise InvalidArgument: the running VM is too small; says what there is.
    """
    room = launch.room_of(pod)
    used = sum(c.spec.resources.memory for c in containers if c.id != container.id and c.state in ALIVE)
    if wanted.memory and used + wanted.memory > room:
        beside = f", and others hold limits of {used >> 20} MiB" if used else ""
        raise InvalidArgument(f"The running machine has {room >> 20} MiB for containers{beside}: a limit of "
                              f"{wanted.memory >> 20} MiB does not fit", field="memory", value=wanted.memory,
                              hint=_RESTART)
    cpus = pod.vcpus or 1
    if wanted.nano_cpus > cpus * 10**9:
        raise InvalidArgument(f"Range of CPUs is from 0.01 to {cpus}.00, as the running machine has {cpus}",
                              field="NanoCpus", value=wanted.nano_cpus, hint=_RESTART)
