"""Build arguments: what was given, what a Dockerfile declares, and what of it an instruction sees."""

from __future__ import annotations

from collections.abc import Mapping

from hyperstack.dockerfile.instructions import Arg

PREDEFINED = frozenset(name for upper in ("HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "NO_PROXY", "ALL_PROXY")
                       for name in (upper, upper.lower()))
"""Known to every RUN without a declaration, and left out of the cache's keys and of the history."""


class Arguments:
    """Of one build."""

    def __init__(self, given: Mapping[str, str | None], platform: str) -> None:
        """:param given: a name without a value is one that the client's environment had none for.
        :param platform: os/architecture[/variant] that is built for, and on."""
        self._given = {name: value for name, value in given.items() if value is not None}
        self._consumed: set[str] = set()
        self._meta: dict[str, str] = {}
        system, _, rest = platform.partition("/")
        architecture, _, variant = rest.partition("/")
        values = {"PLATFORM": platform, "OS": system, "ARCH": architecture, "VARIANT": variant}
        self._automatic = {side + name: value for side in ("TARGET", "BUILD") for name, value in values.items()}

    @property
    def of_from(self) -> dict[str, str]:
        """What FROM, and ARG before it, see."""
        return {**self._automatic, **self._meta}

    def declare_meta(self, arg: Arg) -> None:
        """An ARG before the first FROM, its variables replaced."""
        for name, default in arg.pairs:
            self._consumed.add(name)
            value = self._given.get(name, default)
            if value is not None:
                self._meta[name] = value

    def declare(self, arg: Arg, stage: dict[str, str]) -> None:
        """An ARG of a stage, into the stage's own arguments."""
        for name, default in arg.pairs:
            self._consumed.add(name)
            value = self._given.get(name, default)
            if value is None:
                value = self._meta.get(name, self._automatic.get(name))
            if value is not None:
                stage[name] = value

    def of_run(self, stage: Mapping[str, str]) -> dict[str, str]:
        """What a command of the stage gets in its environment."""
        return {**{name: value for name, value in self._given.items() if name in PREDEFINED}, **stage}

    @property
    def unused(self) -> list[str]:
        return sorted(set(self._given) - self._consumed - PREDEFINED)
