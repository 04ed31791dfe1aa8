"""Coverage-guided fuzzing of the resolver that guests ask, for a bounded time.

`python -m tests.fuzz.test_dns_fuzz TARGET [libFuzzer options] [corpus]` goes on for as long as one likes.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.fuzz.atheris_run import fuzz, run_target

SECONDS = 4
MAX_BYTES = 600
HEADER = b"ab\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00"


def question(data: bytes) -> None:
    """Whatever a guest sends ends in silence, or in an answer to it that a guest can read."""
    import dns.message

    from hyperstack.network.api import Binding, Network, Subnet
    from hyperstack.network.dns.answers import MAX_DATAGRAM, Elsewhere, answer, refusal
    from hyperstack.network.dns.directory import Directory

    network = Network(id="n", name="front", project="p", subnets=(Subnet(cidr="10.1.0.0/16", gateway="10.1.0.1"),),
                      names=True)
    asker = Binding(pod_id="p", network_id="n", mac="02:00:00:00:00:01", address="10.1.0.2/16", gateway="10.1.0.1",
                    tap="t", bridge="b", dns=(), mtu=1500, names=("web", "store.front"), links={"db": "web"})
    directory = Directory(network)
    directory.put(asker)
    found = answer(data, [(directory, asker)], limit=MAX_DATAGRAM)
    if isinstance(found, Elsewhere):
        found = refusal(found.question, dns.rcode.NXDOMAIN)
    if found is not None:
        assert found[:2] == data[:2]
        assert found[2] & 0x80
        assert len(found) <= MAX_DATAGRAM
        dns.message.from_wire(found)


def other_answer(data: bytes) -> None:
    """Whatever a server of the world sends is an answer to the question, or is not; and is cut or passed on."""
    import dns.message

    from hyperstack.network.dns.answers import MAX_DATAGRAM, truncated
    from hyperstack.network.dns.forwarder import is_answer

    asked = dns.message.make_query("example.org", "A", id=0x6162)
    if is_answer(data, asked, asked.to_wire()):
        assert data[:2] == b"ab"
    assert len(truncated(data, asked, limit=MAX_DATAGRAM)) <= MAX_DATAGRAM


TARGETS: dict[str, Callable[[bytes], None]] = {"question": question, "other_answer": other_answer}
SEEDS = (HEADER + b"\x03web\x00\x00\x01\x00\x01",
         HEADER + b"\x012\x010\x011\x0210\x07in-addr\x04arpa\x00\x00\x0c\x00\x01",
         HEADER + b"\xc0\x0c\x00\x01\x00\x01", b"ab\x81\x80" + HEADER[4:] + b"\x07example\x03org\x00\x00\x01\x00\x01")


@pytest.mark.parametrize("target", TARGETS)
def test_nothing_crashes_the_resolver(target: str, tmp_path: Path) -> None:
    run_target("tests.fuzz.test_dns_fuzz", target, SEEDS, tmp_path, seconds=SECONDS, max_len=MAX_BYTES,
               rss_limit_mb=1024)


if __name__ == "__main__":
    fuzz(TARGETS, "hyperstack.network.dns", ["dns.message", "hyperstack.network.dns.answers",
                                            "hyperstack.network.dns.forwarder"])
