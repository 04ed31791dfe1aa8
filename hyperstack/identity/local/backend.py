"""Who may use the daemon of one machine: root, and the members of one group, as with Docker.

Everybody lands in the project `default`. Root is the administrator, who may act for another project by naming it in the
header `X-HyperStack-Project`; that is how one machine tries out several tenants.
"""

from __future__ import annotations

import asyncio
import grp
import os
import pwd

from hyperstack.identity.api import Peer, Principal
from hyperstack.pod.errors import Forbidden
from hyperstack.pod.ids import check_name
from hyperstack.pod.spec import DEFAULT_PROJECT

PROJECT_HEADER = "X-HyperStack-Project"


class LocalIdentity:
    """`IdentityBackend` from a unix socket's peer.

    :param group: the host's group whose members may use the daemon; it need not exist.
    """

    name = "local"

    def __init__(self, *, group: str = "hyperstack") -> None:
        self._group = group

    async def identify(self, peer: Peer) -> Principal:
        """Looked up anew each time: a member who is put out of the group is out at their next connection.

        :raise Forbidden: not a unix peer, not a member, or names a project without being root.
        :raise InvalidArgument: the project named is no name.
        """
        if peer.uid is None:
            raise Forbidden("this daemon knows callers by their unix socket only", field="user",
                            hint="connect to its unix socket")
        admin = peer.uid == 0
        # The user database may be a remote one (LDAP), so it must not hold up the event loop.
        user = "root" if admin else await asyncio.to_thread(self._member, peer.uid, peer.gid)
        return Principal(user=user, project=_project(peer, user, admin=admin), admin=admin)

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


def _project(peer: Peer, user: str, *, admin: bool) -> str:
    wanted = next((value for name, value in peer.headers.items() if name.lower() == PROJECT_HEADER.lower()), "")
    if not wanted or wanted == DEFAULT_PROJECT:
        return DEFAULT_PROJECT
    if not admin:
        raise Forbidden(f"{user} may not act for the project {wanted[:64]!r}", field=PROJECT_HEADER, value=wanted[:64],
                        hint=f"only root may name a project; leave out {PROJECT_HEADER} to use your own")
    return check_name(wanted, kind="project")
