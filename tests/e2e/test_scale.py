"""Fifty pods at once on a small host."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.faults.inventory import leaks
from tests.harness import Daemon, wait_until
from tests.images import BUSYBOX

PODS = 50
MAX_RSS = 120 << 20
"""Bytes that the daemon may hold."""


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_fifty_pods_run_at_once_and_all_answer(make_daemon: Callable[..., Daemon]) -> None:
    daemon = make_daemon("--log-level", "info")
    daemon.start()
    daemon.ctl("pull", BUSYBOX)
    names = [f"pod-{number}" for number in range(PODS)]
    with daemon.sdk() as client, ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda name: client.containers.run(BUSYBOX, ["sleep", "7200"], name=name, detach=True), names))
        found = client.containers.list(all=True)
        assert {one.name: one.attrs["State"] for one in found if one.status != "running"} == {}
        assert len(daemon.vms()) == PODS
        answers = list(pool.map(lambda name: client.containers.get(name).exec_run(["hostname"]).output, names))
    assert len(set(answers)) == PODS
    assert b"" not in answers
    assert daemon.rss_bytes() < MAX_RSS
    daemon.kill()
    daemon.start()
    assert len(daemon.vms()) == PODS
    assert daemon.text("exec", names[-1], "echo", "still here") == "still here"
    assert daemon.rss_bytes() < MAX_RSS
    daemon.ctl("rm", "-f", *names, timeout=600)
    wait_until(lambda: not leaks(daemon), "nothing is leaked")
