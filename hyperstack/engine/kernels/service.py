"""The kernels of this host, as projects and their administrator see them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from hyperstack.engine.api import AddedKernel, BuildStep
from hyperstack.engine.config import EngineConfig
from hyperstack.engine.kernels import upload as kernel_upload
from hyperstack.engine.kernels.building import Builder
from hyperstack.engine.kernels.trial import Machines, Outcome, try_kernel
from hyperstack.engine.machines.start_queue import StartQueue
from hyperstack.engine.machines.templates import Templates
from hyperstack.engine.store import Store
from hyperstack.guest.kernel_check import features
from hyperstack.guest.kernels import Details, KernelStore, check_name
from hyperstack.guest.tools import temporary_directory, write_atomically
from hyperstack.identity.api import Principal
from hyperstack.pod.errors import Conflict, Forbidden, InvalidArgument, NotFound
from hyperstack.pod.kernel import Kernel
from hyperstack.pod.states import SandboxState

log = logging.getLogger(__name__)

_MAX_COMMAND_LINE = 512
"""Characters. The kernel takes 2048 altogether, and the machine's own part has some 300."""
_UNKNOWN = "; nothing tells which drivers it has built in: give its modules, or its configuration"
_DOWN = (SandboxState.ABSENT, SandboxState.FAILED)


class ProjectDefaults:
    """Which kernel the pods of a project boot that name none; a small file, written whole."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._names: dict[str, str] = {}
        with contextlib.suppress(FileNotFoundError):
            self._names = msgspec.json.decode(path.read_bytes(), type=dict[str, str])

    def get(self, project: str) -> str:
        """Empty: the host's default."""
        return self._names.get(project, "")

    def set(self, project: str, kernel: str) -> None:
        """:param kernel: empty takes the choice back."""
        names = {**self._names, project: kernel}
        self._names = {key: value for key, value in names.items() if value}
        write_atomically(self._path, msgspec.json.encode(self._names))

    def projects_of(self, kernel: str) -> list[str]:
        return sorted(project for project, name in self._names.items() if name == kernel)


class KernelService:
    """Implements `hyperstack.engine.api.Kernels`."""

    def __init__(self, library: KernelStore, store: Store, hypervisor: Machines, templates: Templates,
                 starts: StartQueue, config: EngineConfig) -> None:
        self._library = library
        self._store = store
        self._hypervisor = hypervisor
        self._templates = templates
        self._starts = starts
        self._config = config
        self._defaults = ProjectDefaults(config.data_root / "kernels.json")
        self._builder = Builder(library.root, self._take_over)
        self._trial = asyncio.Lock()
        """One trial at a time: they share a uid."""

    def chosen(self, project: str, name: str) -> str:
        """The kernel that a new pod of the project boots; empty: the host's default, whichever that is then.

        :raise NotFound: no such kernel.
        """
        chosen = name or self._defaults.get(project)
        return self._library.get(chosen).name if chosen else ""

    def prepare_templates(self) -> None:
        """Let the first pods that name no kernel be clones too, of the projects that the configuration says. Returns
        at once."""
        for project in self._config.template_projects:
            self._prepare_template(project)

    def list_all(self, who: Principal) -> list[dict[str, Any]]:
        return [self._summary(who, self._library.details(kernel.name)) for kernel in self._library.list_all()]

    def inspect(self, who: Principal, name: str) -> dict[str, Any]:
        details = self._library.details(name)
        return {**self._summary(who, details), "command_line": details.kernel.command_line,
                "initrd": str(details.kernel.initrd), "modules": list(details.modules),
                "features": features(details.config) if details.config is not None else None,
                "config": details.config,
                "default_of_projects": [project for project in self._defaults.projects_of(details.kernel.name)
                                        if who.admin or project == who.project]}

    async def add(self, who: Principal, name: str, archive: AsyncIterator[bytes], *, command_line: str = ""
                  ) -> AddedKernel:
        _check_admin(who, "add kernels")
        _check_command_line(command_line)
        if self._library.has(check_name(name)):
            raise Conflict(f"there is a kernel {name} already", field="name", value=name,
                           hint="remove it with `hyperctl kernel rm`, or choose another name")
        with temporary_directory(self._library.root) as work:
            await kernel_upload.receive(archive, work / "archive")
            candidate = await asyncio.to_thread(kernel_upload.read, work / "archive", work / "unpacked")
        staged = await asyncio.to_thread(self._library.stage, name, candidate, command_line=command_line)
        try:
            outcome = await self._try(replace(staged.kernel, name=name), advice="" if candidate.known else _UNKNOWN)
            kernel = await asyncio.to_thread(self._library.commit, staged)
        finally:
            await asyncio.to_thread(self._library.discard, staged)
        log.info("added the kernel %s (%s)", name, outcome.release)
        return AddedKernel(name=kernel.name, release=outcome.release, boot_ms=round(outcome.boot_s * 1000),
                           warnings=candidate.warnings)

    async def remove(self, who: Principal, name: str) -> None:
        _check_admin(who, "remove kernels")
        kernel = self._library.get(name)
        users = self._users(kernel.name)
        if users:
            more = f" and {len(users) - 3} more" if len(users) > 3 else ""
            raise Conflict(f"kernel {kernel.name} is used by the pods {', '.join(users[:3])}{more}", field="kernel",
                           value=kernel.name, hint="remove them first")
        projects = self._defaults.projects_of(kernel.name)
        if projects:
            raise Conflict(f"kernel {kernel.name} is the default of the projects {', '.join(projects[:3])}",
                           field="kernel", value=kernel.name, hint="choose another with `hyperctl kernel default`")
        await asyncio.to_thread(self._library.remove, kernel.name)
        log.info("removed the kernel %s", kernel.name)

    def set_default(self, who: Principal, name: str) -> None:
        _check_admin(who, "choose the host's default kernel")
        self._make_default(name)

    def set_project_default(self, who: Principal, project: str, name: str) -> None:
        if not who.admin and project != who.project:
            raise Forbidden(f"the project {project[:64]} is not yours", field="project", value=project[:64])
        if not project:
            raise InvalidArgument("no project is named", field="project", value="")
        self._defaults.set(project, self._library.get(name).name if name else "")
        self._prepare_template(project)

    async def build(self, who: Principal) -> AsyncGenerator[BuildStep, None]:
        _check_admin(who, "build kernels")
        async with contextlib.aclosing(self._builder.follow()) as steps:
            async for step in steps:
                yield step

    async def close(self) -> None:
        await self._builder.close()

    # -- within

    async def _take_over(self, name: str) -> None:
        """A kernel that was built, or was there already: tried, then the default."""
        await asyncio.to_thread(self._library.refresh)
        await self._try(self._library.get(name))
        self._make_default(name)

    def _make_default(self, name: str) -> None:
        self._library.set_default(name)
        self.prepare_templates()

    def _prepare_template(self, project: str) -> None:
        try:
            kernel = self._library.get(self._defaults.get(project))
        except NotFound as error:
            log.warning("no template for the project %s: %s", project, error)
        else:
            self._templates.prepare(project, kernel, self._config.default_memory_mib)

    async def _try(self, kernel: Kernel, *, advice: str = "") -> Outcome:
        async with self._trial:
            with temporary_directory(self._library.root) as work:
                return await try_kernel(self._hypervisor, self._starts, kernel, self._config, work, advice=advice)

    def _summary(self, who: Principal, details: Details) -> dict[str, Any]:
        kernel, record = details.kernel, details.record
        mine = self._users(kernel.name, who)
        return {"name": kernel.name, "release": kernel.release, "path": str(kernel.image), "format": record.image,
                "origin": record.origin, "default": kernel.name == self._library.default_name(),
                "project_default": kernel.name == self._defaults.get(who.project),
                "min_memory_mib": kernel.min_memory_mib, "bytes": details.bytes, "added_at": record.added_at,
                "pods": mine}

    def _users(self, kernel: str, who: Principal | None = None) -> list[str]:
        """Names of the pods that run on it, or will: of everybody, or of those that `who` may know of."""
        pods = [pod for pod in self._store.pods.all()
                if (pod.kernel == kernel and pod.state not in _DOWN) or pod.spec.kernel == kernel]
        return sorted(pod.name for pod in pods if who is None or who.admin or pod.project == who.project)


def _check_admin(who: Principal, what: str) -> None:
    if not who.admin:
        raise Forbidden(f"only the host's administrator may {what}", hint="ask root, or use sudo")


def _check_command_line(text: str) -> None:
    if len(text) > _MAX_COMMAND_LINE or not text.isascii() or not (text.isprintable() or not text):
        raise InvalidArgument("the command line is not plain text, or too long", field="cmdline", value=text[:64],
                              hint=f"at most {_MAX_COMMAND_LINE} printable ASCII characters")
