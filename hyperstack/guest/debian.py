"""Debian's packaged cloud kernel: an installed one, or one from Debian's archive, which apt verifies."""

from __future__ import annotations

import re
from pathlib import Path

from hyperstack.guest.tools import run
from hyperstack.pod.errors import Unavailable

PACKAGE = "linux-image-cloud-amd64"
MIN_MEMORY_MIB = 96
"""It was seen to panic with 64."""
COMMAND_LINE = "cgroup_no_v1=all"
"""What needs no host: speed under emulation is the backend's business."""

_APT_DEADLINE_S = 600
_RELEASE = re.compile(r"linux-image-(\d[\w.+~-]*-cloud-amd64)\Z")
_CHECK = "Check the network and /etc/apt."


def installed() -> tuple[Path, str] | None:
    """The newest cloud kernel that this host has installed with its modules: its tree and release."""
    found = sorted(Path("/boot").glob("vmlinuz-*-cloud-amd64"), key=lambda path: path.stat().st_mtime)
    releases = [path.name.removeprefix("vmlinuz-") for path in found]
    usable = [release for release in releases if (Path("/lib/modules") / release / "kernel").is_dir()]
    return (Path("/"), usable[-1]) if usable else None


def download(work: Path) -> str:
    """Download and unpack the package to work/x; the kernel's release.

    :raise Unavailable: Debian's archive cannot be reached, or has no such package.
    """
    package = _dependency()
    if package is None:
        update()
        package = _dependency()
    matched = _RELEASE.match(package or "")
    if package is None or matched is None:
        raise Unavailable(f"Debian's archive has no {PACKAGE}",
                          hint="Check /etc/apt/sources.list: it is in main of Debian 12.")
    archive = fetch(package, work)
    run(["dpkg-deb", "-x", str(archive), str(work / "x")], deadline_s=_APT_DEADLINE_S)
    return matched[1]


def fetch(package: str, work: Path) -> Path:
    """The package's archive, downloaded to `work`. :raise Unavailable: it cannot be had."""
    try:
        run(["apt-get", "-q", "download", package], deadline_s=_APT_DEADLINE_S, cwd=work)
    except Unavailable:
        # Lists that are older than the archive name a version that is gone.
        update()
        run(["apt-get", "-q", "download", package], deadline_s=_APT_DEADLINE_S, cwd=work, hint=_CHECK)
    return next(work.glob("*.deb"))


def update() -> None:
    """Fetch the lists of packages. :raise Unavailable: the archive cannot be reached."""
    run(["apt-get", "-q", "update"], deadline_s=_APT_DEADLINE_S, hint=_CHECK)


def version(package: str) -> str | None:
    """The version that apt would install, as the lists on this host say; None where they know no such package."""
    shown = run(["apt-cache", "policy", package], deadline_s=_APT_DEADLINE_S, check=False)
    found = re.search(r"^ +Candidate: (\d\S*)$", shown, re.MULTILINE)
    return found[1] if found else None


def _dependency() -> str | None:
    """The package with the kernel itself, as the lists on this host name it."""
    listing = run(["apt-cache", "depends", "--important", PACKAGE], deadline_s=_APT_DEADLINE_S, check=False)
    words = [line.split()[-1] for line in listing.splitlines() if "Depends:" in line]
    return next((word for word in words if _RELEASE.match(word)), None)
