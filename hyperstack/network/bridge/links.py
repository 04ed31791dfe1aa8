"""Bridges and taps, over netlink and /dev/net/tun. Everything here blocks (well under a millisecond a call)."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import socket
import struct
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from hyperstack.network.api import Binding, Network
from hyperstack.network.bridge.addressing import bridge_mac
from hyperstack.network.bridge.netlink import (
    CREATE,
    EXCLUSIVE,
    REPLACE,
    Message,
    Netlink,
    Refused,
    attribute,
    nested,
    text,
    u8,
    u16,
    u32,
)
from hyperstack.network.bridge.sysctls import set_sysctl
from hyperstack.pod.errors import Exhausted, Unavailable

log = logging.getLogger(__name__)

# linux/if_tun.h
_TUNSETIFF = 0x400454CA
_TUNSETOWNER = 0x400454CC
_TUNSETGROUP = 0x400454CE
_IFF_TAP = 0x0002
_IFF_NO_PI = 0x1000
_IFF_VNET_HDR = 0x4000

# linux/rtnetlink.h, linux/if_link.h, linux/if_bridge.h, linux/if_addr.h, linux/neighbour.h, linux/if.h
_NETLINK_ROUTE = 0
_NEW_LINK, _DELETE_LINK, _SET_LINK, _NEW_ADDRESS, _NEW_NEIGHBOUR = 16, 17, 19, 20, 28
_LINK_ADDRESS, _LINK_NAME, _LINK_MTU, _LINK_BELOW, _LINK_MASTER = 1, 3, 4, 5, 10
_LINK_PORT, _LINK_INFO, _LINK_ALIAS = 12, 18, 20
_INFO_KIND, _INFO_DATA = 1, 2
_BRIDGE_MCAST_SNOOPING = 23
_MACVLAN_MODE, _MACVLAN_FLAGS, _MACVLAN_MACADDR_MODE, _MACVLAN_MACADDR = 1, 2, 3, 4
_MACVLAN_SOURCE, _MACVLAN_NODST, _MACVLAN_MACADDR_ADD = 16, 2, 0
_PORT_HAIRPIN, _PORT_LEARNING, _PORT_UNICAST_FLOOD, _PORT_MCAST_FLOOD, _PORT_ISOLATED = 4, 8, 9, 27, 33
_ADDRESS_ADDRESS, _ADDRESS_LOCAL = 1, 2
_NEIGHBOUR_ADDRESS = 2
_NEW_ROUTE = 24
_ROUTE_TO, _ROUTE_DEVICE, _ROUTE_METRIC = 1, 4, 6
_TABLE_LOCAL, _BY_DAEMON, _LOCAL = 255, 4, 2
_METRIC = 4096
_NO_DAD = 0x02
_NTF_MASTER = 0x04
_NUD_NOARP = 0x40
_UP, _NO_ARP = 0x01, 0x80


class Links:
    """The host's devices, as far as they are ours. To be used by one thread; `close` included."""

    def __init__(self) -> None:
        self._netlink = Netlink(_NETLINK_ROUTE)

    def close(self) -> None:
        self._netlink.close()

    def index(self, name: str) -> int | None:
        try:
            return socket.if_nametoindex(name)
        except OSError:
            return None

    def names(self) -> list[str]:
        """Of all devices of the host."""
        return [name for _, name in socket.if_nameindex()]

    def delete(self, name: str) -> bool:
        """Whether there was something to delete."""
        index = self.index(name)
        if index is None:
            return False
        with _tolerate(errno.ENODEV):
            self._netlink.tell(Message(_DELETE_LINK, _link(index)))
        return True

    def ensure_bridge(self, name: str, network: Network) -> None:
        """The bridge, up, with the gateways' addresses. Idempotent: completes a half-made one."""
        if self.index(name) is None:
            with _tolerate(errno.EEXIST):
                # With a MAC set, the bridge keeps it; else it would change to the lowest of its ports', and pods'
                # ARP entries of their gateway would go stale.
                alias = f"hyperstack network {network.name} of {network.project}"[:255]
                info = nested(_LINK_INFO, text(_INFO_KIND, "bridge"),
                              nested(_INFO_DATA, u8(_BRIDGE_MCAST_SNOOPING, 0)))
                self._netlink.tell(Message(
                    _NEW_LINK, _link(0) + text(_LINK_NAME, name) + text(_LINK_ALIAS, alias) + info
                    + attribute(_LINK_ADDRESS, _octets(bridge_mac(network))), CREATE | EXCLUSIVE))
        index = socket.if_nametoindex(name)
        if network.subnets6:
            # Nobody there tells the host of routes, and no address is another's.
            for option in ("accept_ra", "accept_redirects", "accept_dad", "dad_transmits", "disable_ipv6"):
                set_sysctl(f"ipv6/conf/{name}/{option}", "0")
        else:
            self._quieten(name)
        # A host process that connects to 127.0.0.1:port is sent to a pod out of this device.
        set_sysctl(f"ipv4/conf/{name}/route_localnet", "1")
        # The host answers ARP here for these addresses only, and does not tell its others.
        set_sysctl(f"ipv4/conf/{name}/arp_ignore", "1")
        set_sysctl(f"ipv4/conf/{name}/arp_announce", "2")
        for subnet in network.subnets:
            with _tolerate(errno.EEXIST):
                gateway = IPv4Address(subnet.gateway).packed
                head = struct.pack("=BBBBI", socket.AF_INET, IPv4Network(subnet.cidr).prefixlen, 0, 0, index)
                self._netlink.tell(Message(_NEW_ADDRESS, head + attribute(_ADDRESS_LOCAL, gateway)
                                           + attribute(_ADDRESS_ADDRESS, gateway), CREATE | EXCLUSIVE))
        for subnet in network.subnets6:
            with _tolerate(errno.EEXIST):
                head = struct.pack("=BBBBI", socket.AF_INET6, IPv6Network(subnet.cidr).prefixlen, _NO_DAD, 0, index)
                self._netlink.tell(Message(_NEW_ADDRESS, head + attribute(
                    _ADDRESS_ADDRESS, IPv6Address(subnet.gateway).packed), CREATE | EXCLUSIVE))
        self._netlink.tell(Message(_NEW_LINK, _link(index, on=_UP) + u32(_LINK_MTU, network.mtu)))
        if network.subnets6 and not network.internal:
            self._accept_loopback6(index)

    def _accept_loopback6(self, index: int) -> None:
        """What comes in by this bridge for ::1 is the host's; the kernel lets a packet to a loopback address take a
        route by the device alone that it came in by. The host itself goes there by `lo`, whose metric is 0."""
        route = struct.pack("=BBBBBBBBI", socket.AF_INET6, 128, 0, 0, _TABLE_LOCAL, _BY_DAEMON, 0, _LOCAL, 0)
        route += attribute(_ROUTE_TO, IPv6Address("::1").packed) + u32(_ROUTE_DEVICE, index)
        with _tolerate(errno.EEXIST):
            # Of two routes with one metric there can be only one.
            self._netlink.tell(Message(_NEW_ROUTE, route + u32(_ROUTE_METRIC, _METRIC + index), CREATE | EXCLUSIVE))

    def make_tap(self, name: str, uid: int) -> int:
        """A tap that lives as long as its descriptor, which is returned (close-on-exec).

        :raise Unavailable: no /dev/net/tun, or the kernel refuses.
        """
        try:
            fd = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            raise Unavailable("this host has no /dev/net/tun", field="tun",
                              hint="load the module: modprobe tun") from None
        try:
            request = struct.pack("16sH22x", name.encode(), _IFF_TAP | _IFF_NO_PI | _IFF_VNET_HDR)
            try:
                fcntl.ioctl(fd, _TUNSETIFF, request)
            except OSError as error:
                if error.errno != errno.EBUSY:
                    raise
                # A dying machine still holds the pod's former tap; the name is ours.
                self.delete(name)
                fcntl.ioctl(fd, _TUNSETIFF, request)
            # Without an owner any process could attach to the device by its name.
            fcntl.ioctl(fd, _TUNSETOWNER, uid)
            fcntl.ioctl(fd, _TUNSETGROUP, uid)
        except OSError as error:
            os.close(fd)
            if error.errno in (errno.ENFILE, errno.ENOMEM, errno.ENOBUFS):
                raise Exhausted(f"no further tap can be made: {error.strerror}", field="tap", value=name) from error
            raise Unavailable(f"the tap {name} cannot be made: {error.strerror}", field="tap", value=name,
                              hint="hyperd needs CAP_NET_ADMIN and the tun module") from error
        return fd

    def rename(self, name: str, new: str) -> None:
        """Of a device that is down. :raise Unavailable: it is gone."""
        index = self.index(name)
        if index is None:
            raise Unavailable(f"network device {name} is gone", field="device", value=name)
        # A dying machine may still hold the pod's former tap; the name is ours.
        self.delete(new)
        self._netlink.tell(Message(_NEW_LINK, _link(index) + text(_LINK_NAME, new)))

    def leave(self, name: str) -> None:
        """Out of its bridge. Idempotent."""
        index = self.index(name)
        if index is not None:
            self._netlink.tell(Message(_NEW_LINK, _link(index) + u32(_LINK_MASTER, 0)))

    def carry(self, tap: str, *, mtu: int) -> None:
        """Make the tap one that branches are on: up, quiet, and in no bridge. Idempotent.

        :raise Unavailable: it is gone.
        """
        index = self._require(tap)
        self._quieten(tap)
        self._netlink.tell(Message(_NEW_LINK, _link(index, on=_UP | _NO_ARP) + u32(_LINK_MASTER, 0)
                                   + u32(_LINK_MTU, mtu)))

    def ensure_branch(self, binding: Binding) -> None:
        """A device that takes the frames that come from the tap with the binding's MAC. Idempotent.

        :raise Unavailable: the tap is gone, or the host has no macvlan.
        """
        if self.index(binding.branch) is not None:
            return
        source = nested(_INFO_DATA, u32(_MACVLAN_MODE, _MACVLAN_SOURCE), u16(_MACVLAN_FLAGS, _MACVLAN_NODST),
                        u32(_MACVLAN_MACADDR_MODE, _MACVLAN_MACADDR_ADD),
                        attribute(_MACVLAN_MACADDR, _octets(binding.mac)))
        message = Message(_NEW_LINK, _link(0) + text(_LINK_NAME, binding.branch)
                          + u32(_LINK_BELOW, self._require(binding.tap))
                          + nested(_LINK_INFO, text(_INFO_KIND, "macvlan"), source), CREATE | EXCLUSIVE)
        try:
            self._netlink.tell(message)
        except Refused as error:
            if error.errno != errno.EOPNOTSUPP:
                raise
            raise Unavailable("this host cannot have a pod on several networks: it has no macvlan", field="macvlan",
                              hint="load the module: modprobe macvlan") from error

    def _require(self, name: str) -> int:
        index = self.index(name)
        if index is None:
            raise Unavailable(f"network device {name} is gone", field="device", value=name)
        return index

    def join(self, binding: Binding, *, isolated: bool = False) -> None:
        """Put the binding's port into its bridge. Idempotent.

        :param isolated: the bridge passes nothing from this port to another isolated one.

        The bridge is told where the MAC is and learns nothing from the port: a guest can send control frames that
        nftables' prerouting hook never sees, and must not move a neighbour's MAC to itself with them.

        :raise Unavailable: the bridge is gone.
        """
        own, bridge = self._require(binding.port), self._require(binding.bridge)
        self._quieten(binding.port)
        # Hairpin: where bridge-nf-call-iptables is on (Docker's and Kubernetes' hosts), a pod that connects to a port
        # which it publishes itself is translated within the bridge, and must be sent back out of the port it came by.
        manner = nested(_LINK_PORT, u8(_PORT_HAIRPIN, 1), u8(_PORT_LEARNING, 0), u8(_PORT_UNICAST_FLOOD, 0),
                        # Neighbours of IPv6 are asked for by multicast.
                        u8(_PORT_MCAST_FLOOD, int(bool(binding.address6))), u8(_PORT_ISOLATED, int(isolated)))
        neighbour = struct.pack("=BxxxiHBB", socket.AF_BRIDGE, own, _NUD_NOARP, _NTF_MASTER, 0)
        self._netlink.tell(
            Message(_NEW_LINK, _link(own) + u32(_LINK_MASTER, bridge) + u32(_LINK_MTU, binding.mtu)),
            Message(_SET_LINK, _link(own, family=socket.AF_BRIDGE) + manner),
            Message(_NEW_NEIGHBOUR, neighbour + attribute(_NEIGHBOUR_ADDRESS, _octets(binding.mac)), CREATE | REPLACE),
            # No ARP on the port itself: control frames reach the host's stack there, and could fill its neighbour
            # table.
            Message(_NEW_LINK, _link(own, on=_UP | _NO_ARP)))

    def _quieten(self, name: str) -> None:
        """No IPv6 on this device: no link-local address, no router solicitations, no way around the fence."""
        set_sysctl(f"ipv6/conf/{name}/disable_ipv6", "1")


@contextlib.contextmanager
def _tolerate(code: int) -> Iterator[None]:
    try:
        yield
    except Refused as error:
        if error.errno != code:
            raise


def _link(index: int, *, family: int = 0, on: int = 0) -> bytes:
    """struct ifinfomsg. :param on: flags to switch on; the others stay as they are."""
    return struct.pack("=BxHiII", family, 0, index, on, on)


def _octets(mac: str) -> bytes:
    return bytes.fromhex(mac.replace(":", ""))
