"""A git repository as a build's context: fetched by git itself, which is given as little as it can live with.

It runs under a uid of nobody's, without capabilities, in mount, PID and IPC namespaces of its own, on a file system in
memory that ends with it. It may speak http and https to the one address that was checked; it has no configuration but
this one, no hooks, no submodules, no credentials of the host's; and nothing is ever checked out: what it hands over is
a tar, which is believed no more than any other context.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import os
import re
import shutil
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from urllib.parse import urlsplit

from hyperstack.pod.errors import InvalidArgument, Unavailable

_REPOSITORY = re.compile(r"https?://[^#]*\.git(?:#.*)?\Z|github\.com/")
_OTHER = re.compile(r"git://|git@|ssh://")
_REFERENCE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_./+-]{0,250}\Z")
_DIRECTORY = re.compile(r"[^\0\n]{0,1024}\Z")
_OLDEST = (2, 37)
"""Older ones cannot be told which address a name has."""
_MEMORY_BYTES = 1 << 30
"""Of the file system in memory, so of a repository's newest commit as it travels and unpacked."""
_LIMITS = ("--cpu=600", f"--as={4 << 30}", f"--fsize={_MEMORY_BYTES}", "--nproc=256", "--nofile=256", "--core=0")
_WHOLE_S = 1800.0
_PIECE = 1 << 18
_WORDS = 600
"""Of what git says about a failure."""

_SCRIPT = """
set -e
mount -t tmpfs -o "mode=0700,uid=$1,size=$2,nosuid,nodev,noexec" tmpfs /tmp
shift 2
exec "$@"
"""
"""Runs as root, in the new namespaces, and only prepares them."""

_FETCH = """
set -e
cd /tmp
git init -q --bare .
echo '* -export-ignore -export-subst' > info/attributes
git fetch -q --depth 1 --no-tags --no-recurse-submodules -- "$1" "$2" >&2
exec git archive --format=tar "FETCH_HEAD:$3"
"""


@dataclass(frozen=True, kw_only=True)
class Repository:
    address: str
    host: str
    port: int
    reference: str
    directory: str


def is_repository(remote: str) -> bool:
    return bool(_REPOSITORY.match(remote) or _OTHER.match(remote))


def parse_repository(remote: str) -> Repository:
    """https://host/path.git[#reference[:directory]]. :raise InvalidArgument: it is something else."""
    if _OTHER.match(remote):
        raise InvalidArgument("a git context is fetched over https or http only", field="remote", value=remote[:200],
                              hint="write https://host/path.git; for what needs a key, send a local clone")
    if remote.startswith("github.com/"):
        remote = "https://" + remote
    address, _, fragment = remote.partition("#")
    reference, _, directory = fragment.partition(":")
    parts = urlsplit(address)
    try:
        port = parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError as error:
        raise InvalidArgument(f"{address[:200]}: {error}", field="remote", value=address[:200]) from error
    if not parts.hostname or not _REFERENCE.match(reference or "HEAD") or ".." in reference \
            or not _DIRECTORY.match(directory) or ".." in directory.split("/"):
        raise InvalidArgument(f"{remote[:200]} is no git context", field="remote", value=remote[:200],
                              hint="write https://host/path.git#branch:directory")
    return Repository(address=address, host=parts.hostname, port=port, reference=reference or "HEAD",
                      directory=directory.strip("/"))


async def archive(repository: Repository, address: ipaddress.IPv4Address | ipaddress.IPv6Address, *, uid: int
                  ) -> AsyncGenerator[bytes, None]:
    """The commit's files as a tar. :param address: of its host, checked.

    :raise Unavailable: there is no git here, or not one that can be confined so.
    :raise InvalidArgument: it could not be fetched; with git's words.
    """
    await _check_version()
    process = await asyncio.create_subprocess_exec(
        "setpriv", "--pdeathsig=KILL", "unshare", "--mount", "--uts", "--ipc", "--pid", "--fork", "--kill-child", "--",
        "/bin/sh", "-c", _SCRIPT, "sh", str(uid), str(_MEMORY_BYTES), "prlimit", *_LIMITS, "setpriv", f"--reuid={uid}",
        f"--regid={uid}", "--clear-groups", "--no-new-privs", "--bounding-set=-all", "--inh-caps=-all", "--",
        "/bin/sh", "-c", _FETCH, "sh", repository.address, repository.reference, repository.directory,
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        env=_environment(repository, address), cwd="/", start_new_session=True)
    assert process.stdout is not None
    assert process.stderr is not None
    complaint = asyncio.create_task(_last_words(process.stderr))
    try:
        async with asyncio.timeout(_WHOLE_S):
            while piece := await process.stdout.read(_PIECE):
                yield piece
            code = await process.wait()
            words = await complaint
    except TimeoutError as error:
        raise Unavailable(f"{repository.host} took longer than {_WHOLE_S:.0f} s for a git context", field="remote",
                          value=repository.host) from error
    finally:
        complaint.cancel()
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    if code:
        told = "".join(char if char.isprintable() else " " for char in words).strip()
        raise InvalidArgument(f"unable to prepare context: git could not fetch {repository.reference} of "
                              f"{repository.host}: {told or f'it ended with {code}'}", field="remote",
                              value=repository.host)


async def _last_words(stream: asyncio.StreamReader) -> str:
    """The end of what it says, however much that is."""
    kept = b""
    while piece := await stream.read(_PIECE):
        kept = (kept + piece)[-_WORDS:]
    return kept.decode("utf-8", "replace")


def _environment(repository: Repository, address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> dict[str, str]:
    where = f"[{address}]" if address.version == 6 else str(address)
    settings = {
        "protocol.allow": "never", "protocol.https.allow": "always", "protocol.http.allow": "always",
        "http.followRedirects": "false", "http.proxy": "", "credential.helper": "", "core.hooksPath": "/dev/null",
        "http.curloptResolve": f"{repository.host}:{repository.port}:{where}", "gc.auto": "0",
        "http.lowSpeedLimit": "1000", "http.lowSpeedTime": "60", "safe.directory": "*", "submodule.recurse": "false"}
    numbered: dict[str, str] = {}
    for number, (name, value) in enumerate(settings.items()):
        numbered |= {f"GIT_CONFIG_KEY_{number}": name, f"GIT_CONFIG_VALUE_{number}": value}
    return {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/tmp", "LANG": "C.UTF-8",  # noqa: S108 - its own
            "GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_TERMINAL_PROMPT": "0",
            "GIT_ASKPASS": "/bin/false", "GIT_CONFIG_COUNT": str(len(settings)), **numbered}


async def _check_version() -> None:
    if shutil.which("git", path="/usr/bin:/bin") is None or os.geteuid() != 0:
        raise Unavailable("git contexts need git on the daemon's host, and a daemon that runs as root", field="remote",
                          hint="apt-get install git; or send a local clone as the context")
    process = await asyncio.create_subprocess_exec("/usr/bin/git", "version", stdout=asyncio.subprocess.PIPE)
    words, _ = await process.communicate()
    found = re.search(rb"(\d+)\.(\d+)", words)
    if found is None or (int(found[1]), int(found[2])) < _OLDEST:
        raise Unavailable("git contexts need git 2.37 or newer on the daemon's host", field="remote")
