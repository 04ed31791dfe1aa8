"""Debian's packages as root file systems, which become images, and whose tools put load on them.

What is made is kept in the cache by the hash of its recipe; an empty cache only costs a download.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import stat
import subprocess
import tarfile
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.harness import CACHE

_MERGED = {"bin": "usr/bin", "sbin": "usr/sbin", "lib": "usr/lib", "lib64": "usr/lib64"}
_UNREAD = ("share/doc", "share/info", "share/locale", "share/man", "lib/x86_64-linux-gnu/gconv",
           "lib/postgresql/15/lib/bitcode")
_VERSION = 4
"""Of this module's own part in a recipe."""


@dataclass(frozen=True)
class Recipe:
    """A root file system of packages, with what they depend on, and a busybox for all else."""

    packages: tuple[str, ...]
    files: Mapping[str, str] = field(default_factory=dict)
    """More files by path, all of them executable."""
    owned: Mapping[str, int] = field(default_factory=dict)
    """Directories that belong to a user, by their numbers."""
    prepare: tuple[str, ...] = ()
    """A program in there that is run once, as the owner of the first of those directories."""
    without: tuple[str, ...] = (
        "debconf", "dpkg", "libc-l10n", "libllvm14", "libperl5.36", "libz3-4", "locales", "perl", "perl-base",
        "perl-modules-5.36")
    """Dependencies that what is tested does without."""

    @property
    def key(self) -> str:
        return hashlib.sha256(repr((_VERSION, self)).encode()).hexdigest()[:16]


def root(recipe: Recipe) -> Path:
    """The unpacked directory, to run its programs in: chroot."""
    path = CACHE / "test-roots" / recipe.key
    if not path.is_dir():
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix="part-") as work:
            made = Path(work) / "root"
            _unpack(recipe, Path(work), made)
            with contextlib.suppress(OSError):  # another run was faster
                made.rename(path)
    return path


def write_tar(recipe: Recipe, file: Path) -> None:
    """The root file system as a layer of an image."""
    def entry(info: tarfile.TarInfo) -> tarfile.TarInfo:
        info.uname = info.gname = ""  # The host's names are not the image's.
        return info

    with tarfile.open(file, "w", format=tarfile.PAX_FORMAT) as tar:
        for path in sorted(root(recipe).iterdir()):
            tar.add(path, path.name, filter=entry)


def _unpack(recipe: Recipe, work: Path, made: Path) -> None:
    for link, target in _MERGED.items():
        (made / target).mkdir(parents=True)
        (made / link).symlink_to(target)
    for package in _download(recipe, work):
        archive = subprocess.Popen(["dpkg-deb", "--fsys-tarfile", package], stdout=subprocess.PIPE)
        subprocess.run(["tar", "-x", "--keep-directory-symlink", "-C", made], stdin=archive.stdout, check=True)
        assert archive.wait() == 0
    for name in _UNREAD:
        shutil.rmtree(made / "usr" / name, ignore_errors=True)
    for directory, mode in (("tmp", 0o1777), ("proc", 0o755), ("sys", 0o755), ("dev", 0o755), ("run", 0o755)):
        (made / directory).mkdir(exist_ok=True)
        (made / directory).chmod(mode)
    _add_busybox(made)
    for name, text in recipe.files.items():
        path = made / name.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)
    for name, owner in recipe.owned.items():
        (made / name.lstrip("/")).mkdir(parents=True, exist_ok=True)
        os.chown(made / name.lstrip("/"), owner, owner)
    if recipe.prepare:
        _prepare(recipe, made)


def _prepare(recipe: Recipe, made: Path) -> None:
    owner = next(iter(recipe.owned.values()))
    null = made / "dev/null"
    os.mknod(null, stat.S_IFCHR | 0o666, os.makedev(1, 3))
    null.chmod(0o666)
    try:
        subprocess.run(["chroot", f"--userspec={owner}:{owner}", made, *recipe.prepare], check=True,
                       capture_output=True)
    finally:
        null.unlink()


def _download(recipe: Recipe, work: Path) -> list[Path]:
    """Of the packages and all that they depend on, as if nothing were installed."""
    downloads = work / "packages"
    (downloads / "partial").mkdir(parents=True)
    nothing_here = ["-o", "Dir::State::status=/dev/null", "-o", f"Dir::Cache::archives={downloads}"]

    def wanted() -> list[str]:
        asked = subprocess.run(["apt-get", *nothing_here, "install", "--print-uris", "-qq", "--no-install-recommends",
                                *recipe.packages], capture_output=True, text=True, check=False)
        names = [line.split()[1].partition("_")[0] for line in asked.stdout.splitlines() if line.startswith("'")]
        return [name for name in names if name not in recipe.without]

    names = wanted()
    if not names:
        subprocess.run(["apt-get", "-qq", "update"], check=True, capture_output=True)
        names = wanted()
    subprocess.run(["apt-get", "-qq", "download", *names], cwd=downloads, check=True, capture_output=True)
    return sorted(downloads.glob("*.deb"))


def _add_busybox(made: Path) -> None:
    busybox = made / "usr/bin/busybox"
    shutil.copy("/bin/busybox", busybox)
    for applet in subprocess.run([busybox, "--list"], check=True, capture_output=True, text=True).stdout.split():
        path = made / "usr/bin" / applet
        if not path.exists() and not (made / "usr/sbin" / applet).exists():
            path.symlink_to("busybox")
