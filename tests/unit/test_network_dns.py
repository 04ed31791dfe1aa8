"""Names on a network: who is called what, and what a guest's bytes are answered with."""

from __future__ import annotations

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from hyperstack.network.api import Binding, Network, Subnet
from hyperstack.network.bridge.naming import is_local
from hyperstack.network.dns.answers import MAX_DATAGRAM, MAX_QUESTION, TTL_S, Elsewhere, answer, truncated
from hyperstack.network.dns.directory import Directory
from tests.fuzz.test_dns_fuzz import question

NETWORK = Network(id="n", name="Front.1", project="alpha", subnets=(Subnet(cidr="10.1.0.0/16", gateway="10.1.0.1"),),
                  names=True)


def binding(number: int, *names: str, links: dict[str, str] | None = None) -> Binding:
    return Binding(pod_id=f"pod-{number}", network_id="n", mac="02:00:00:00:00:01",
                   address=f"10.1.{number >> 8}.{number & 255}/16", gateway="10.1.0.1", tap="t", bridge="b", dns=(),
                   mtu=1500, names=names, links=links or {})


WEB, DB, SPARE = binding(2, "web", "abcdef012345"), binding(3, "db", "data"), binding(4, "db2", "data")


@pytest.fixture
def directory() -> Directory:
    made = Directory(NETWORK)
    for one in (WEB, DB, SPARE):
        made.put(one)
    return made


def ask(directory: Directory, name: str, kind: str = "A", *, asker: Binding = WEB, limit: int = MAX_DATAGRAM
        ) -> dns.message.Message:
    found = answer(dns.message.make_query(name, kind).to_wire(), [(directory, asker)], limit=limit)
    assert isinstance(found, bytes)
    return dns.message.from_wire(found)


def addresses(response: dns.message.Message) -> list[str]:
    return sorted(str(item) for rrset in response.answer for item in rrset)


@pytest.mark.parametrize(("name", "found"), [
    ("web", ["10.1.0.2"]), ("WEB.", ["10.1.0.2"]), ("abcdef012345", ["10.1.0.2"]), ("db.front.1", ["10.1.0.3"]),
    ("data", ["10.1.0.3", "10.1.0.4"]), ("data.FRONT.1", ["10.1.0.3", "10.1.0.4"])])
def test_pods_are_found_by_every_name_in_any_case(directory: Directory, name: str, found: list[str]) -> None:
    response = ask(directory, name)
    assert addresses(response) == found
    assert response.flags & (dns.flags.QR | dns.flags.AA | dns.flags.RA)
    assert response.answer[0].ttl == TTL_S


def test_a_link_is_a_name_for_its_own_pod_alone(directory: Directory) -> None:
    linked = binding(9, "app", links={"database": "db", "db": "db2", "loop": "loop"})
    directory.put(linked)
    assert addresses(ask(directory, "database", asker=linked)) == ["10.1.0.3"]
    assert addresses(ask(directory, "db", asker=linked)) == ["10.1.0.4"]
    assert addresses(ask(directory, "db")) == ["10.1.0.3"]
    for name, asker in (("database", WEB), ("loop", linked)):
        asked = dns.message.make_query(name, "A").to_wire()
        assert isinstance(answer(asked, [(directory, asker)], limit=512), Elsewhere)


def test_a_pod_that_is_gone_or_renamed_is_not_found_any_more(directory: Directory) -> None:
    directory.remove(DB.pod_id)
    directory.remove(DB.pod_id)
    directory.put(binding(2, "front"))
    assert addresses(ask(directory, "data")) == ["10.1.0.4"]
    assert addresses(ask(directory, "front")) == ["10.1.0.2"]
    for name in ("db", "web", "front.other"):
        assert not directory.called(name, WEB)
    assert directory.asker("10.1.0.3") is None


def test_a_known_name_has_no_ipv6_address_and_is_not_asked_for_elsewhere(directory: Directory) -> None:
    for kind in ("AAAA", "MX", "SRV"):
        response = ask(directory, "web", kind)
        assert (response.rcode(), response.answer) == (dns.rcode.NOERROR, [])


def test_addresses_lead_back_to_names(directory: Directory) -> None:
    assert str(ask(directory, "3.0.1.10.in-addr.arpa", "PTR").answer[0][0]) == "db.front.1."
    assert ask(directory, "7.0.1.10.in-addr.arpa", "PTR").rcode() == dns.rcode.NXDOMAIN
    for name in ("9.9.9.9.in-addr.arpa", "x.in-addr.arpa", "in-addr.arpa", "1.ip6.arpa", "web"):
        asked = dns.message.make_query(name, "PTR").to_wire()
        assert isinstance(answer(asked, [(directory, WEB)], limit=512), Elsewhere)


def test_names_that_no_question_can_hold_are_left_out() -> None:
    made = Directory(NETWORK)
    made.put(binding(2, "a" * 64, "a..b", "", "b" * 63, "c." * 126 + "c", "d." * 127 + "d"))
    assert addresses(ask(made, "b" * 63)) == ["10.1.0.2"]
    assert addresses(ask(made, "c." * 126 + "c")) == ["10.1.0.2"]
    assert str(ask(made, "2.0.1.10.in-addr.arpa", "PTR").answer[0][0]) == "b" * 63 + ".front.1."


def test_an_answer_that_is_too_long_says_so_and_is_whole_over_tcp() -> None:
    made = Directory(NETWORK)
    for number in range(2, 202):
        made.put(binding(number, f"n{number}", "all"))
    cut, whole = ask(made, "all"), ask(made, "all", limit=65535)
    assert cut.flags & dns.flags.TC
    assert not cut.answer
    assert len(addresses(whole)) == 200
    order = {tuple(str(item) for item in ask(made, "all", limit=65535).answer[0]) for _ in range(4)}
    assert len(order) > 1


def test_what_is_no_question_is_refused_or_dropped(directory: Directory) -> None:
    def code(data: bytes) -> int:
        found = answer(data, [(directory, WEB)], limit=512)
        assert isinstance(found, bytes)
        return dns.message.from_wire(found).rcode()

    query = dns.message.make_query("web", "A")
    wire = query.to_wire()
    answer_flag = bytes([wire[2] | 0x80])
    for nothing in (b"", wire[:11], wire[:2] + answer_flag + wire[3:], wire + bytes(MAX_QUESTION)):
        assert answer(nothing, [(directory, WEB)], limit=512) is None
    assert code(wire[:2] + b"\x28\x00" + wire[4:]) == dns.rcode.NOTIMP  # an update
    assert code(wire[:4] + b"\x00\x00" + wire[6:]) == dns.rcode.FORMERR
    assert code(wire[:4] + b"\x00\x02" + wire[6:]) == dns.rcode.FORMERR
    assert code(wire[:12] + b"\xc0\x0c\x00\x01\x00\x01") == dns.rcode.FORMERR  # a name that is its own end
    assert code(dns.message.make_query("web", "A", rdclass="CH").to_wire()) == dns.rcode.REFUSED


HEADERS = st.tuples(st.binary(min_size=2, max_size=2), st.sampled_from([b"\x01\x00", b"\x00\x00", b"\x28\x00"]),
                    st.sampled_from([b"\x00\x01", b"\x00\x00", b"\x00\x02", b"\xff\xff"]),
                    st.binary(min_size=6, max_size=6)).map(b"".join)


@given(st.one_of(st.binary(max_size=600), st.builds(bytes.__add__, HEADERS, st.binary(max_size=300))))
@example(b"\0" * 12)
@example(b"ab\x01\0\0\x01\0\0\0\0\0\0" + b"\x3f" + b"\xff" * 63 + b"\0\0\x01\0\x01")
@example(b"ab\x01\0\0\x01\0\0\0\0\0\0" + b"\x01a" * 130 + b"\0\0\x01\0\x01")
def test_whatever_a_guest_sends_ends_in_an_answer_or_in_silence(data: bytes) -> None:
    question(data)


@given(st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=300), st.text(max_size=20))
def test_whatever_pods_are_called_the_directory_can_answer(name: str, alias: str) -> None:
    made = Directory(NETWORK)
    made.put(binding(2, name.lower(), alias.lower()))
    reverse = ask(made, "2.0.1.10.in-addr.arpa", "PTR")
    assert reverse.rcode() in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN)
    made.remove("pod-2")
    assert not made.called(name, WEB)


def test_anothers_answer_is_cut_to_what_the_asker_takes() -> None:
    query = dns.message.make_query("example.org", "A")
    assert truncated(b"x" * 512, query, limit=512) == b"x" * 512
    assert dns.message.from_wire(truncated(b"x" * 513, query, limit=512)).flags & dns.flags.TC


def test_the_hosts_own_addresses_are_told_from_others() -> None:
    assert is_local("127.0.0.1")
    assert is_local("127.0.0.53")
    assert not is_local("192.0.2.77")
