"""What our kernel is made of: Debian's source, our configuration and patches, and this host's compiler.

`recipe/` holds the configuration (a fragment over `allnoconfig`), the patches, and the command line that goes with
them.
"""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import dataclass
from pathlib import Path

from hyperstack.guest import debian
from hyperstack.guest.tools import run
from hyperstack.pod.errors import InvalidArgument, Unavailable

PACKAGE = "linux-source-6.1"
"""In main of Debian 12."""
DIRECTORY = Path(__file__).with_name("recipe")
MIN_MEMORY_MIB = 48

_TOOLS = {"gcc": "gcc", "make": "make", "flex": "flex", "bison": "bison", "bc": "bc", "patch": "patch",
          "xz": "xz-utils", "ld": "binutils", "strip": "binutils", "perl": "perl", "tar": "tar"}
"""Command -> the Debian package that has it."""
_HEADERS = {"gelf.h": "libelf-dev", "stdio.h": "libc6-dev"}
_DEADLINE_S = 60


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that the bytes of the kernel depend on."""

    source_version: str
    """Of Debian's source package, such as "6.1.192-2"."""
    config: str
    patches: tuple[Path, ...]
    command_line: str
    compiler: str
    """The versions of compiler and linker, one a line."""

    @property
    def hash(self) -> str:
        digest = hashlib.sha256()
        for part in (self.source_version, self.config, self.command_line, self.compiler,
                     *(path.read_text() for path in self.patches)):
            digest.update(f"{len(part)}\0{part}".encode())
        return digest.hexdigest()

    @property
    def name(self) -> str:
        """In the store."""
        return f"hyperstack-{self.source_version.partition('-')[0]}-{self.hash[:8]}"


def read() -> Recipe:
    """The recipe as it stands, with the newest source that apt knows.

    :raise Unavailable: a program is missing, named with what to install, or apt knows no such source.
    """
    _check_tools()
    return Recipe(source_version=_source_version(), config=(DIRECTORY / "config").read_text(),
                  patches=tuple(sorted(DIRECTORY.glob("*.patch"))),
                  command_line=(DIRECTORY / "command-line").read_text().strip(), compiler=_compiler())


def lost_options(fragment: str, resulting: str) -> list[str]:
    """Lines of the fragment that the kernel's own rules overrode; an option that is `n` must be absent."""
    have = {line.partition("=")[0]: line for line in resulting.splitlines() if line.startswith("CONFIG_")}
    lost = []
    for line in fragment.splitlines():
        name, equals, value = line.partition("=")
        if not line.startswith("CONFIG_") or not equals:
            continue
        if value == "n" and name in have:
            lost.append(f"{line} (it is {have[name]})")
        elif value != "n" and have.get(name) != line:
            lost.append(f"{line} (it is {have.get(name, 'not set')})")
    return lost


def check_config(fragment: str, resulting: str) -> None:
    """:raise InvalidArgument: names the lines that did not survive."""
    lost = lost_options(fragment, resulting)
    if lost:
        raise InvalidArgument(f"the kernel's dependency rules override the configuration: {'; '.join(lost)}",
                              field="config", hint="Something that these options depend on is missing.")


def _check_tools() -> None:
    missing = {package for tool, package in _TOOLS.items() if shutil.which(tool) is None}
    if shutil.which("gcc"):
        missing |= {package for header, package in _HEADERS.items() if not _has_header(header)}
    if missing:
        raise Unavailable(f"to build a kernel, this host lacks {', '.join(sorted(missing))}",
                          hint=f"apt-get install {' '.join(sorted(missing))}")


def _has_header(name: str) -> bool:
    found = run(["gcc", "-E", "-include", name, "-x", "c", "/dev/null", "-o", "/dev/null"], deadline_s=_DEADLINE_S,
                check=False)
    return not found.strip()


def installed_source() -> Path | None:
    """The source's archive, where the package is installed: a host without a network can build then."""
    return next(Path("/usr/src").glob(f"{PACKAGE}.tar.xz"), None)


def _source_version() -> str:
    """What is installed counts, else what apt would fetch."""
    if installed_source() is not None:
        return run(["dpkg-query", "-W", "-f", "${Version}", PACKAGE], deadline_s=_DEADLINE_S)
    version = debian.version(PACKAGE)
    if version is None:
        debian.update()
        version = debian.version(PACKAGE)
    if version is None:
        raise Unavailable(f"Debian's archive has no {PACKAGE}",
                          hint="Check /etc/apt/sources.list: it is in main of Debian 12.")
    return version


def _compiler() -> str:
    words = [run([tool, "--version"], deadline_s=_DEADLINE_S).partition("\n")[0] for tool in ("gcc", "ld")]
    return "\n".join(words)
