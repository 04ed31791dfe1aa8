"""Attaching to a container: what `run`, `start -a` and `attach` have in common."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hyperstack.cli import session
from hyperstack.cli.client import Client, Response, quoted
from hyperstack.cli.errors import CliError, DaemonUnreachable

ALL_STREAMS = frozenset({"stdin", "stdout", "stderr"})


@dataclass(frozen=True, kw_only=True)
class Wiring:
    """What goes between this process and the container."""

    tty: bool
    detach_keys: bytes
    sig_proxy: bool = True
    streams: frozenset[str] = ALL_STREAMS


class Exit:
    """A container's exit, waited for from before it starts: the daemon registers the wait before it answers."""

    def __init__(self, client: Client, ident: str, *, condition: str) -> None:
        """:param condition: Docker's: next-exit, removed (gone, too), or not-running (which it may be already)."""
        self._response: Response = client.request("POST", f"/containers/{quoted(ident)}/wait",
                                                  query={"condition": condition})

    def code(self) -> int:
        """Wait. :raise CliError: the daemon could not tell, or went away."""
        answer: Any = self._response.json() or {}
        if failure := (answer.get("Error") or {}).get("Message"):
            raise CliError(f"Error response from daemon: {failure}")
        if "StatusCode" not in answer:
            raise DaemonUnreachable("Lost the connection to hyperd while waiting for the container",
                                    hint="It keeps running: hyperctl ps shows it, hyperctl attach goes on with it.")
        return int(answer["StatusCode"])


def attached_run(client: Client, ident: str, wiring: Wiring, *, until_removed: bool,
                 start: Callable[[], None]) -> int:
    """Attach, start, and carry bytes until the container ends or the user detaches. Returns the exit code.

    :raise ApiError: it could not be started.
    """
    attached = open_attached(client, ident, wiring)
    exited = Exit(client, ident, condition="removed" if until_removed else "next-exit")
    ended = session.run(attached, started=start)
    return 0 if ended is session.Ended.DETACHED else exited.code()


def open_attached(client: Client, ident: str, wiring: Wiring) -> session.Attached:
    """Open the container's streams."""
    path = f"/containers/{quoted(ident)}"
    stream = client.upgrade(f"{path}/attach", query={"stream": True, **dict.fromkeys(sorted(wiring.streams), True)})
    return session.Attached(
        stream=stream, tty=wiring.tty, stdin="stdin" in wiring.streams, stdout="stdout" in wiring.streams,
        stderr="stderr" in wiring.streams, detach_keys=wiring.detach_keys,
        resize=lambda rows, columns: client.post(f"{path}/resize", {"h": rows, "w": columns}),
        kill=(lambda name: client.post(f"{path}/kill", {"signal": name})) if wiring.sig_proxy else None)

