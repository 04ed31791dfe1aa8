"""Who may use the daemon of one machine: root, and the members of one group, as with Docker; over TLS, whoever has a
certificate of the daemon's authority.

Who comes through the unix socket lands in the project `default`. Root is the administrator, who may act for another
project by naming it in the header `X-HyperStack-Project`; that is how one machine tries out several tenants.

A certificate's subject says the rest: its common name (CN) is the user, its organization (O) the project, `default`
where it has none, and the organizational unit (OU) `administrator` makes one.
"""

from __future__ import annotations

import asyncio
import grp
import ipaddress
import os
import pwd

from hyperstack.identity.api import Certificate, Peer, Principal
from hyperstack.pod.errors import Forbidden
from hyperstack.pod.ids import check_name
from hyperstack.pod.spec import DEFAULT_PROJECT

PROJECT_HEADER = "X-HyperStack-Project"
ADMINISTRATOR = "administrator"
"""The organizational unit of an administrator's certificate."""


class LocalIdentity:
    """`IdentityBackend` from a unix socket's peer, or from a TLS client's certificate.

    :param group: the host's group whose members may use the daemon; it need not exist.
    """

    name = "local"

    def __init__(self, *, group: str = "hyperstack") -> None:
        self._group = group

    async def identify(self, peer: Peer) -> Principal:
        """Looked up anew each time: a member who is put out of the group is out at their next connection.

        :raise Forbidden: nobody whom it can know, not a member, or names a project without being an administrator.
        :raise InvalidArgument: the project named is no name.
        """
        if peer.certificate is not None:
            return _certified(peer, peer.certificate)
        if peer.loopback:
            return _somebody_here(peer)
        if peer.uid is None:
            raise Forbidden("this daemon knows callers by their unix socket or their certificate only", field="user",
                            hint="connect to its unix socket, or with TLS")
        admin = peer.uid == 0
        # The user database may be a remote one (LDAP), so it must not hold up the event loop.
        user = "root" if admin else await asyncio.to_thread(self._member, peer.uid, peer.gid)
        return Principal(user=user, project=_project(peer, user, admin=admin), admin=admin, uid=peer.uid)

    def _member(self, uid: int, gid: int | None) -> str:
        """The member's user name. :raise Forbidden: this user is none."""
        try:
            name = pwd.getpwuid(uid).pw_name
        except KeyError:
            name = f"uid {uid}"
        try:
            group = grp.getgrnam(self._group)
        except KeyError:
            raise Forbidden(f"{name} may not use hyperd: the group {self._group} does not exist", field="user",
                            value=name, hint=f"as root: groupadd --system {self._group} && "
                                             f"usermod -aG {self._group} {name}, then log in again") from None
        # The socket's peer credentials hold the primary group only; the others are the database's.
        if gid == group.gr_gid or name in group.gr_mem or group.gr_gid in _groups_of(uid):
            return name
        raise Forbidden(f"{name} may not use hyperd: not a member of the group {self._group}", field="user", value=name,
                        hint=f"add yourself to it: sudo usermod -aG {self._group} {name}, then log in again")


def _groups_of(uid: int) -> list[int]:
    try:
        entry = pwd.getpwuid(uid)
    except KeyError:
        return []
    return os.getgrouplist(entry.pw_name, entry.pw_gid)


def _certified(peer: Peer, certificate: Certificate) -> Principal:
    user = certificate.common_name
    if not user:
        raise Forbidden("the client's certificate has no common name", field="certificate")
    admin = certificate.unit == ADMINISTRATOR
    own = check_name(certificate.organization, kind="project") if certificate.organization else DEFAULT_PROJECT
    return Principal(user=user, project=_project(peer, user, admin=admin, own=own), admin=admin)


def _somebody_here(peer: Peer) -> Principal:
    """The operator lets every process of the host in. A browser is one too, and does what strange pages say: it tells
    where a page is from, and calls us by the name that the page has for us."""
    headers = {name.lower(): value for name, value in peer.headers.items()}
    if "origin" in headers or "sec-fetch-site" in headers or not _names_this_host(headers.get("host", "")):
        raise Forbidden("pages in a browser may not use hyperd", field="Host", value=headers.get("host", "")[:64])
    user = "somebody on this host"
    return Principal(user=user, project=_project(peer, user, admin=False), admin=False)


def _names_this_host(host: str) -> bool:
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdecimal() and not host.endswith("]") else host
    try:
        return name == "localhost" or ipaddress.ip_address(name.strip("[]")).is_loopback
    except ValueError:
        return False


def _project(peer: Peer, user: str, *, admin: bool, own: str = DEFAULT_PROJECT) -> str:
    wanted = next((value for name, value in peer.headers.items() if name.lower() == PROJECT_HEADER.lower()), "")
    if not wanted or wanted == own:
        return own
    if not admin:
        raise Forbidden(f"{user} may not act for the project {wanted[:64]!r}", field=PROJECT_HEADER, value=wanted[:64],
                        hint=f"only an administrator may name a project; leave out {PROJECT_HEADER} to use your own")
    return check_name(wanted, kind="project")
