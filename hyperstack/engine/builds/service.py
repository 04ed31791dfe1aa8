"""Builds, as `hyperstack.engine.api.Builds` promises them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Iterator

from hyperstack.dockerfile.stages import parse_dockerfile
from hyperstack.engine.builds.builder import Builder
from hyperstack.engine.builds.copies import Copier
from hyperstack.engine.builds.request import BuildEvent, BuildRequest, BuildSink
from hyperstack.engine.builds.runner import Runner
from hyperstack.engine.builds.sources import Fetcher
from hyperstack.engine.containers import ContainerService
from hyperstack.engine.images import ImageService
from hyperstack.engine.records import ContainerRecord
from hyperstack.engine.store import Store
from hyperstack.identity.api import Principal
from hyperstack.image import names
from hyperstack.image.api import CachedStep, Context, ImageBackend, ProgressSink
from hyperstack.pod.errors import HyperStackError, InvalidArgument

log = logging.getLogger(__name__)


class BuildService:
    def __init__(self, store: Store, backend: ImageBackend, images: ImageService, containers: ContainerService,
                 runner: Runner, fetcher: Fetcher) -> None:
        self._store = store
        self._backend = backend
        self._images = images
        self._containers = containers
        self._runner = runner
        self._fetcher = fetcher
        self._held: list[set[str]] = []
        images.also_in_use(self.in_use)

    def in_use(self) -> set[str]:
        """Images that running builds need."""
        return set().union(*self._held)

    async def build(self, who: Principal, request: BuildRequest, context: AsyncIterator[bytes], tell: BuildSink,
                    progress: ProgressSink) -> str:
        references = list(dict.fromkeys(map(_tag, request.references)))
        async with contextlib.AsyncExitStack() as stack:
            opened = await self._context(request, context, stack)
            if opened.dockerfile is None:
                raise InvalidArgument(f"Cannot locate specified Dockerfile: {request.dockerfile[:200]}",
                                      field="dockerfile", value=request.dockerfile[:200])
            if not opened.dockerfile.strip():
                raise InvalidArgument(f"the Dockerfile ({request.dockerfile[:200]}) cannot be empty",
                                      field="dockerfile", value=request.dockerfile[:200])
            dockerfile = parse_dockerfile(opened.dockerfile).until(request.target)
            workshop = self._backend.workshop
            held = stack.enter_context(self._holding())
            image = await Builder(who, request, dockerfile, opened, images=self._images, workshop=workshop,
                                  runner=self._runner, copier=Copier(workshop, self._fetcher), held=held, tell=tell,
                                  progress=progress).build()
            workshop.publish(image, references)
            for reference in references:
                self._images.emit(who, "tag", image, name=self._backend.display(reference))
            await tell(BuildEvent(stream=f"Successfully built {image.removeprefix('sha256:')[:12]}\n"))
            for reference in references:
                await tell(BuildEvent(stream=f"Successfully tagged {self._backend.display(reference)}\n"))
        return image

    @contextlib.contextmanager
    def _holding(self) -> Iterator[set[str]]:
        """What a build needs, while it does; afterwards nobody needs what it has done anew."""
        held: set[str] = set()
        self._held.append(held)
        try:
            yield held
        finally:
            # Not `remove`, which would take an equal one.
            self._held = [other for other in self._held if other is not held]
            self._backend.workshop.forget((), in_use=self._images.in_use())

    async def _context(self, request: BuildRequest, body: AsyncIterator[bytes], stack: contextlib.AsyncExitStack
                       ) -> Context:
        workshop = self._backend.workshop
        if request.remote:
            packed, text = await self._fetcher.context(request.remote)
        else:
            packed, text = await workshop.keep(body), None
        stack.callback(workshop.discard, packed)
        if text is not None:
            return Context(tar=None, dockerfile=text)
        opened = await workshop.open_context(packed, request.dockerfile)
        stack.callback(workshop.close_context, opened)
        workshop.discard(packed)
        return opened

    # -- the cache

    def cache(self, who: Principal) -> list[CachedStep]:
        return [step for step in self._backend.workshop.steps() if step.project == who.project]

    async def prune(self, who: Principal, *, everything: bool, wanted: Callable[[CachedStep], bool],
                    keep_bytes: int = 0) -> tuple[list[str], int]:
        steps = [step for step in self.cache(who) if wanted(step) and (everything or not step.in_use)]
        left = sum(step.size for step in self.cache(who))
        chosen = []
        for step in steps:
            if keep_bytes and left <= keep_bytes:
                break
            chosen.append(step.key)
            left -= step.size
        freed = self._backend.workshop.forget(chosen, in_use=self._images.in_use())
        remaining = {step.key for step in self.cache(who)}
        return [key for key in chosen if key not in remaining], freed

    # -- a killed daemon

    async def recover(self) -> None:
        """Remove the containers of builds that ended with an earlier daemon."""
        left = [container for container in self._store.containers.all() if container.transient]
        await asyncio.gather(*map(self._remove_left, left))

    async def _remove_left(self, container: ContainerRecord) -> None:
        who = Principal(user="", project=container.project, admin=False)
        with contextlib.suppress(HyperStackError):
            await self._containers.remove(who, container.id, force=True, volumes=True)
            log.warning("removed container %s of a build that ended with its daemon", container.id[:12])


def _tag(reference: str) -> str:
    """:raise InvalidArgument: an image cannot be called so."""
    if names.parse_name(reference).digest:
        raise InvalidArgument("build tag cannot contain a digest", field="t", value=reference[:200])
    return str(names.with_tag(reference, ""))
