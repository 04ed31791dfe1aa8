"""Guest kernels that do not come up: the pod fails in time, with the console's last lines."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from tests.e2e.kernels import cache_with_a_kernel, own_cache
from tests.faults.inventory import leaks
from tests.harness import Daemon, wait_until
from tests.images import BUSYBOX


def test_a_kernel_that_panics_is_told_with_its_last_words(make_daemon: Callable[..., Daemon]) -> None:
    daemon = make_daemon()
    cache = cache_with_a_kernel(daemon.directory, "broken", "rdinit=/nowhere init=/nowhere")
    daemon.options = ("--cache-dir", str(cache))
    daemon.start()
    daemon.ctl("pull", BUSYBOX)
    assert "broken" in daemon.text("kernel", "ls")
    done = daemon.ctl("run", "--rm", "--kernel", "broken", BUSYBOX, "true", check=False)
    assert done.returncode == 125
    assert b"Kernel panic" in done.stderr
    assert daemon.text("run", "--rm", BUSYBOX, "echo", "the others go on") == "the others go on"
    wait_until(lambda: not leaks(daemon) and not daemon.vms(), "nothing is left of it")


def test_a_guest_that_does_not_answer_in_time_is_given_up(make_daemon: Callable[..., Daemon]) -> None:
    daemon = make_daemon()
    settings = daemon.directory / "hyperd.toml"
    settings.write_text("[pods]\nboot_timeout_s = 3\n")
    # Without a bus there is no port, and the agent waits for it for ever.
    cache = cache_with_a_kernel(daemon.directory, "broken", "pci=off")
    daemon.options = ("--config", str(settings), "--cache-dir", str(cache))
    daemon.start()
    daemon.ctl("pull", BUSYBOX)
    done = daemon.ctl("run", "--name", "late", "--kernel", "broken", BUSYBOX, "true", check=False)
    assert done.returncode == 125
    assert b"did not bring up the agent" in done.stderr
    wait_until(lambda: not leaks(daemon) and not daemon.vms(), "nothing is left of it")
    daemon.ctl("rm", "late")


def test_a_kernel_of_one_s_own_runs_pods_and_stays_while_they_need_it(make_daemon: Callable[..., Daemon]) -> None:
    daemon = make_daemon()
    daemon.options = ("--cache-dir", str(own_cache(daemon.directory)))
    daemon.start()
    daemon.ctl("pull", BUSYBOX)
    host = daemon.text("kernel", "default")
    facts = json.loads(daemon.text("kernel", "inspect", host))[0]
    stored = Path(facts["path"]).parent
    daemon.ctl("kernel", "add", "mine", "--image", facts["path"], "--cmdline", facts["command_line"],
               *(("--modules", str(stored / "modules")) if facts["modules"] else ()))
    assert daemon.text("run", "--name", "one", "--kernel", "mine", BUSYBOX, "uname", "-r") == facts["release"]
    refused = daemon.ctl("kernel", "rm", "mine", check=False)
    assert refused.returncode == 1
    assert b"used by the pods one" in refused.stderr

    daemon.ctl("kernel", "default", "mine", "--project", "default")
    daemon.ctl("create", "--name", "two", BUSYBOX, "true")
    daemon.ctl("rm", "one")
    daemon.ctl("kernel", "default", "--unset", "--project", "default")
    assert json.loads(daemon.text("kernel", "inspect", "mine"))[0]["pods"] == ["two"]
    daemon.ctl("rm", "two")
    daemon.ctl("kernel", "rm", "mine")
    assert daemon.text("kernel", "ls", "-q") == host
    wait_until(lambda: not leaks(daemon) and not daemon.vms(), "nothing is left of it")


def test_a_new_default_s_template_is_made_before_a_pod_asks_for_it(make_daemon: Callable[..., Daemon]) -> None:
    daemon = make_daemon()
    daemon.options = ("--cache-dir", str(own_cache(daemon.directory)))
    daemon.start()
    facts = json.loads(daemon.text("kernel", "inspect", daemon.text("kernel", "default")))[0]
    daemon.ctl("kernel", "add", "mine", "--image", facts["path"], "--cmdline", facts["command_line"],
               *(("--modules", str(Path(facts["path"]).parent / "modules")) if facts["modules"] else ()))
    assert " of mine, " not in daemon.log.read_text(), "nobody boots what is only there"
    daemon.ctl("kernel", "default", "mine")
    wait_until(lambda: " of mine, " in daemon.log.read_text(), "its template is made", timeout=90)
    made = [line for line in daemon.log.read_text().splitlines() if " of mine, " in line]
    assert "made the template" in made[0]
    assert daemon.ctl("pod", "ls", "-q").stdout == b""


def test_a_kernel_that_does_not_boot_is_not_added(make_daemon: Callable[..., Daemon]) -> None:
    daemon = make_daemon()
    daemon.options = ("--cache-dir", str(own_cache(daemon.directory)))
    daemon.start()
    image = json.loads(daemon.text("kernel", "inspect", daemon.text("kernel", "default")))[0]["path"]
    done = daemon.ctl("kernel", "add", "bad", "--image", image, "--cmdline", "rdinit=/nowhere init=/nowhere",
                      check=False)
    assert done.returncode == 1
    assert b"Kernel panic" in done.stderr
    assert "bad" not in daemon.text("kernel", "ls")
    assert not list((daemon.directory / "cache/kernels").glob(".new-*"))
    wait_until(lambda: not leaks(daemon) and not daemon.vms(), "nothing is left of it")
