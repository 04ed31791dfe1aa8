"""Names of what one daemon makes on its host, so that it and nobody else finds it again.

Device names have 15 characters (IFNAMSIZ less the terminating zero). Four of them are a tag of the daemon's instance:
two daemons on one host never take one another's devices for leftovers, and one nftables wildcard covers all taps.
"""

from __future__ import annotations

import hashlib


class Names:
    """Device and table names of one instance."""

    def __init__(self, instance: str) -> None:
        tag = _digest(instance, 4)
        self.bridge_prefix = f"hs{tag}"
        self.tap_prefix = f"ht{tag}"
        self.table = f"hyperstack-{instance}"

    def bridge(self, network_id: str) -> str:
        return self.bridge_prefix + _digest(network_id, 9)

    def tap(self, pod_id: str) -> str:
        return self.tap_prefix + _digest(pod_id, 9)

    def branch(self, pod_id: str, network_id: str) -> str:
        """Of a pod's tap; one prefix with the taps, since the same rules hold for what comes from it."""
        return self.tap_prefix + _digest(f"{pod_id}/{network_id}", 9)

    def is_ours(self, device: str) -> bool:
        return device.startswith((self.bridge_prefix, self.tap_prefix))


def _digest(text: str, digits: int) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:digits]
