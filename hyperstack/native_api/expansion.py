"""Kubernetes' $(NAME) in commands, arguments and values of variables."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from hyperstack.native_api.schema import EnvVar
from hyperstack.pod.errors import InvalidArgument

MAX_EXPANDED = 1024 * 1024
"""Characters of all results of one container together: variables that name each other twice grow without end, and
Linux takes no larger argument list by default than two megabytes."""

_REFERENCE = re.compile(r"\$(?:\$|\(([^()]*)\))")


class Expander:
    """Fills in the variables of one container. $$ is a dollar, and an unknown name stays as it is.

    :raise InvalidArgument: (every method) the results are longer than `MAX_EXPANDED`.
    """

    def __init__(self, env: Sequence[EnvVar], path: str) -> None:
        self._left = MAX_EXPANDED
        self.variables: dict[str, str] = {}
        """Each may name those before it; of two with one name the last counts."""
        for index, item in enumerate(env):
            self.variables[item.name] = self._expand(item.value, f"{path}[{index}].value")

    def expand(self, texts: Iterable[str], path: str) -> tuple[str, ...]:
        return tuple(self._expand(text, f"{path}[{index}]") for index, text in enumerate(texts))

    def _expand(self, text: str, path: str) -> str:
        parts, position = [], 0
        for found in _REFERENCE.finditer(text):
            value = "$" if found[1] is None else self.variables.get(found[1], found[0])
            parts += [text[position:found.start()], value]
            position = found.end()
            self._left -= len(value)
            if self._left < 0:
                raise InvalidArgument(f"{path}: more than {MAX_EXPANDED} characters with its variables filled in",
                                      field=path)
        return "".join([*parts, text[position:]])
