"""What the probe finds on this very host, and that it always comes to an end."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from hyperstack.hypervisor.qemu import probe, runtime_root
from hyperstack.hypervisor.qemu.backend import QemuHypervisor
from hyperstack.hypervisor.qemu.build import build
from tests.vm.agent_vm import CACHE

_LOOP = b"\xeb\xfe"
"""jmp to itself, where a processor starts"""


async def test_this_host_runs_machines_and_says_how(tmp_path: Path) -> None:
    made = QemuHypervisor(tmp_path / "run", CACHE)
    findings = {finding.name: finding for finding in await made.probe()}
    assert findings["control groups"].status == "ok"
    assert findings["qemu"].status == "ok"
    accelerator = findings["accelerator"]
    assert made.accelerator in ("kvm", "tcg")
    assert made.accelerator in accelerator.detail
    assert (accelerator.status == "ok") == (made.accelerator == "kvm")
    assert accelerator.remedy or accelerator.status == "ok"
    await made.close()


async def test_the_answer_is_remembered_and_found_again_where_it_is_damaged(tmp_path: Path) -> None:
    first = QemuHypervisor(tmp_path / "run", tmp_path / "cache")
    await first.probe()
    memory = tmp_path / "cache/accelerator.json"
    remembered = memory.read_text()
    # Only a second trial would replace this word.
    memory.write_text(remembered.replace('"reason": "', '"reason": "remembered: '))
    second = QemuHypervisor(tmp_path / "run", tmp_path / "cache")
    assert any("remembered: " in finding.detail for finding in await second.probe())
    memory.write_text("[1, 2")
    third = QemuHypervisor(tmp_path / "run", tmp_path / "cache")
    await third.probe()
    assert third.accelerator == first.accelerator
    assert memory.read_text().startswith("{")


@pytest.mark.parametrize("accelerator", ["tcg", "kvm"])
async def test_a_machine_that_never_ends_is_ended(tmp_path: Path, accelerator: str) -> None:
    rom = tmp_path / "rom"
    rom.write_bytes(bytes(0xfff0) + _LOOP + bytes(14))
    root = runtime_root.prepare(CACHE, runtime_root.find_qemu(), build("preload", CACHE))
    trial = await probe.try_machine(accelerator, 2.0, root=root, jail=build("jail", CACHE), rom=rom)
    assert trial.seconds is None
    assert trial.words
    children = subprocess.run(["pgrep", "-P", str(os.getpid()), "qemu"], capture_output=True, text=True, check=False)
    assert children.stdout == ""


@pytest.mark.parametrize("arguments", [
    [],
    ["--uid", "0", "--root", "/", "--last-fd", "2", "--", "/bin/true"],
    ["--uid", "-1", "--root", "/", "--last-fd", "2", "--", "/bin/true"],
    ["--uid", "5x", "--root", "/", "--last-fd", "2", "--", "/bin/true"],
    ["--uid", "5", "--root", "/", "--last-fd", "2"],
    ["--uid", "5", "--root", "/", "--last-fd", "2", "--"],
    ["--uid", "5", "--last-fd", "2", "--", "/bin/true"],
    ["--uid", "5", "--root", "/", "--last-fd", "2", "--file", "target", "--", "/bin/true"],
    ["--uid", "5", "--root", "/", "--last-fd", "2", "--cgroup", "999", "--", "/bin/true"],
    ["--uid", "5", "--root", "/absent", "--last-fd", "2", "--", "/bin/true"],
    ["--uid", "5", "--root", "/", "--unknown", "2", "--", "/bin/true"],
])
def test_the_jail_runs_nothing_that_it_was_not_told_exactly(arguments: list[str]) -> None:
    done = subprocess.run([build("jail", CACHE), *arguments], capture_output=True, text=True, check=False, timeout=30)
    assert done.returncode == 125
    assert done.stderr.startswith("jail: ")
    assert done.stderr.count("\n") == 1
