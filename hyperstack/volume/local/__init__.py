"""The embedded volumes: one sparse ext4 disk file each. `LocalVolumes` is the way in."""

from hyperstack.volume.local.backend import LocalVolumes

__all__ = ["LocalVolumes"]
