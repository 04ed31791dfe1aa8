"""What is wrong with a Dockerfile, and where."""

from __future__ import annotations

import json
from typing import Self

from hyperstack.pod.errors import InvalidArgument

_SHOWN = 200


class DockerfileError(InvalidArgument):
    """In Docker's words where Docker has some. What an instruction cannot be given is told with its line in front."""

    def __init__(self, message: str, *, line: int = 0, hint: str | None = None) -> None:
        super().__init__(self._before(line) + shown(message, 1000), field="dockerfile", value=line,
                         hint=self._hint(line, hint))
        self.line = line
        self.reason = message
        self.remedy = hint

    def at(self, line: int) -> Self:
        """The same error with its line, where it has none yet."""
        return self if self.line else type(self)(self.reason, line=line, hint=self.remedy)

    @staticmethod
    def _before(line: int) -> str:
        return f"dockerfile parse error on line {line}: " if line else "failed to parse Dockerfile: "

    @staticmethod
    def _hint(line: int, hint: str | None) -> str | None:
        return hint


class _LineBehind(DockerfileError):
    """Docker has no line for it; ours is in brackets."""

    @staticmethod
    def _hint(line: int, hint: str | None) -> str | None:
        return ": ".join(filter(None, (f"line {line}" if line else "", hint or ""))) or None


class SyntaxMistake(_LineBehind):
    """What is no text of an instruction, whatever the instruction."""

    @staticmethod
    def _before(line: int) -> str:
        return "failed to parse Dockerfile: "


class StageError(_LineBehind):
    """Of the whole, or of what is found out when an instruction is carried out."""

    @staticmethod
    def _before(line: int) -> str:
        return ""


def quoted(text: str) -> str:
    """As Go's %q writes it."""
    return json.dumps(shown(text), ensure_ascii=False)


def shown(text: str, limit: int = _SHOWN) -> str:
    """At most so much of a stranger's text."""
    return text if len(text) <= limit else text[:limit - 3] + "..."
