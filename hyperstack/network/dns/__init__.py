"""Names on a network: a directory of who is called what, and the resolver that pods ask. `Resolver` is the way in."""

from hyperstack.network.dns.directory import Directory
from hyperstack.network.dns.resolver import Resolver

__all__ = ["Directory", "Resolver"]
