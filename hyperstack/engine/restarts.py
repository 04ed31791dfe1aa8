"""Restart policies: whether, and after how long."""

from __future__ import annotations

from hyperstack.pod.spec import RestartKind, RestartPolicy

_FIRST_S = 0.1
_LONGEST_S = 60.0
_LONG_RUN_S = 10.0
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


def backoff_s(restart_count: int, *, ran_s: float) -> float:
    """Seconds to wait before the restart after `restart_count` earlier ones: 0.1, 0.2, 0.4 ... 60."""
    if ran_s >= _LONG_RUN_S:
        return _FIRST_S
    return float(min(_LONGEST_S, _FIRST_S * 2 ** min(restart_count, 16)))
