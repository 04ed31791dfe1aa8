"""Elements of our sets and maps, which come and go with every pod: as words of nft's language, and as netlink.

The rules are told by `nft` (see there); but a process costs 3 ms of a processor, and that would be every pod's to pay.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

from hyperstack.network.bridge.netlink import CREATE, Message, Netlink, attribute, nested, text
from hyperstack.pod.errors import Unavailable

Verb = Literal["add", "delete"]

# linux/netlink.h, linux/netfilter.h, linux/netfilter/nfnetlink.h, linux/netfilter/nf_tables.h
_NETLINK_NETFILTER = 12
_FAMILIES = {"ip": 2, "bridge": 7, "ip6": 10}
_BATCH_BEGIN, _BATCH_END = 0x10, 0x11
_NFTABLES = 10
_VERBS: dict[Verb, tuple[int, int]] = {"add": (_NFTABLES << 8 | 12, CREATE), "delete": (_NFTABLES << 8 | 14, 0)}
"""Message type and flags: NFT_MSG_NEWSETELEM and NFT_MSG_DELSETELEM. An element that is there may be added again."""
_LIST_TABLE, _LIST_SET, _LIST_ELEMENTS = 1, 2, 3
_LIST_ITEM, _ITEM_KEY, _ITEM_DATA, _DATA_VALUE = 1, 1, 2, 1

_PROTOCOLS = {"tcp": 6, "udp": 17, "sctp": 132}


class Element(NamedTuple):
    family: str
    set: str
    """Or map."""
    key: tuple[str, ...]
    value: tuple[str, ...] = ()
    """Of a map."""

    def __str__(self) -> str:
        """In nft's words."""
        return " . ".join(self.key) + (" : " + " . ".join(self.value) if self.value else "")


class Change(NamedTuple):
    verb: Verb
    elements: Sequence[Element]


class ElementsRefused(Unavailable):
    """The kernel refused a change: there is no such table, or no such element to delete."""


class ElementTable:
    """Changes to the sets and maps of one name's tables. All but its making belongs to one thread."""

    def __init__(self, table: str) -> None:
        self._table = table
        self._netlink: Netlink | None = None

    def open(self) -> None:
        self._netlink = Netlink(_NETLINK_NETFILTER)

    def close(self) -> None:
        if self._netlink is not None:
            self._netlink.close()
            self._netlink = None

    def apply(self, changes: Sequence[Change]) -> None:
        """All of it or nothing. :raise ElementsRefused: nothing."""
        subsystem = struct.pack(">BBH", 0, 0, _NFTABLES)
        messages = [self._message(change.verb, element) for change in changes for element in change.elements]
        if not messages:
            return
        if self._netlink is None:
            raise ElementsRefused("the filters have not been opened", field="nftables")
        try:
            self._netlink.tell(Message(_BATCH_BEGIN, subsystem, answered=False), *messages,
                               Message(_BATCH_END, subsystem, answered=False))
        except OSError as error:
            raise ElementsRefused(f"nftables refused an element: {error.strerror}", field="nftables") from error

    def _message(self, verb: Verb, element: Element) -> Message:
        kind, flags = _VERBS[verb]
        key, value = _FIELDS[element.set]
        item = nested(_ITEM_KEY, attribute(_DATA_VALUE, _concatenated(key, element.key)))
        if element.value:
            item += nested(_ITEM_DATA, attribute(_DATA_VALUE, _concatenated(value, element.value)))
        return Message(kind, struct.pack(">BBH", _FAMILIES[element.family], 0, 0) + text(_LIST_TABLE, self._table)
                       + text(_LIST_SET, element.set) + nested(_LIST_ELEMENTS, nested(_LIST_ITEM, item)), flags)


def _concatenated(fields: Sequence[Callable[[str], bytes]], words: Sequence[str]) -> bytes:
    """Each field fills whole words of 32 bits."""
    parts = [encode(word) for encode, word in zip(fields, words, strict=True)]
    return b"".join(part + bytes(-len(part) % 4) for part in parts)


def _device(name: str) -> bytes:
    return name.encode().ljust(16, b"\0")


def _mac(address: str) -> bytes:
    return bytes.fromhex(address.replace(":", ""))


def _protocol(name: str) -> bytes:
    return bytes((_PROTOCOLS[name],))


def _port(number: str) -> bytes:
    return int(number).to_bytes(2, "big")


def _address6(text: str) -> bytes:
    return socket.inet_pton(socket.AF_INET6, text)


def _hex(word: str) -> bytes:
    return bytes.fromhex(word.removeprefix("0x"))


_Fields = tuple[Callable[[str], bytes], ...]
_FIELDS: dict[str, tuple[_Fields, _Fields]] = {
    "bindings": ((_device, _mac, socket.inet_aton), ()),
    "bindings6": ((_device, _mac, _address6), ()),
    "targets6": ((_device, _mac, _hex), ()),
    "ports_any6": ((_protocol, _port), (_address6, _port)),
    "ports_at6": ((_address6, _protocol, _port), (_address6, _port)),
    "ports_any": ((_protocol, _port), (socket.inet_aton, _port)),
    "ports_at": ((socket.inet_aton, _protocol, _port), (socket.inet_aton, _port)),
}
"""How the words of key and value are encoded, as `ruleset` declares the sets' types."""
