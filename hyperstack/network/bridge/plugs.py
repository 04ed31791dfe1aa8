"""How a pod's tap gets into its bridges. Everything here blocks.

A tap that has one binding is a port of that network's bridge itself. One that has several is in no bridge: each binding
has a branch on top of it, a macvlan in source mode, which takes the frames that come with the binding's MAC and no
others; the branches are the ports. So a pod joins and leaves networks while it runs, its machine has one NIC whatever
it is on, and what a guest must not do is decided on the host alone. A branch goes with its tap.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

from hyperstack.network.api import Binding
from hyperstack.network.bridge.links import Links

Isolated = Callable[[Binding], bool]
"""Whether the pods of the binding's network do not reach each other."""


def plug(links: Links, bindings: Sequence[Binding], uid: int, isolated: Isolated) -> int:
    """A new tap, joined; its descriptor."""
    fd = links.make_tap(bindings[0].tap, uid)
    try:
        join(links, bindings, isolated)
    except BaseException:
        os.close(fd)
        raise
    return fd


def plug_spare(links: Links, bindings: Sequence[Binding], name: str, isolated: Isolated) -> None:
    """A tap that there is, under another name."""
    links.rename(name, bindings[0].tap)
    join(links, bindings, isolated)


def rewire(links: Links, former: Sequence[Binding], bindings: Sequence[Binding], isolated: Isolated) -> None:
    """From these bindings of one tap to those."""
    stay = {(binding.port, binding.mac, binding.network_id) for binding in bindings}
    for binding in former:
        if (binding.port, binding.mac, binding.network_id) in stay:
            continue
        if binding.branch:
            links.delete(binding.branch)
        else:
            links.leave(binding.tap)
    if bindings:
        join(links, bindings, isolated)


def join(links: Links, bindings: Sequence[Binding], isolated: Isolated) -> None:
    """Idempotent. :raise Unavailable: a device is gone."""
    shared = [binding for binding in bindings if binding.branch]
    if shared:
        # A branch cannot have a larger MTU than what it is on.
        links.carry(shared[0].tap, mtu=max(binding.mtu for binding in shared))
    for binding in bindings:
        if binding.branch:
            links.ensure_branch(binding)
        links.join(binding, isolated=isolated(binding))
