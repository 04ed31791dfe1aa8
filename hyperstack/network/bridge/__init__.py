"""The embedded network: Linux bridges, taps, and nftables, on one host. `BridgeNetwork` is the way in."""

from hyperstack.network.bridge.backend import BridgeNetwork

__all__ = ["BridgeNetwork"]
