"""Assembles a small image from Debian's busybox-static: what the quickstart runs where no public registry is reached.

    python -m hyperstack.image.assemble --output busybox.tar [--push localhost:5000/library/busybox:latest]

The same busybox gives the same bytes, and so the same image id. A push speaks plain HTTP, which suits a registry on
this host.
"""

from __future__ import annotations

import asyncio
import gzip
import io
import json
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path

import click

from hyperstack.image import digest as digests
from hyperstack.image import manifest as manifests
from hyperstack.image import names as references
from hyperstack.image.config import host_platform
from hyperstack.image.push import push_image
from hyperstack.image.save import SavedImage, archive_bytes, documents

BUSYBOX = Path("/bin/busybox")
_EPOCH = "1970-01-01T00:00:00Z"
_DIRECTORIES = {"bin": 0o755, "dev": 0o755, "etc": 0o755, "home": 0o755, "proc": 0o755, "root": 0o700, "sbin": 0o755,
                "sys": 0o755, "tmp": 0o1777, "usr": 0o755, "usr/bin": 0o755, "usr/sbin": 0o755, "var": 0o755,
                "var/tmp": 0o1777}
_FILES = {
    "etc/passwd": ("root:x:0:0:root:/root:/bin/sh\ndaemon:x:1:1:daemon:/usr/sbin:/bin/false\n"
                   "www-data:x:33:33:www-data:/var/www:/bin/false\nnobody:x:65534:65534:nobody:/home:/bin/false\n"),
    "etc/group": "root:x:0:\ndaemon:x:1:\ntty:x:5:\nwww-data:x:33:\nnogroup:x:65534:\n",
    "etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
    "etc/os-release": 'NAME="HyperStack busybox"\nID=busybox\nPRETTY_NAME="BusyBox, from Debian\'s busybox-static"\n'}


@dataclass(frozen=True, kw_only=True)
class AssembledImage:
    """An image in memory: a few megabytes."""

    manifest: bytes
    blobs: dict[str, bytes]
    """By digest: the config and the layer."""
    config: str

    def archive(self, reference: str) -> bytes:
        """An archive as `save` writes it."""
        ident = digests.of(self.manifest)
        layers = tuple(digest for digest in self.blobs if digest != self.config)
        saved = SavedImage(config=self.config, manifest=ident, media_type=manifests.OCI_MANIFEST, layers=layers,
                           names=(references.parse(reference),))
        return archive_bytes(documents([saved], [len(self.manifest)]), {ident: self.manifest, **self.blobs})


def assemble(busybox: Path = BUSYBOX) -> AssembledImage:
    """:raise FileNotFoundError: busybox-static is not installed."""
    layer = busybox_layer(busybox)
    packed = gzip.compress(layer, compresslevel=6, mtime=0)
    system, _, architecture = host_platform().partition("/")
    config = json.dumps({
        "created": _EPOCH, "architecture": architecture, "os": system,
        "config": {"Cmd": ["sh"], "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]},
        "rootfs": {"type": "layers", "diff_ids": [digests.of(layer)]},
        "history": [{"created": _EPOCH, "created_by": "busybox-static"}]}, separators=(",", ":")).encode()
    manifest = json.dumps({
        "schemaVersion": 2, "mediaType": manifests.OCI_MANIFEST,
        "config": {"mediaType": manifests.OCI_CONFIG, "digest": digests.of(config), "size": len(config)},
        "layers": [{"mediaType": f"{manifests.OCI_LAYER}+gzip", "digest": digests.of(packed), "size": len(packed)}],
    }, separators=(",", ":")).encode()
    return AssembledImage(manifest=manifest, config=digests.of(config),
                          blobs={digests.of(config): config, digests.of(packed): packed})


def busybox_layer(busybox: Path) -> bytes:
    """The tar of a root file system: busybox, a link per applet, and the few files that a container expects."""
    applets = subprocess.run([busybox, "--list-full"], check=True, capture_output=True, text=True).stdout.split()
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as layer:
        for name, mode in _DIRECTORIES.items():
            layer.addfile(_member(name, mode, tarfile.DIRTYPE))
        for name, text in _FILES.items():
            _add(layer, name, text.encode(), 0o644)
        _add(layer, "bin/busybox", busybox.read_bytes(), 0o755)
        for path in sorted(set(applets)):
            # Applets of other directories (linuxrc at the root) are for a machine's boot.
            if Path(path).parent.as_posix() in _DIRECTORIES and path != "bin/busybox":
                link = _member(path, 0o777, tarfile.SYMTYPE)
                link.linkname = "/bin/busybox"
                layer.addfile(link)
    return out.getvalue()


def _member(name: str, mode: int, kind: bytes) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.mode, member.type = mode, kind
    return member


def _add(layer: tarfile.TarFile, name: str, data: bytes, mode: int) -> None:
    member = _member(name, mode, tarfile.REGTYPE)
    member.size = len(data)
    layer.addfile(member, io.BytesIO(data))


@click.command()
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), help="Write the archive here.")
@click.option("--push", metavar="REFERENCE", help="Push it to a registry on this host, over plain HTTP.")
@click.option("--name", default="busybox:latest", show_default=True, help="The image's name in the archive.")
@click.option("--busybox", type=click.Path(exists=True, dir_okay=False, path_type=Path), default=BUSYBOX,
              show_default=True, help="A static busybox.")
def main(output: Path | None, push: str | None, name: str, busybox: Path) -> None:
    """Assemble an image from Debian's busybox-static."""
    if output is None and push is None:
        raise click.UsageError("nothing to do: give --output, --push or both")
    image = assemble(busybox)
    if output is not None:
        output.write_bytes(image.archive(name))
        click.echo(f"{output}: {name}, {image.config}")
    if push is not None:
        asyncio.run(push_image(references.parse(push), image.manifest, manifests.OCI_MANIFEST, image.blobs))
        click.echo(f"pushed {push}, {digests.of(image.manifest)}")


if __name__ == "__main__":
    main()
