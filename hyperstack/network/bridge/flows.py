"""UDP flows that the kernel's connection tracking remembers.

A flow is translated as its first packet was, for as long as its sender goes on. One that began before its port was
published, or while another pod had it, would never reach the pod that has it now; so what is remembered of a UDP port
is forgotten whenever the port changes hands; so is what is remembered of questions to resolvers that listen elsewhere
since the daemon's start. (TCP needs no such help: the next connection is another flow.)
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections.abc import Collection
from typing import Any

from pyroute2 import AsyncIPRoute, NetlinkError
from pyroute2.netlink.nfnetlink.nfctsocket import AsyncNFCTSocket, NFCTAttrTuple

from hyperstack.network.bridge.sysctls import has_ipv6

log = logging.getLogger(__name__)


def forget(numbers: Collection[int]) -> None:
    """The flows to these UDP ports of the host. Blocks. Failing is no error: such flows end once silent."""
    if not numbers:
        return
    try:
        with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
            runner.run(_forget(numbers))
    except (NetlinkError, OSError) as error:
        log.warning("UDP flows to ports %s may go to their former receiver: %s", sorted(numbers), error)


async def _forget(numbers: Collection[int]) -> None:
    for family in (socket.AF_INET, *([socket.AF_INET6] if has_ipv6() else [])):
        async with AsyncIPRoute() as netlink:
            local = {message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS")
                     async for message in await netlink.get_addr(family=family)}
        async with AsyncNFCTSocket(family) as tracking:
            for number in numbers:
                for flow in await _to_port(tracking, family, number):
                    if flow.daddr in local or flow.daddr.startswith("127."):
                        await _delete(tracking, flow)


async def _to_port(tracking: Any, family: int, number: int) -> list[Any]:
    """First directions of the flows to this port. The kernel filters (5.8 and newer), or everything is looked at."""
    messages = await tracking.dump(tuple_orig=NFCTAttrTuple(family=family, proto=socket.IPPROTO_UDP, dport=number))
    flows = [NFCTAttrTuple.from_netlink(family, message.get_attr("CTA_TUPLE_ORIG"))
             async for message in messages]
    return [flow for flow in flows if (flow.proto, flow.dport) == (socket.IPPROTO_UDP, number)]


async def _delete(tracking: Any, flow: Any) -> None:
    try:
        await tracking.entry("del", tuple_orig=flow)
    except NetlinkError as error:
        if error.code != errno.ENOENT:  # it ended meanwhile
            raise
