"""One hierarchy of errors, mapped once by each API.

    HyperStackError
    ├── InvalidArgument      the caller's words are wrong            (HTTP 400)
    │   └── UnsupportedOption   an option that cannot be honoured    (HTTP 400)
    ├── Unauthorized         credentials that a registry refuses     (HTTP 401)
    ├── Forbidden            this project may not do that            (HTTP 403)
    ├── NotFound             no such object                          (HTTP 404)
    ├── Conflict             a name taken, a state that forbids it   (HTTP 409)
    │   ├── IllegalTransition   names both states
    │   └── NameTaken
    ├── NotModified          already so                              (HTTP 304)
    ├── Unsupported          this backend lacks the ability          (HTTP 501)
    ├── Exhausted            disk, memory, addresses are used up     (HTTP 507)
    ├── TooManyRequests      a registry's limit, or one of ours      (HTTP 429)
    ├── Unavailable          a peer does not answer (yet)            (HTTP 503)
    │   ├── RegistryError    a registry hangs, lies or refuses
    │   └── GuestError       a guest that is silent, gone or garbled
    └── StartFailed          the process could not be started        (exit 126/127; HTTP 400)

Every error says what is wrong in one sentence; ``field`` and ``value`` name the culprit where there is one;
``hint`` says what to do next.
"""

from __future__ import annotations


class HyperStackError(Exception):
    """Base of all errors that reach a user."""

    def __init__(self, message: str, *, field: str | None = None, value: object = None,
                 hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.field = field
        self.value = value
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


class InvalidArgument(HyperStackError):
    """The request is malformed or out of range."""


class UnsupportedOption(InvalidArgument):
    """A well-formed option that a HyperVM cannot honour; never ignored silently."""

    def __init__(self, option: str, reason: str, *, hint: str | None = None) -> None:
        super().__init__(f"{option} is not supported: {reason}", field=option, hint=hint)


class Unauthorized(HyperStackError):
    """Credentials that somebody else does not take."""


class Forbidden(HyperStackError):
    """The caller's project or role does not allow it."""


_NOT_FOUND = {"network": "network {} not found", "volume": "get {}: no such volume",
              "path": "Could not find the file {}", "plugin": 'plugin "{}" not found',
              "endpoint": "endpoint {} not found", "configuration network": 'configuration network "{}" does not exist'}
"""Docker's sentences for kinds that it words in ways of their own."""


_SHOWN = 256
"""Characters of a name that is told back."""


class NotFound(HyperStackError):
    """No such object in the caller's project."""

    def __init__(self, kind: str, name: str, *, hint: str | None = None) -> None:
        sentence = _NOT_FOUND.get(kind, f"No such {kind}: {{}}")
        shown = name if len(name) <= _SHOWN else f"{name[:_SHOWN]}..."
        super().__init__(sentence.format(shown), field=kind, value=name, hint=hint)
        self.kind = kind


class Conflict(HyperStackError):
    """The object's state, or another object, forbids it."""


class NameTaken(Conflict):
    """Another object of the project has that name."""

    def __init__(self, kind: str, name: str, owner_id: str) -> None:
        super().__init__(
            f'Conflict. The {kind} name "/{name}" is already in use by {kind} "{owner_id}". '
            f"You have to remove (or rename) that {kind} to be able to reuse that name.", field="name", value=name)


class IllegalTransition(Conflict):
    """A state machine was asked for a step it does not have."""

    def __init__(self, kind: str, ident: str, current: str, wanted: str) -> None:
        super().__init__(f"{kind} {ident} is {current} and cannot become {wanted}", field="state", value=current)
        self.current = current
        self.wanted = wanted


class NotModified(HyperStackError):
    """The object is already in the state asked for."""


class Unsupported(HyperStackError):
    """A backend lacks an optional ability."""

    def __init__(self, what: str, backend: str) -> None:
        super().__init__(f"{backend} does not support {what}", field=what, value=backend)


class Exhausted(HyperStackError):
    """Disk space, memory, addresses or another finite thing is used up."""


class TooManyRequests(HyperStackError):
    """Somebody asks more often than he may."""


class Unavailable(HyperStackError):
    """A peer that is needed does not answer."""


class RegistryError(Unavailable):
    """A registry that is unreachable, refuses, hangs, or sends what does not verify."""


class GuestError(Unavailable):
    """A guest that is silent, gone, or speaks garbage."""


class StartFailed(HyperStackError):
    """A container's process could not be started.

    :param exit_code: 127 where the command was not found, 126 where it cannot be invoked, 128 otherwise.
    """

    def __init__(self, message: str, *, exit_code: int = 128, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.exit_code = exit_code
