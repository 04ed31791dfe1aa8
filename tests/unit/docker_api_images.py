"""An image store that holds one image, and pulls no other."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Callable, Collection

from hyperstack.engine.api import Credentials, Image, Progress, ProgressSink, Pushed, RemoteImage
from hyperstack.identity.api import Principal
from hyperstack.pod.errors import InvalidArgument, NotFound, RegistryError, Unauthorized
from hyperstack.pod.spec import ImageConfig

ImageList = list[Image]

BUSYBOX = Image(id="sha256:" + "ab" * 32, references=("docker.io/library/busybox:latest",),
                digests=("docker.io/library/busybox@sha256:" + "cd" * 32,), raw_config={"history": [
                    {"created": "2024-01-02T03:04:05Z", "created_by": "ADD file"}], "author": "somebody"},
                config=ImageConfig(command=("sh",), env=("PATH=/bin",), labels={"maker": "us"}),
                diff_ids=("sha256:" + "ef" * 32,), created_at=1_700_000_000_000_000_000, size=4 << 20,
                layer_sizes=(4 << 20,),
                architecture="amd64", os="linux")


class Images:
    def __init__(self) -> None:
        self.images: dict[str, Image] = {}
        self.pulled_with: Credentials | None = None

    def get(self, who: Principal, name: str) -> Image:
        for image in self.images.values():
            familiar = [self.display(reference) for reference in image.references]
            if name in (image.id, image.id[7:19], *familiar) or f"{name}:latest" in familiar:
                return image
        raise NotFound("image", name)

    def list_all(self, who: Principal, *, intermediate: bool = False) -> ImageList:
        return list(self.images.values())

    def display_name(self, image_id: str) -> str:
        return self.display(self.images[image_id].references[0])

    def display(self, reference: str) -> str:
        return reference.removeprefix("docker.io/").removeprefix("library/")

    async def pull(self, who: Principal, reference: str, *, platform: str = "", credentials: Credentials | None = None,
                   progress: ProgressSink | None = None) -> Image:
        tell = progress or (lambda step: None)
        self.pulled_with = credentials
        if "absent" in reference:
            raise NotFound("image", reference)
        for step in range(3):
            tell(Progress(ident="abababababab", status="Downloading", current=step, total=3))
            await asyncio.sleep(0.01)
        if "broken" in reference:
            raise RegistryError("the registry lies about digests")
        tell(Progress(ident="abababababab", status="Pull complete"))
        tell(Progress(ident="", status=f"Status: Image is up to date for {self.display(reference)}", message=True))
        self.images[BUSYBOX.id] = BUSYBOX
        return BUSYBOX

    async def push(self, who: Principal, reference: str, *, credentials: Credentials | None = None,
                   progress: ProgressSink | None = None) -> list[Pushed]:
        tell = progress or (lambda step: None)
        tell(Progress(ident="", status=f"The push refers to repository [{reference}]", message=True))
        self.get(who, reference)
        self.pulled_with = credentials
        tell(Progress(ident="abababababab", status="Pushed"))
        return [Pushed(reference=reference, tag=reference.rpartition(":")[2], digest="sha256:" + "cd" * 32, size=7)]

    async def check_login(self, who: Principal, host: str, credentials: Credentials | None) -> None:
        if credentials is None or credentials.password != "right":
            raise Unauthorized(f"unauthorized: {host} does not take this user name and password")

    async def describe_remote(self, who: Principal, reference: str, *, credentials: Credentials | None = None
                              ) -> RemoteImage:
        self.get(who, reference)
        return RemoteImage(digest="sha256:" + "cd" * 32, size=7, media_type="application/x",
                           platforms=(("linux", "arm64", "v8"), ("linux", "amd64", "")))

    async def remote_tags(self, who: Principal, reference: str, *, credentials: Credentials | None = None
                          ) -> list[str]:
        return [f"{reference}:1", f"{reference}:2"]

    async def search(self, who: Principal, term: str, *, limit: int) -> list[str]:
        return [f"{term}{number}" for number in range(limit)]

    async def remove(self, who: Principal, name: str, *, force: bool = False) -> list[tuple[str, str]]:
        image = self.get(who, name)
        del self.images[image.id]
        return [("Untagged", self.display(image.references[0])), ("Deleted", image.id)]

    async def tag(self, who: Principal, name: str, reference: str) -> None:
        image = self.get(who, name)
        canonical = f"docker.io/library/{self.display(reference)}"
        self.images[image.id] = dataclasses.replace(image, references=(*image.references, canonical))

    async def load(self, who: Principal, stream: AsyncIterator[bytes], progress: ProgressSink | None = None
                   ) -> ImageList:
        if not b"".join([part async for part in stream]):
            raise InvalidArgument("the archive is empty")
        self.images[BUSYBOX.id] = BUSYBOX
        return [BUSYBOX]

    async def save(self, who: Principal, names: Collection[str]) -> AsyncIterator[bytes]:
        for name in names:
            yield self.get(who, name).id.encode()

    async def import_tar(self, who: Principal, stream: AsyncIterator[bytes], *, reference: str = "", message: str = "",
                         changes: Collection[str] = ()) -> Image:
        return (await self.load(who, stream))[0]

    async def prune(self, who: Principal, *, dangling_only: bool = True,
                    wanted: Callable[[Image], bool] | None = None) -> tuple[list[tuple[str, str]], int]:
        gone = [image for image in self.images.values() if wanted is None or wanted(image)]
        return ([] if dangling_only else [("Deleted", image.id) for image in gone]), 0
