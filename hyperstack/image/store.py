"""The image store: `ImageBackend` over the content store, the converter, the registry client and the index."""

from __future__ import annotations

import logging
import re
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from hyperstack.image import inquiry, removal
from hyperstack.image import manifest as manifests
from hyperstack.image import names as references
from hyperstack.image.api import Credentials, Holder, Image, NewLayer, Progress, ProgressSink, Pushed, RemoteImage
from hyperstack.image.blobs import BlobStore, discard, full_disk_told
from hyperstack.image.commit import Committer
from hyperstack.image.config import ImageConfigOptions
from hyperstack.image.convert import Converter
from hyperstack.image.digest import hexadecimal, is_digest
from hyperstack.image.errors import ImageUnavailable
from hyperstack.image.index import ImageIndex, ImageRow
from hyperstack.image.load import Loader
from hyperstack.image.names import Reference
from hyperstack.image.pull import Pins, Puller
from hyperstack.image.registry import RegistryClient
from hyperstack.image.save import SavedImage, documents, write_archive
from hyperstack.image.threads import in_thread
from hyperstack.image.upload import Uploader
from hyperstack.image.workshop import ImageWorkshop
from hyperstack.pod.errors import InvalidArgument, NotFound

_LOG = logging.getLogger(__name__)
_MAX_KEPT = 1 << 16
"""Bytes of a config that stays in memory once parsed; hostile ones of megabytes are parsed each time."""
_ID_PREFIX = re.compile(r"(?:sha256:)?([a-f0-9]{1,64})\Z")


class ImageStore:
    """See `hyperstack.image.api.ImageBackend`. To be used from one event loop; one store per directory."""

    def __init__(self, root: Path, *, config: ImageConfigOptions | None = None) -> None:
        self._root = root
        self._options = config or ImageConfigOptions()
        self._blobs = BlobStore(root)
        self._converter = Converter(self._blobs, root / "layers", self._options)
        self._client = RegistryClient(self._options)
        self._pins = Pins()
        self._uploader = Uploader(self._client, self._blobs, self._pins, self._options)
        self._images: dict[str, Image] = {}
        """What does not change of an image, by id: all but its names."""
        self._index: ImageIndex
        self._puller: Puller
        self._loader: Loader
        self._committer: Committer
        self._workshop: ImageWorkshop

    async def start(self) -> None:
        self._root.mkdir(parents=True, exist_ok=True, mode=0o700)
        await in_thread(self._blobs.open)
        self._converter.open()
        self._index = ImageIndex(self._root / "images.db")
        self._forget_missing()
        self._puller = Puller(self._client, self._blobs, self._converter, self._index, self._pins, self._options)
        self._loader = Loader(self._blobs, self._index, self._puller, self._pins, self._options)
        self._committer = Committer(self._blobs, self._index, self._puller, self._pins, self._options)
        self._workshop = ImageWorkshop(self._blobs, self._converter, self._committer, self._index, self._pins,
                                       self._options, sweep=self._sweep)

    def _forget_missing(self) -> None:
        """Rows whose files somebody removed by hand would fail much later; and disks without a row are nobody's."""
        sizes = self._index.layer_sizes()
        there = {path.stem: path.stat().st_size for path in self._converter.disks()}
        lost = [diff_id for diff_id, size in sizes.items() if there.get(hexadecimal(diff_id)) != size]
        for ident in self._index.image_ids():
            row = self._row(ident)
            blobs = [row.manifest, *(layer.blob for layer in row.layers)]
            if any(layer.diff_id in lost for layer in row.layers) or not all(map(self._blobs.has, blobs)):
                _LOG.warning("image %s has lost files on the disk; it is forgotten, pull it again", ident)
                self._index.remove_image(ident)
        self._index.forget_layers(lost)
        known = {hexadecimal(diff_id) for diff_id in sizes}
        for path in self._converter.disks():
            if path.stem not in known:
                discard(path)

    async def close(self) -> None:
        await self._client.close()
        self._index.close()

    def normalise(self, reference: str) -> str:
        return str(references.parse(reference))

    def display(self, reference: str) -> str:
        return references.parse(reference).familiar()

    async def pull(self, reference: str, *, platform: str = "", credentials: Credentials | None = None,
                   progress: ProgressSink | None = None) -> Image:
        parsed = references.parse(reference)
        with full_disk_told(self._root, f"image {parsed.familiar()}"):
            return self._image(await self._puller.pull(parsed, platform, credentials, progress or _unheard))

    async def push(self, reference: str, *, credentials: Credentials | None = None,
                   progress: ProgressSink | None = None) -> list[Pushed]:
        wanted = references.parse_name(reference)
        tell = progress or _unheard
        tell(Progress(ident="", status=f"The push refers to repository [{wanted.name}]", message=True))
        return [await self._push(one, ident, credentials, tell) for one, ident in self._to_push(wanted)]

    def _to_push(self, wanted: Reference) -> list[tuple[Reference, str]]:
        """What goes to the registry, with the images' ids: one tag, or all of a repository."""
        there = [(references.parse(name), ident) for ident in self._index.image_ids()
                 for name in self._index.names_of(ident) if name.startswith(wanted.name)]
        there = [(one, ident) for one, ident in there if one.name == wanted.name]
        if not there:
            raise ImageUnavailable(f"An image does not exist locally with the tag: {wanted.familiar_name}",
                                   reference=wanted.familiar(), hint="docker tag gives an image that name")
        if wanted.digest:
            raise InvalidArgument("cannot push a digest reference", field="image", value=wanted.familiar(),
                                  hint="an image is pushed by its tag")
        found = [(one, ident) for one, ident in there if not one.digest and wanted.tag in ("", one.tag)]
        if not found:
            raise ImageUnavailable(f"tag does not exist: {wanted.familiar()}" if wanted.tag
                                   else f"no tags to push for {wanted.familiar_name}", reference=wanted.familiar())
        return sorted(found, key=lambda pair: pair[0].tag)

    async def _push(self, reference: Reference, ident: str, credentials: Credentials | None, tell: ProgressSink
                    ) -> Pushed:
        pushed = await self._uploader.push(reference, self._row(ident), credentials, tell)
        if self._index.image(ident) is not None:
            self._index.name(ident, [str(reference.at(pushed.digest))])
        return pushed

    async def check_login(self, host: str, credentials: Credentials | None) -> None:
        await inquiry.check_login(self._client, host, credentials, limit_s=self._options.patience.request)

    async def describe(self, reference: str, credentials: Credentials | None = None) -> RemoteImage:
        return await inquiry.describe(self._client, references.parse(reference), credentials)

    async def remote_tags(self, reference: str, credentials: Credentials | None = None) -> list[str]:
        parsed = references.parse_name(reference)
        tags = await inquiry.tags(self._client, parsed, credentials, limit_s=self._options.patience.request)
        return [f"{parsed.familiar_name}:{tag}" for tag in tags]

    async def search(self, term: str, *, limit: int) -> list[str]:
        return await inquiry.search(self._client, term, limit=limit, limit_s=self._options.patience.request)

    def get(self, name: str) -> Image:
        return self._image(self._resolve(name))

    @property
    def workshop(self) -> ImageWorkshop:
        return self._workshop

    def list_all(self, *, intermediate: bool = False) -> list[Image]:
        hidden = set() if intermediate else self._index.intermediates()
        return sorted((self._image(ident) for ident in self._index.image_ids() if ident not in hidden),
                      key=lambda image: (-image.created_at, image.id))

    def layer_disks(self, image: Image) -> list[Path]:
        return [self._converter.path(diff_id) for diff_id in image.diff_ids]

    def tag(self, name: str, reference: str) -> None:
        parsed = _taggable(reference)
        self._index.name(self._resolve(name), [str(parsed)])

    def remove(self, name: str, *, force: bool = False, in_use: Mapping[str, Holder] | None = None
               ) -> list[tuple[str, str]]:
        ident = self._resolve(name)
        held, holder, named = self._index.names_of(ident), (in_use or {}).get(ident), self._named(name, ident)
        if named is None:
            gone, image_too = removal.by_id(held, ident, holder, force=force)
        else:
            gone, image_too = removal.by_name(name, named, held, ident, holder, force=force)
        self._index.unname(gone)
        events = [("Untagged", self.display(reference)) for reference in gone]
        if image_too:
            self._forget(ident)
            events.append(("Deleted", ident))
        return events

    def prune(self, *, dangling_only: bool, in_use: Collection[str], wanted: Callable[[Image], bool] | None = None
              ) -> tuple[list[tuple[str, str]], int]:
        events: list[tuple[str, str]] = []
        hidden = self._index.intermediates()
        for ident in self._index.image_ids():
            if ident in hidden:
                continue
            names = self._index.names_of(ident)
            if ident in in_use or (dangling_only and any("@" not in name for name in names)):
                continue
            if wanted is not None and not wanted(self._image(ident)):
                continue
            self._index.remove_image(ident)
            self._images.pop(ident, None)
            events += [("Untagged", self.display(name)) for name in names]
            events.append(("Deleted", ident))
        return events, self._sweep() + self._drop_partials()

    def _forget(self, ident: str) -> None:
        self._index.remove_image(ident)
        self._images.pop(ident, None)
        self._sweep()

    def _sweep(self) -> int:
        """Remove blobs and disks that neither an image nor a running pull needs. Returns the bytes freed."""
        freed = 0
        unused = [diff_id for diff_id in self._index.unused_layers() if diff_id not in self._pins]
        # First the rows: a row may never name an absent file.
        self._index.forget_layers(unused)
        for diff_id in unused:
            freed += discard(self._converter.path(diff_id))
        used = self._index.used_blobs()
        for digest in list(self._blobs.all_digests()):
            if digest not in used and digest not in self._pins:
                freed += self._blobs.remove(digest)
        return freed

    def _drop_partials(self) -> int:
        """Remove what no running pull is downloading. Returns the bytes freed."""
        return sum(discard(path) for path in self._blobs.partials()
                   if f"sha256:{path.name.partition('.')[0]}" not in self._pins)

    async def load(self, stream: AsyncIterator[bytes], progress: ProgressSink | None = None) -> list[Image]:
        with full_disk_told(self._root, "archive's images"):
            loaded = await self._loader.load(stream, progress or _unheard)
            return [replace(self._image(ident), references=names) for ident, names in loaded]

    async def import_tar(self, stream: AsyncIterator[bytes], *, reference: str = "", message: str = "",
                         run: Mapping[str, Any] | None = None) -> Image:
        parsed = references.with_tag(reference, "") if reference else None
        with full_disk_told(self._root, "imported image"):
            return self._image(await self._loader.import_tar(stream, parsed, message, run or {}))

    async def commit(self, parent: str, layer: AsyncIterator[bytes], new: NewLayer) -> Image:
        parsed = references.with_tag(new.reference, "") if new.reference else None
        with full_disk_told(self._root, "committed layer"):
            return self._image(await self._committer.commit(self._row(self._resolve(parent)), layer, new, parsed))

    def save(self, names: Collection[str]) -> AsyncIterator[bytes]:
        if not names:
            raise InvalidArgument("no image is named to be saved", field="names")
        idents: dict[str, list[Reference]] = {}
        for name in names:
            ident = self._resolve(name)
            named = self._named(name, ident)
            tags = idents.setdefault(ident, [])
            if named is not None and "@" not in named:
                tags.append(references.parse(named))
        return self._archive([self._saved(self._row(ident), tuple(tags)) for ident, tags in idents.items()])

    async def _archive(self, images: list[SavedImage]) -> AsyncIterator[bytes]:
        blobs = list(dict.fromkeys(
            digest for image in images for digest in (image.manifest, image.config, *image.layers)))
        own = documents(images, [self._blobs.size(image.manifest) for image in images])
        with self._pins.hold(blobs):
            async for piece in write_archive(own, [(digest, self._blobs.path(digest)) for digest in blobs]):
                yield piece

    def _saved(self, row: ImageRow, tags: tuple[Reference, ...]) -> SavedImage:
        manifest = manifests.parse(self._blobs.read(row.manifest))
        return SavedImage(config=row.id, manifest=row.manifest, names=tags,
                          media_type=manifest.media_type or manifests.OCI_MANIFEST,
                          layers=tuple(layer.blob for layer in row.layers))

    def _resolve(self, name: str) -> str:
        """:raise NotFound: no such image here, or several. :raise InvalidArgument: it is neither id nor reference."""
        match = _ID_PREFIX.match(name)
        prefix = f"sha256:{match[1]}" if match else ""
        if is_digest(prefix):
            if self._index.image(prefix) is None:
                raise NotFound("image", prefix)
            return prefix
        parsed = references.parse(name)
        ident = self._index.image_named(_canonical(parsed))
        if ident is not None:
            return ident
        found = self._index.images_with_prefix(prefix) if prefix else []
        if len(found) != 1:
            raise NotFound("image", parsed.familiar(), hint=f"{len(found)} ids begin so: give more digits"
                           if found else None)
        return found[0]

    def _named(self, name: str, ident: str) -> str | None:
        """The reference that was meant; None where the image was named by its id."""
        if (match := _ID_PREFIX.match(name)) and is_digest(f"sha256:{match[1]}"):
            return None
        canonical = _canonical(references.parse(name))
        return canonical if self._index.image_named(canonical) == ident else None

    def _row(self, ident: str) -> ImageRow:
        row = self._index.image(ident)
        if row is None:
            raise NotFound("image", ident)
        return row

    def _image(self, ident: str) -> Image:
        held = self._index.names_of(ident)
        tags = tuple(name for name in held if "@" not in name)
        digests = tuple(name for name in held if "@" in name)
        image = self._images.get(ident)
        if image is None:
            row = self._row(ident)
            parsed = manifests.parse_config(row.config)
            sizes = self._index.layer_sizes()
            image = Image(
                id=ident, references=(), digests=(), config=parsed.config, raw_config=parsed.raw,
                diff_ids=parsed.diff_ids, created_at=parsed.created_at, architecture=parsed.platform.architecture,
                os=parsed.platform.os or "linux", size=sum(sizes[diff_id] for diff_id in set(parsed.diff_ids)),
                layer_sizes=tuple(sizes[diff_id] for diff_id in parsed.diff_ids))
            if len(row.config) <= _MAX_KEPT:
                self._images[ident] = image
        return replace(image, references=tags, digests=digests)


def _canonical(parsed: Reference) -> str:
    """As the index has it."""
    return str(parsed.at(parsed.digest) if parsed.digest else parsed)


def _taggable(reference: str) -> Reference:
    """A name that an image may be given. :raise InvalidArgument: it is none."""
    parsed = references.with_tag(reference, "")
    if parsed.familiar_name == "sha256":
        raise InvalidArgument("refusing to create an ambiguous tag using digest algorithm as name", field="repo",
                              value=reference)
    return parsed


def _unheard(progress: Progress) -> None:
    """For callers that do not ask how far it is."""
