"""What is wrong with a Dockerfile, and where."""

from __future__ import annotations

from hyperstack.pod.errors import InvalidArgument

_SHOWN = 200


class DockerfileError(InvalidArgument):
    """The message names the line; in Docker's words where Docker has some."""

    def __init__(self, message: str, *, line: int = 0, hint: str | None = None) -> None:
        where = f"dockerfile parse error on line {line}: " if line else "dockerfile parse error: "
        super().__init__(where + shown(message, 1000), field="dockerfile", value=line, hint=hint)
        self.line = line
        self.reason = message


def shown(text: str, limit: int = _SHOWN) -> str:
    """At most so much of a stranger's text."""
    return text if len(text) <= limit else text[:limit - 3] + "..."
