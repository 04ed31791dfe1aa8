"""Restart policies: whether, and after how long."""

from __future__ import annotations

from hyperstack.pod.spec import RestartKind, RestartPolicy

_FIRST_NS = 100_000_000
_LONGEST_NS = 60 * 10**9
_LONG_RUN_NS = 10 * 10**9
"""A run of at least so long begins the back-off anew. All three are Docker's numbers."""


def wants_restart(policy: RestartPolicy, *, exit_code: int, restart_count: int, manually_stopped: bool) -> bool:
    """After an exit, by itself or by the machine's death."""
    if manually_stopped:
        return False
    match policy.kind:
        case RestartKind.ALWAYS | RestartKind.UNLESS_STOPPED:
            return True
        case RestartKind.ON_FAILURE:
            return exit_code != 0 and (policy.max_retries == 0 or restart_count < policy.max_retries)
        case RestartKind.NO:
            return False


def wants_start_at_boot(policy: RestartPolicy, *, manually_stopped: bool) -> bool:
    """When the daemon comes up and finds the container not running."""
    return policy.kind is RestartKind.ALWAYS or (policy.kind is RestartKind.UNLESS_STOPPED and not manually_stopped)


def backoff_ns(last_ns: int, *, ran_ns: int) -> int:
    """How long to wait before the next restart: 0.1 s, then twice as long each time, up to a minute.

    :param last_ns: the wait before the run that has ended; 0: there was none since a start by hand.
    """
    if not last_ns or ran_ns >= _LONG_RUN_NS:
        return _FIRST_NS
    return min(2 * last_ns, _LONGEST_NS)
