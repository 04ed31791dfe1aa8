"""The embedded identities: the host's own users. `LocalIdentity` is the way in."""

from hyperstack.identity.local.backend import LocalIdentity

__all__ = ["LocalIdentity"]
