"""Who is called what on one network, by the bindings that are plugged there."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from hyperstack.network.api import Binding, Network

MAX_LABEL, MAX_NAME = 63, 253
"""Characters; RFC 1035, 2.3.4. What is longer cannot be asked for."""


class Directory:
    """Names of a network, without regard to case; each may be the name of several pods."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self._suffix = f".{network.name.lower()}"
        self._bindings: dict[str, Binding] = {}
        self._addresses6: dict[str, str] = {}
        """IPv6 address -> the same pod's other address."""
        self._pods: dict[str, str] = {}
        self._names: dict[str, list[str]] = {}

    def put(self, binding: Binding) -> None:
        """Add a pod, or what it goes by now."""
        self.remove(binding.pod_id)
        address = _plain(binding.address)
        self._bindings[address] = binding
        self._pods[binding.pod_id] = address
        if binding.address6:
            self._addresses6[_plain(binding.address6)] = address
        for name in askable(binding.names):
            self._names.setdefault(name, []).append(address)

    def remove(self, pod_id: str) -> None:
        """Idempotent."""
        address = self._pods.pop(pod_id, None)
        if address is None:
            return
        gone = self._bindings.pop(address)
        self._addresses6.pop(_plain(gone.address6), None)
        for name in askable(gone.names):
            left = [other for other in self._names[name] if other != address]
            if left:
                self._names[name] = left
            else:
                del self._names[name]

    def asker(self, address: str) -> Binding | None:
        """Who has this address."""
        return self._bindings.get(address)

    def called(self, name: str, asker: Binding) -> list[Binding]:
        """Those who are called `name`, or `name.NETWORK`; the asker's own links come first. Empty: nobody is."""
        name = name.lower().removesuffix(".")
        for candidate in (name, name.removesuffix(self._suffix)):
            found = self._names.get(asker.links.get(candidate, candidate))
            if found:
                return [self._bindings[address] for address in found]
        return []

    def name_of(self, address: str) -> str:
        """`name.NETWORK`; empty where nobody has the address, or nothing that can be said in DNS."""
        binding = self._bindings.get(self._addresses6.get(address, address))
        full = (f"{name}{self._suffix}" for name in binding.names) if binding is not None else ()
        return next(askable(full), "")


def askable(names: Iterable[str]) -> Iterator[str]:
    """Those that fit into a question, each once."""
    return iter(dict.fromkeys(name for name in names if name.isascii() and 0 < len(name) <= MAX_NAME
                              and all(0 < len(label) <= MAX_LABEL for label in name.split("."))))


def _plain(address: str) -> str:
    """Without prefix length."""
    return address.partition("/")[0]
