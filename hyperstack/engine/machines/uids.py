"""The uids that machines run under: never two machines with one."""

from __future__ import annotations

from hyperstack.engine.config import EngineConfig
from hyperstack.engine.store import Store
from hyperstack.pod.errors import Exhausted


class Uids:
    """A pod's stays its own as long as its record names it; one that is lent, until it is given back."""

    def __init__(self, store: Store, config: EngineConfig) -> None:
        self._store = store
        self._config = config
        self._lent: set[int] = set()

    def free(self) -> int:
        """One that nobody has. The caller stores it, or nobody knows of it.

        :raise Exhausted: there is none.
        """
        taken = {pod.vm_uid for pod in self._store.pods.all()} | self._lent
        for uid in range(self._config.uid_base, self._config.uid_base + self._config.uid_count):
            if uid not in taken:
                return uid
        raise Exhausted("No uid is left for one more VM", field="uid_count", value=self._config.uid_count,
                        hint="remove pods that are not needed any more")

    def lend(self) -> int:
        """For a machine that is no pod's. :raise Exhausted: see `free`."""
        uid = self.free()
        self._lent.add(uid)
        return uid

    def give_back(self, uid: int) -> None:
        """Its machine is gone, or its pod's record names it."""
        self._lent.discard(uid)
