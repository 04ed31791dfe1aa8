"""Who may use the daemon, by the host's real user database."""

from __future__ import annotations

import grp
import pwd
from collections.abc import Mapping

import pytest

from hyperstack.identity.api import Certificate, Peer, Principal
from hyperstack.identity.local import LocalIdentity
from hyperstack.pod.errors import Forbidden, InvalidArgument

DAEMON = pwd.getpwnam("daemon")
PRIMARY_GROUP = grp.getgrgid(DAEMON.pw_gid).gr_name
NOBODYS_UID = 3_999_999_999


def peer(uid: int | None, gid: int | None = None, headers: Mapping[str, str] | None = None) -> Peer:
    return Peer(uid=uid, gid=gid, headers=headers or {})


async def test_root_is_the_administrator_of_the_default_project() -> None:
    who = await LocalIdentity(group="no-such-group").identify(peer(0, 0))
    assert who == Principal(user="root", project="default", admin=True, uid=0)


async def test_a_member_of_the_group_is_a_user() -> None:
    identity = LocalIdentity(group=PRIMARY_GROUP)
    expected = Principal(user="daemon", project="default", admin=False, uid=DAEMON.pw_uid)
    assert await identity.identify(peer(DAEMON.pw_uid, DAEMON.pw_gid)) == expected
    # Some other group may be the effective one of the process.
    assert await identity.identify(peer(DAEMON.pw_uid, 54321)) == expected


async def test_a_uid_without_a_name_gets_in_by_its_gid() -> None:
    who = await LocalIdentity(group=PRIMARY_GROUP).identify(peer(NOBODYS_UID, DAEMON.pw_gid))
    assert (who.user, who.admin) == (f"uid {NOBODYS_UID}", False)


@pytest.mark.parametrize("group", ["bin", "no-such-group"])
async def test_others_are_told_what_to_do(group: str) -> None:
    for uid in (DAEMON.pw_uid, NOBODYS_UID):
        with pytest.raises(Forbidden) as caught:
            await LocalIdentity(group=group).identify(peer(uid, 54321))
        assert f"usermod -aG {group}" in (caught.value.hint or "")


async def test_a_caller_without_credentials_is_nobody() -> None:
    with pytest.raises(Forbidden, match="unix socket"):
        await LocalIdentity().identify(peer(None, headers={"X-HyperStack-Project": "default"}))


@pytest.mark.parametrize("header", ["X-HyperStack-Project", "x-hyperstack-project"])
async def test_root_may_act_for_another_project_and_others_may_not(header: str) -> None:
    identity = LocalIdentity(group=PRIMARY_GROUP)
    assert (await identity.identify(peer(0, headers={header: "beta"}))).project == "beta"
    with pytest.raises(Forbidden, match="daemon may not act for the project 'beta'"):
        await identity.identify(peer(DAEMON.pw_uid, headers={header: "beta"}))
    assert (await identity.identify(peer(DAEMON.pw_uid, headers={header: "default"}))).project == "default"


@pytest.mark.parametrize("name", ["../etc", "a b", "x" * 200, "-x", "ä"])
async def test_a_project_has_a_name(name: str) -> None:
    with pytest.raises(InvalidArgument, match="Invalid project name"):
        await LocalIdentity().identify(peer(0, headers={"X-HyperStack-Project": name}))


def certified(common_name: str, organization: str = "", unit: str = "", **headers: str) -> Peer:
    subject = Certificate(common_name=common_name, organization=organization, unit=unit)
    return Peer(uid=None, gid=None, headers=headers, certificate=subject)


async def test_a_certificate_s_subject_says_who_it_is() -> None:
    identity = LocalIdentity()
    assert await identity.identify(certified("ann")) == Principal(user="ann", project="default", admin=False)
    assert await identity.identify(certified("bob", "beta")) == Principal(user="bob", project="beta", admin=False)
    admin = await identity.identify(certified("eve", "beta", "administrator", **{"X-HyperStack-Project": "gamma"}))
    assert admin == Principal(user="eve", project="gamma", admin=True)


@pytest.mark.parametrize("wanted", ["default", "gamma"])
async def test_a_certificate_is_for_its_own_project_alone(wanted: str) -> None:
    with pytest.raises(Forbidden, match="may not act for the project"):
        await LocalIdentity().identify(certified("bob", "beta", **{"X-HyperStack-Project": wanted}))


async def test_a_certificate_without_a_name_or_with_a_strange_project_is_refused() -> None:
    with pytest.raises(Forbidden, match="no common name"):
        await LocalIdentity().identify(certified(""))
    with pytest.raises(InvalidArgument, match="Invalid project name"):
        await LocalIdentity().identify(certified("bob", "../etc"))


@pytest.mark.parametrize(("headers", "let_in"), [
    ({"Host": "localhost:2375"}, True), ({"Host": "127.0.0.1"}, True), ({"Host": "[::1]:2375"}, True),
    ({"Host": "evil.example:2375"}, False), ({"Host": ""}, False), ({}, False),
    ({"Host": "127.0.0.1", "Origin": "null"}, False), ({"Host": "localhost", "Sec-Fetch-Site": "none"}, False)])
async def test_over_plain_tcp_browsers_are_kept_out(headers: dict[str, str], let_in: bool) -> None:
    caller = Peer(uid=None, gid=None, headers=headers, loopback=True)
    if let_in:
        assert await LocalIdentity().identify(caller) == Principal(
            user="somebody on this host", project="default", admin=False)
    else:
        with pytest.raises(Forbidden, match="browser"):
            await LocalIdentity().identify(caller)
