"""Questions that the host's pods cannot answer, passed on to name servers of the world."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import socket
import struct
from collections.abc import Sequence

import dns.exception
import dns.message

PORT = 53
PATIENCE_S = 3.0
"""For one server; a guest's own resolver asks again after five seconds."""
_IDENT = struct.Struct("!H")
_MAX_DATAGRAM = 65535


async def ask(question: dns.message.Message, data: bytes, servers: Sequence[str], *, stream: bool,
              port: int = PORT) -> bytes | None:
    """The first server's answer to `data`, which holds `question`, with the asker's id; None where nobody answers.

    :param stream: over TCP.
    """
    exchange = _over_tcp if stream else _over_udp
    for server in servers:
        # An id and a port of our own: whoever wants to forge an answer has to guess both.
        ident = secrets.token_bytes(_IDENT.size)
        with contextlib.suppress(OSError, TimeoutError, asyncio.IncompleteReadError):
            async with asyncio.timeout(PATIENCE_S):
                found = await exchange(question, ident + data[_IDENT.size:], server, port)
            return data[:_IDENT.size] + found[_IDENT.size:]
    return None


async def _over_udp(question: dns.message.Message, data: bytes, server: str, port: int) -> bytes:
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as client:
        client.connect((server, port))
        await loop.sock_sendall(client, data)
        while True:
            found = await loop.sock_recv(client, _MAX_DATAGRAM)
            if is_answer(found, question, data):
                return found


async def _over_tcp(question: dns.message.Message, data: bytes, server: str, port: int) -> bytes:
    reader, writer = await asyncio.open_connection(server, port, family=socket.AF_INET)
    try:
        writer.write(_IDENT.pack(len(data)) + data)
        (length,) = _IDENT.unpack(await reader.readexactly(_IDENT.size))
        found = await reader.readexactly(length)
    finally:
        writer.close()
    if not is_answer(found, question, data):
        raise OSError(f"{server} answered another question")
    return found


def is_answer(found: bytes, question: dns.message.Message, data: bytes) -> bool:
    """Whether this is an answer to that question."""
    if found[:_IDENT.size] != data[:_IDENT.size] or len(found) < 12 or not found[2] & 0x80:
        return False
    try:
        repeated = dns.message.from_wire(found, question_only=True, ignore_trailing=True).question
    except dns.exception.DNSException:
        return False
    return not repeated or repeated == question.question
