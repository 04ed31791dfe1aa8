"""Containers that share a namespace with another one, and so are in its pod.

Docker's rules: whom it shares with must be there when it is made and must run when it starts; what it shares lasts as
long as somebody has it, and removal of one leaves the others.
"""

from __future__ import annotations

from msgspec.structs import replace

from hyperstack.engine.lookup import find
from hyperstack.engine.records import ContainerRecord, PodRecord
from hyperstack.engine.store import Store
from hyperstack.pod.errors import Conflict, InvalidArgument, NotFound, UnsupportedOption
from hyperstack.pod.spec import ContainerSpec, Sharing
from hyperstack.pod.states import ContainerState

_LIVE = frozenset({ContainerState.RUNNING, ContainerState.PAUSED})


def resolve(store: Store, project: str, spec: ContainerSpec) -> tuple[ContainerSpec, PodRecord]:
    """The spec with ids for names, and the pod that it says it is in.

    :raise InvalidArgument: no such container. :raise UnsupportedOption: they are in several pods.
    :raise Conflict: one does not share.
    """
    sharing = spec.sharing
    found = {ref: _find(store, project, ref) for ref in sharing.donors}
    pods = {donor.pod_id for donor in found.values()}
    if len(pods) > 1:
        names = " and ".join(sorted(donor.name for donor in found.values()))
        raise UnsupportedOption(f"sharing with {names}", "they are in VMs of their own, and a container is in one",
                                hint="share network, PIDs and IPC with one container")
    pod = store.pods.get(pods.pop())
    assert pod is not None
    if sharing.ipc and not _shares_ipc(found[sharing.ipc], pod):
        raise Conflict(f"cannot join IPC of container {found[sharing.ipc].id}: non-shareable IPC (hint: use "
                       "IpcMode:shareable for the donor container)", field="IpcMode", value=sharing.ipc)
    ids = {ref: donor.id for ref, donor in found.items()} | {"": ""}
    network = ids[sharing.network or sharing.donors[0]]
    return replace(spec, sharing=replace(sharing, network=network, pid=ids[sharing.pid], ipc=ids[sharing.ipc])), pod


def _shares_ipc(donor: ContainerRecord, pod: PodRecord) -> bool:
    """The containers of a manifest's pod have it in common already."""
    return donor.spec.sharing.ipc_mode == "shareable" or not (pod.implicit or donor.joined)


def _find(store: Store, project: str, ref: str) -> ContainerRecord:
    try:
        return find(store.containers, "container", project, ref)
    except NotFound as error:
        # Not as what it is: Docker's client takes that for an image that is missing, and pulls.
        raise InvalidArgument(error.message, field="container", value=ref[:128]) from None


def check_donors(store: Store, sharing: Sharing) -> None:
    """Before a start. :raise NotFound: one was removed. :raise Conflict: one does not run."""
    for what, ident in (("PID namespace", sharing.pid), ("IPC", sharing.ipc), ("network", sharing.network)):
        if not ident:
            continue
        donor = store.containers.get(ident)
        if donor is None:
            raise NotFound("container", ident)
        if donor.state is ContainerState.RESTARTING:
            raise Conflict(f"Container {ident} is restarting, wait until the container is running", field="state",
                           value=donor.state)
        if donor.state not in _LIVE:
            raise Conflict(f"cannot join {what} of a non running container: {ident}", field="state", value=donor.state)
