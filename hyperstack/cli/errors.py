"""What hyperctl tells a user who asked for something that did not work.

    CliError
    ├── DaemonUnreachable   nobody answers on the socket
    ├── ApiError            hyperd answered with an error status
    └── TemplateError       a --format that does not parse or does not fit
"""

from __future__ import annotations

USAGE_EXIT = 125
"""Docker's exit code for a flag that is wrong, and for any failure of `run` that is not the container's."""


class CliError(Exception):
    """A message for a person, and the exit code of the process."""

    def __init__(self, message: str, *, exit_code: int = 1, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.exit_code = exit_code
        self.hint = hint


class DaemonUnreachable(CliError):
    """hyperd does not answer, or hung up in the middle of an answer."""


class ApiError(CliError):
    """An error status from hyperd, with its message."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"Error response from daemon: {message}")
        self.status = status
        self.detail = message


class TemplateError(CliError):
    """A template that cannot be parsed, or that asks for what the data does not have."""
