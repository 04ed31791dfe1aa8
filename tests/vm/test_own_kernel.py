"""Our own kernel: where it has been built, it runs pods; and with --build-kernel it is built, twice, to the same bytes.

The build takes minutes of all processors, so it is no part of an ordinary run.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from hyperstack.engine.config import EngineConfig
from hyperstack.engine.kernels.trial import try_kernel
from hyperstack.engine.machines.start_queue import StartQueue
from hyperstack.guest import kernel_recipe
from hyperstack.guest.kernel_build import build
from hyperstack.guest.kernel_check import DRIVERS, features
from hyperstack.guest.kernels import KernelStore
from hyperstack.hypervisor.qemu.backend import QemuHypervisor
from hyperstack.pod.errors import InvalidArgument, Unavailable
from tests.vm.agent_vm import CACHE


def stored() -> str:
    """The name of our kernel, by the recipe as it stands; empty where it has not been built."""
    try:
        name = kernel_recipe.read().name
    except Unavailable:
        return ""
    return name if KernelStore(CACHE).has(name) else ""


def starts() -> StartQueue:
    return StartQueue(slots=1, reserve_mib=0, patience_s=60)


OURS = stored()
if_built = pytest.mark.skipif(not OURS, reason="not built yet: hyperctl kernel build")


@if_built
async def test_our_kernel_runs_containers_without_modules(tmp_path: Path) -> None:
    store = KernelStore(CACHE)
    await store.ensure_default(print)
    details = store.details(OURS)
    hypervisor = QemuHypervisor(tmp_path / "machines", CACHE)
    try:
        outcome = await try_kernel(hypervisor, starts(), details.kernel, EngineConfig(data_root=tmp_path), tmp_path)
    finally:
        await hypervisor.close()
    assert outcome.release == details.record.release
    assert details.modules == ()
    assert details.config is not None
    assert {details.config[option] for option in DRIVERS.values()} == {"y"}
    assert "n" not in features(details.config).values()


@if_built
async def test_a_kernel_that_cannot_find_its_init_is_told_with_its_last_words(tmp_path: Path) -> None:
    store = KernelStore(CACHE)
    await store.ensure_default(print)
    details = store.details(OURS)
    broken = tmp_path / "initrd"
    broken.write_bytes(b"")
    broken.chmod(0o644)
    kernel = type(details.kernel)(name="broken", image=details.kernel.image, initrd=broken,
                                  command_line=details.kernel.command_line)
    hypervisor = QemuHypervisor(tmp_path / "machines", CACHE)
    try:
        with pytest.raises(InvalidArgument, match="Kernel panic"):
            await try_kernel(hypervisor, starts(), kernel, EngineConfig(data_root=tmp_path), tmp_path)
    finally:
        await hypervisor.close()
    assert not list((tmp_path / "machines").glob("*"))


@pytest.mark.timeout(4 * 3600)
def test_two_builds_give_the_same_bytes(tmp_path: Path, pytestconfig: pytest.Config) -> None:
    if not pytestconfig.getoption("--build-kernel"):
        pytest.skip("takes minutes of all processors: --build-kernel")
    assert digest(tmp_path / "one") == digest(tmp_path / "a-longer-name-for-the-other")


def digest(root: Path) -> str:
    store = KernelStore(root)
    steps: list[str] = []
    name = build(store, lambda status, current, total: steps.append(status))
    image = store.details(name).kernel.image.read_bytes()
    assert "Compiling" in steps
    assert leftovers(root) == []
    shutil.rmtree(root)
    return hashlib.sha256(image).hexdigest()


def leftovers(root: Path) -> Sequence[Path]:
    return list(root.glob(".new-*"))
