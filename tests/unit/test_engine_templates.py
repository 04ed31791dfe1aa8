"""Which templates are asked for, shared, renewed and given up; `tests/e2e/test_templates.py` has the real ones."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from unittest.mock import AsyncMock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperstack.engine.config import EngineConfig, TemplateSharing
from hyperstack.engine.machines import templates
from hyperstack.engine.machines.start_queue import StartQueue
from hyperstack.engine.machines.templates import Templates
from hyperstack.hypervisor.api import Capability, Disk, Machine, MachineSpec, Template, TemplateSpec
from hyperstack.pod.errors import GuestError, Unavailable, Unsupported
from hyperstack.pod.kernel import Kernel

KERNEL = Kernel(name="k", image=Path("/k"), initrd=Path("/i"))


class Hypervisor:
    """What `Templates` asks of one, in memory."""

    capabilities = Capability.TEMPLATE

    def __init__(self) -> None:
        self.kept: dict[TemplateSpec, Template] = {}
        self.made: list[TemplateSpec] = []
        self.dropped: list[Template] = []
        self.failing = False
        self.can_fork = True
        self.parents: set[str] = set()
        self.uids: list[int] = []

    async def make_template(self, spec: TemplateSpec, *, ident: str, uid: int, deadline_s: float) -> Template:
        self.made.append(spec)
        if self.failing:
            raise Unavailable("it did not come up")
        self.kept[spec] = Template(id=f"{len(self.made):064x}", spec=spec, created_ns=time.time_ns(), memory_bytes=1)
        return self.kept[spec]

    async def find_template(self, spec: TemplateSpec) -> Template | None:
        return self.kept.get(spec)

    async def drop_template(self, template: Template) -> None:
        self.dropped.append(template)
        self.kept.pop(template.spec, None)

    async def start(self, spec: MachineSpec) -> Trial:
        return Trial()

    async def start_parent(self, template: Template, *, ident: str, uid: int, disks: object) -> Trial:
        if not self.can_fork:
            raise Unsupported("forking machines", "this one")
        self.uids.append(uid)
        return Trial()

    async def keep_parent(self, template: Template, machine: Machine) -> None:
        self.parents.add(template.id)

    def has_parent(self, template: Template) -> bool:
        return template.id in self.parents


class Trial:
    """A clone that is tried out."""

    async def destroy(self) -> None:
        return


@pytest.fixture(autouse=True)
def answers(monkeypatch: pytest.MonkeyPatch) -> list[Exception]:
    """What keeps a tried clone's agent from answering."""
    problems: list[Exception] = []

    async def greet(machine: Machine, key: bytes, **_: object) -> AsyncMock:
        if problems:
            raise problems.pop()
        return AsyncMock()

    monkeypatch.setattr(templates, "greet", greet)
    return problems


@pytest.fixture(autouse=True)
def rehearsals(monkeypatch: pytest.MonkeyPatch) -> list[Exception]:
    """What goes wrong in rehearsals."""
    problems: list[Exception] = []

    async def rehearse(machine: Machine, spec: TemplateSpec) -> None:
        if problems:
            raise problems.pop()

    @contextlib.asynccontextmanager
    async def stage(layer: Path, **_: object) -> AsyncIterator[tuple[Disk, ...]]:
        yield ()

    monkeypatch.setattr(templates, "stage", stage)
    monkeypatch.setattr(templates, "rehearse", rehearse)
    return problems


def make_queue(meminfo: Path = Path("/proc/meminfo")) -> StartQueue:
    return StartQueue(slots=2, reserve_mib=0, patience_s=60, meminfo=meminfo)


def make(hypervisor: Hypervisor, sharing: TemplateSharing = TemplateSharing.PROJECT, *, layer: Path | None = None,
         starts: StartQueue | None = None) -> Templates:
    config = EngineConfig(data_root=Path("/nowhere"), template_sharing=sharing, rehearsal_layer=layer)
    return Templates(hypervisor, starts or make_queue(), config)  # type: ignore[arg-type]  # the parts of the door that it uses


def take(made: Templates, project: str = "a", **changes: int) -> Template | None:
    return made.take(project, KERNEL, nic=True, **({"memory_mib": 512, "vcpus": 1} | changes))


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def test_the_first_pod_boots_and_the_next_is_a_clone() -> None:
    hypervisor = Hypervisor()
    made = make(hypervisor)
    assert take(made) is None
    assert take(made) is None
    await settle()
    assert take(made) == hypervisor.kept[hypervisor.made[0]]
    assert len(hypervisor.made) == 1, "it was asked for twice and made once"
    await made.close()


async def test_projects_do_not_share() -> None:
    hypervisor = Hypervisor()
    made = make(hypervisor)
    for project in ("a", "b"):
        take(made, project)
    await settle()
    ours, theirs = take(made, "a"), take(made, "b")
    assert ours is not None
    assert theirs is not None
    assert ours.id != theirs.id
    await made.close()


async def test_a_host_of_one_tenant_may_share() -> None:
    hypervisor = Hypervisor()
    made = make(hypervisor, TemplateSharing.HOST)
    take(made, "a")
    await settle()
    assert take(made, "b") == take(made, "a")
    assert len(hypervisor.made) == 1
    await made.close()


async def test_off_is_off() -> None:
    hypervisor = Hypervisor()
    made = make(hypervisor, TemplateSharing.OFF)
    assert take(made) is None
    await settle()
    assert hypervisor.made == []
    assert made.memory_mib(300) == 300


async def test_an_old_one_is_used_until_the_next_is_there() -> None:
    hypervisor = Hypervisor()
    made = make(hypervisor)
    take(made)
    await settle()
    spec = hypervisor.made[0]
    old = hypervisor.kept[spec] = replace(hypervisor.kept[spec], created_ns=1)
    made._known[spec] = old
    assert take(made) == old
    await settle()
    renewed = take(made)
    assert renewed is not None
    assert renewed != old
    await made.close()


async def test_what_cannot_be_made_is_not_tried_all_the_time() -> None:
    hypervisor = Hypervisor()
    hypervisor.failing = True
    made = make(hypervisor)
    for _ in range(5):
        assert take(made) is None
        await settle()
    assert len(hypervisor.made) == 1
    await made.close()


async def test_one_whose_clone_does_not_answer_is_dropped(answers: list[Exception]) -> None:
    hypervisor = Hypervisor()
    made = make(hypervisor)
    answers.append(GuestError("silence"))
    take(made)
    await settle()
    assert take(made) is None
    assert len(hypervisor.dropped) == 1
    await made.close()


async def test_a_distrusted_one_is_not_used_again() -> None:
    hypervisor = Hypervisor()
    made = make(hypervisor)
    take(made)
    await settle()
    template = take(made)
    assert template is not None
    await made.distrust(template, GuestError("silence"))
    assert take(made) is None
    await settle()
    assert hypervisor.dropped == [template]
    assert len(hypervisor.made) == 1
    await made.close()


async def test_the_one_that_is_longest_unused_goes() -> None:
    hypervisor = Hypervisor()
    made = make(hypervisor)
    for vcpus in range(1, templates._KEPT + 1):
        take(made, vcpus=vcpus)
    for _ in range(templates._KEPT):
        await settle()
    assert take(made, vcpus=1) is not None
    take(made, vcpus=99)
    await settle()
    assert [t.spec.vcpus for t in hypervisor.dropped] == [2]
    await made.close()


@given(st.integers(1, 1 << 20))
def test_a_class_holds_what_was_asked_for_and_little_more(asked: int) -> None:
    made = make(Hypervisor())
    size = made.memory_mib(asked)
    assert size >= asked
    assert size <= max(128, asked * 3 / 2)
    assert made.memory_mib(size) == size


async def test_a_parent_is_raised_for_each_template_under_a_uid_of_its_own() -> None:
    hypervisor = Hypervisor()
    made = make(hypervisor, layer=Path("/layer"))
    for project in ("a", "b"):
        take(made, project)
    await settle()
    assert hypervisor.parents == {template.id for template in hypervisor.kept.values()}
    assert len(set(hypervisor.uids)) == 2
    await made.close()


async def test_a_parent_that_is_gone_is_replaced() -> None:
    hypervisor = Hypervisor()
    made = make(hypervisor, layer=Path("/layer"))
    take(made)
    await settle()
    hypervisor.parents.clear()
    assert take(made) is not None, "clones begin as the template was kept meanwhile"
    await settle()
    assert hypervisor.parents
    assert len(hypervisor.made) == 1
    await made.close()


async def test_a_failed_rehearsal_leaves_the_template_and_is_not_repeated_at_once(rehearsals: list[Exception]) -> None:
    rehearsals.append(GuestError("it fell silent"))
    hypervisor = Hypervisor()
    made = make(hypervisor, layer=Path("/layer"))
    for _ in range(3):
        take(made)
        await settle()
    assert take(made) is not None
    assert not hypervisor.parents
    assert len(hypervisor.uids) == 1
    await made.close()


async def test_a_hypervisor_that_cannot_fork_is_asked_once() -> None:
    hypervisor = Hypervisor()
    hypervisor.can_fork = False
    made = make(hypervisor, layer=Path("/layer"))
    for project in ("a", "b"):
        take(made, project)
        await settle()
    assert take(made, "a") is not None
    assert take(made, "b") is not None
    assert not hypervisor.parents
    await made.close()
