"""What the kernel is told, in one thread, which puts it in order.

A pod's start or end is told to nftables as a few elements; where it refuses (somebody flushed the rules) everything is
said again from memory.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from hyperstack.network.bridge import nft
from hyperstack.network.bridge.elements import Change, ElementsRefused, ElementTable
from hyperstack.network.bridge.netlink import Refused
from hyperstack.network.bridge.ruleset import Desired, Ruleset
from hyperstack.network.bridge.watch import DeletionWatch
from hyperstack.pod.errors import Unavailable

log = logging.getLogger(__name__)

_SETTLE_S = 0.05

T = TypeVar("T")


class Telling:
    """:param desired: the memory of what shall be in force."""

    def __init__(self, ruleset: Ruleset, table: str, desired: Callable[[], Desired]) -> None:
        self._ruleset = ruleset
        self._table = table
        self._desired = desired
        self._elements = ElementTable(table)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="hyperd-network")
        self._watch: DeletionWatch | None = None
        self._deleted = asyncio.Event()
        self._repairs: asyncio.Task[None] | None = None

    async def open(self) -> None:
        await self.filters(self._elements.open)

    def watch(self) -> None:
        """From now on, tables that somebody deletes come back."""
        self._watch = DeletionWatch(self._deleted.set)
        self._repairs = asyncio.create_task(self._restore())

    async def unwatch(self) -> None:
        """Idempotent."""
        if self._watch is not None:
            self._watch.close()
        if self._repairs is not None:
            self._repairs.cancel()
            await asyncio.gather(self._repairs, return_exceptions=True)

    async def close(self) -> None:
        await self.filters(self._elements.close)
        self._thread.shutdown()

    async def devices(self, work: Callable[[], T]) -> T:
        """:raise Unavailable: the kernel refuses a device."""
        try:
            return await self.filters(work)
        except Refused as error:
            raise Unavailable(f"the kernel refused a network device: {error.strerror}", field="device",
                              hint="hyperd needs CAP_NET_ADMIN, bridge and tun; see `hyperctl doctor`") from error

    async def filters(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    async def fenced(self, changes: Sequence[Change], plug: Callable[[], T]) -> T:
        """The fence, then the tap."""
        def work() -> T:
            self._elements.apply(changes)
            return plug()

        try:
            return await self.devices(work)
        except ElementsRefused as error:
            await self._say_again(error)
        return await self.devices(plug)

    async def change(self, *changes: Change) -> None:
        """Bring nftables to what is desired by these changes; where it refuses them, by saying everything."""
        await self._tell(lambda: self._elements.apply(changes))

    async def say(self, rules: str) -> None:
        """The same by a text."""
        await self._tell(lambda: nft.apply(rules))

    async def say_everything(self) -> None:
        """:raise Unavailable: nftables refuses even that."""
        everything = self._ruleset.whole(self._desired())
        await self.filters(lambda: nft.apply(everything))

    async def forget_flows(self, ports: Collection[int]) -> None:
        """Those to these UDP ports of the host."""
        if not ports:
            return
        # With it comes pyroute2, 10 MiB that a daemon without UDP ports does not need.
        from hyperstack.network.bridge import flows
        await self.devices(lambda: flows.forget(ports))

    async def _tell(self, change: Callable[[], None]) -> None:
        try:
            await self.filters(change)
        except Unavailable as error:
            await self._say_again(error)

    async def _say_again(self, error: Unavailable) -> None:
        log.warning("nftables lacks rules of ours, making them again: %s", error.message)
        await self.say_everything()

    async def _restore(self) -> None:
        """Where somebody flushed our tables, tenants are not fenced until they are back."""
        while True:
            await self._deleted.wait()
            # Our own replacements are told too, and a `flush ruleset` is told table by table: look after the last.
            await asyncio.sleep(_SETTLE_S)
            self._deleted.clear()
            try:
                present = await self.filters(nft.tables)
                desired = self._desired()
                if desired.networks and not self._ruleset.tables(desired) <= present:
                    log.warning("somebody deleted the nftables tables %s; making them again", self._table)
                    await self.say_everything()
            except Unavailable as error:
                log.error("nftables may lack our tables: %s", error)
