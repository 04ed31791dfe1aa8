"""From a question's bytes to an answer's, or to the finding that others must be asked. No I/O.

The bytes come from guests: whatever they are, they cost a bounded time and end in an answer, a refusal, or silence.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import ip_address, ip_interface, ip_network

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.rcode
import dns.rdata
import dns.rdataclass
import dns.rdatatype
import dns.reversename
import dns.rrset

from hyperstack.network.api import Binding
from hyperstack.network.dns.directory import Directory

MAX_QUESTION = 4096
"""Bytes; a question with all extensions that are in use has a few hundred."""
MAX_DATAGRAM = 512
"""Bytes of an answer over UDP, RFC 1035, 4.2.1; longer ones are asked for again over TCP."""
MAX_STREAM = 65535
TTL_S = 10
"""For how long others may remember: a name may be another pod's soon."""

_HEADER = struct.Struct("!HHHHHH")
_ANSWER, _OPCODE = 0x8000, 0x7800


@dataclass(frozen=True)
class Elsewhere:
    """This host's pods do not know: the question for a name server of the world."""

    question: dns.message.Message


Place = tuple[Directory, Binding]
"""A pod on a network: who is called what there, and what the pod has there."""


def answer(data: bytes, places: Sequence[Place], *, limit: int) -> bytes | Elsewhere | None:
    """What to send back; None: nothing.

    :param places: of the pod that asks, on all its networks; a name is looked for in their order.
    :param limit: bytes of the answer; a longer one says that it is cut off.
    """
    if not _HEADER.size <= len(data) <= MAX_QUESTION:
        return None
    ident, flags, questions, *_ = _HEADER.unpack_from(data)
    if flags & _ANSWER:
        return None  # else two resolvers could be made to answer each other for ever
    if flags & _OPCODE:
        return _bare(ident, flags, dns.rcode.NOTIMP)
    try:
        question = dns.message.from_wire(data, question_only=True, ignore_trailing=True)
    except dns.exception.DNSException:
        return _bare(ident, flags, dns.rcode.FORMERR)
    if questions != 1 or len(question.question) != 1:
        return _bare(ident, flags, dns.rcode.FORMERR)
    asked = question.question[0]
    if asked.rdclass != dns.rdataclass.IN:
        return refusal(question, dns.rcode.REFUSED)
    if asked.rdtype == dns.rdatatype.PTR:
        return _reverse(question, asked.name, [directory for directory, _ in places])
    name = asked.name.to_text(omit_final_dot=True)
    called = next(filter(None, (directory.called(name, binding) for directory, binding in places)), [])
    if not called:
        return Elsewhere(question)
    found = _response(question)
    for kind, addresses in ((dns.rdatatype.A, [binding.address for binding in called]),
                            (dns.rdatatype.AAAA, [binding.address6 for binding in called if binding.address6])):
        if asked.rdtype in (kind, dns.rdatatype.ANY) and addresses:
            # In a new order each time: clients take the first, and so share the pods of one name among them.
            found.answer.append(_records(asked.name, kind, [
                ip_interface(address).ip.packed for address in random.sample(addresses, len(addresses))]))
    return _wire(found, limit)


def refusal(question: dns.message.Message, code: dns.rcode.Rcode) -> bytes:
    """An answer without one."""
    response = _response(question, authoritative=False)
    response.set_rcode(code)
    return response.to_wire()


def truncated(data: bytes, question: dns.message.Message, *, limit: int) -> bytes:
    """Another server's answer, cut where the asker takes no more."""
    if len(data) <= limit:
        return data
    response = _response(question, authoritative=False)
    response.flags |= dns.flags.TC
    return response.to_wire()


def _reverse(question: dns.message.Message, name: dns.name.Name, directories: Sequence[Directory]
             ) -> bytes | Elsewhere:
    try:
        address = ip_address(dns.reversename.to_address(name))
    except (dns.exception.DNSException, ValueError):
        return Elsewhere(question)
    called = next(filter(None, (directory.name_of(str(address)) for directory in directories)), "")
    if called:
        response = _response(question)
        target = dns.name.Name((*called.encode().split(b"."), b""))
        response.answer.append(_records(name, dns.rdatatype.PTR, [target.to_wire() or b""]))
        return response.to_wire()
    networks = [directory.network for directory in directories]
    if any(address in ip_network(subnet.cidr) for network in networks for subnet in (*network.subnets,
                                                                                     *network.subnets6)):
        return refusal(question, dns.rcode.NXDOMAIN)
    return Elsewhere(question)


def _response(question: dns.message.Message, *, authoritative: bool = True) -> dns.message.Message:
    response = dns.message.make_response(question, recursion_available=True)
    if authoritative:
        response.flags |= dns.flags.AA
    return response


def _records(name: dns.name.Name, kind: dns.rdatatype.RdataType, data: list[bytes]) -> dns.rrset.RRset:
    return dns.rrset.from_rdata_list(name, TTL_S, [
        dns.rdata.from_wire(dns.rdataclass.IN, kind, item, 0, len(item)) for item in data])


def _wire(response: dns.message.Message, limit: int) -> bytes:
    try:
        return response.to_wire(max_size=limit)
    except dns.exception.TooBig:
        response.answer.clear()
        response.flags |= dns.flags.TC
        return response.to_wire()


def _bare(ident: int, flags: int, code: dns.rcode.Rcode) -> bytes:
    """For a question that cannot be repeated in its answer."""
    return _HEADER.pack(ident, _ANSWER | flags & (_OPCODE | dns.flags.RD) | code, 0, 0, 0, 0)
