"""COPY and ADD: where the sources are, and the layer that comes of them."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

from hyperstack.dockerfile.instructions import Copy
from hyperstack.engine.builds.config import Config, resolved
from hyperstack.engine.builds.git import is_repository
from hyperstack.engine.builds.sources import Fetcher, is_remote
from hyperstack.image.api import Composed, Context, Copying, NamedFile, Workshop
from hyperstack.pod.errors import InvalidArgument

_OWN_WORDS = ("When using ", "unable to convert uid/gid chown string to host mapping: ")
"""What Docker says without telling which instruction failed."""


@dataclass(frozen=True, kw_only=True)
class Copied:
    layer: Composed
    description: str
    """For the history, and for the cache: it names what was copied by its digest."""


class Copier:
    def __init__(self, workshop: Workshop, fetcher: Fetcher) -> None:
        self._workshop = workshop
        self._fetcher = fetcher

    @contextlib.asynccontextmanager
    async def copied(self, copy: Copy, image: str, config: Config, context: Context | None,
                     origin: Callable[[str], Awaitable[str]]) -> AsyncIterator[Copied]:
        """The layer, which is there within the block only.

        :param origin: the image that a `--from` means.
        :raise InvalidArgument: it cannot be copied; says `COPY failed: ...`.
        """
        word = "ADD" if copy.add else "COPY"
        source = await origin(copy.stage) if copy.stage else ""
        async with contextlib.AsyncExitStack() as stack:
            try:
                files = await self._files(copy, stack)
                patterns = tuple(source for source in copy.sources if not (copy.add and is_remote(source)))
                layer = await self._workshop.compose(Copying(
                    base=image, destination=self._destination(copy, config, len(files) + len(patterns)),
                    patterns=patterns, files=files, context=context if not copy.stage else None,
                    origin=source, chown=copy.chown, chmod=copy.chmod,
                    extract=copy.add))
            except InvalidArgument as error:
                if error.message.startswith(_OWN_WORDS):
                    raise
                raise InvalidArgument(f"{word} failed: {error.message}", field=word, value=copy.text[:200],
                                      hint=error.hint) from error
            stack.callback(self._workshop.discard, layer.tar)
            options = f" --chown={copy.chown}" * bool(copy.chown) + f" --chmod={copy.chmod}" * bool(copy.chmod)
            digest = layer.digest.removeprefix("sha256:")
            yield Copied(layer=layer,
                         description=f"/bin/sh -c #(nop) {word}{options} multi:{digest} in {copy.destination} ")

    @staticmethod
    def _destination(copy: Copy, config: Config, count: int) -> str:
        destination = resolved(copy.destination, config)
        if count > 1 and not destination.endswith("/"):
            word = "ADD" if copy.add else "COPY"
            raise InvalidArgument(f"When using {word} with more than one source file, the destination must be a "
                                  "directory and end with a /")
        return destination

    async def _files(self, copy: Copy, stack: contextlib.AsyncExitStack) -> tuple[NamedFile, ...]:
        """Here-documents and downloads."""
        found = []
        for doc in copy.inline:
            path = await self._workshop.keep(_once(doc.content.encode()))
            stack.callback(self._workshop.discard, path)
            found.append(NamedFile(name=doc.name, path=path))
        if copy.add:
            for source in copy.sources:
                if is_repository(source):
                    raise InvalidArgument(f"{source[:200]} is a git repository, which is not supported here",
                                          hint="a whole build context may be one; else RUN git clone")
                if is_remote(source):
                    download = await self._fetcher.fetch(source)
                    stack.callback(self._workshop.discard, download.path)
                    found.append(NamedFile(name=_name(download.name, copy), path=download.path, mode=0o600,
                                           mtime=download.mtime))
        return tuple(found)


def _name(name: str, copy: Copy) -> str:
    if not name and copy.destination.endswith("/"):
        raise InvalidArgument("cannot determine filename from the url of this ADD", field="ADD",
                              value=copy.text[:200], hint="name the file in the destination")
    return name or "download"


async def _once(data: bytes) -> AsyncIterator[bytes]:
    yield data
