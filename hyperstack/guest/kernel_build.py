"""Builds our kernel into a store: `python -m hyperstack.guest.kernel_build STORE`.

A process of its own, because it takes minutes of all processors: it is niced, tells how it goes in JSON lines on
stdout, and ends, leaving nothing, as soon as its stdin does; so it dies with the daemon that started it, however that
died.
What a killed build leaves is removed by the next one, or by the next daemon. One store has one build at a time.

The last line is {"name": ..., "release": ...}, or {"error": ..., "hint": ...}.

Reproducible: the same recipe gives the same bytes. Time, user, host and build number are fixed, the environment is
empty, and paths are relative to the source tree.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from hyperstack.guest import build_lock, debian, kernel_recipe, vmlinux
from hyperstack.guest.kernel_check import examine
from hyperstack.guest.kernel_recipe import PACKAGE, Recipe
from hyperstack.guest.kernels import KernelStore, build_agent
from hyperstack.guest.tools import run, temporary_directory
from hyperstack.pod.errors import Exhausted, HyperStackError, Unavailable

NICENESS = 19
_NEEDED_BYTES = 3 << 30
"""The source unpacked has 1.3 GB, its archive 0.3, the objects 0.3; and room for others."""
_UNPACK_DEADLINE_S = 1800
_MAKE_DEADLINE_S = 4 * 3600
_OBJECTS = 1700
"""Files that make compiles, about: the progress that is shown is a share of them."""
_STEP = 25
"""Objects between two messages."""
_TAIL_LINES = 20

Progress = Callable[[str, int, int], None]
"""What happens now; how much of it is done, of how much (both 0: unknown)."""


def build(store: KernelStore, progress: Progress) -> str:
    """The name of our kernel in the store: the one that the recipe asks for, built where it is not there yet.

    :raise Unavailable: tools or sources are missing, or the build failed; with the compiler's last words.
    :raise Exhausted: too little space. :raise Conflict: another process builds into this store.
    """
    recipe = kernel_recipe.read()
    if store.has(recipe.name):
        return recipe.name
    with build_lock.sole_builder(store.root):
        free = shutil.disk_usage(store.root).free
        if free < _NEEDED_BYTES:
            raise Exhausted(f"a kernel takes {_NEEDED_BYTES >> 20} MiB to build, and {store.root} has {free >> 20}",
                            field="space", value=free)
        with temporary_directory(store.root, build_lock.PREFIX) as work:
            source = _unpacked(recipe, work, progress)
            environment = _environment(source)
            _configure(recipe, source, environment, progress)
            _compile(source, environment, progress)
            _store(recipe, source, environment, store)
    return recipe.name


def _unpacked(recipe: Recipe, work: Path, progress: Progress) -> Path:
    archive = kernel_recipe.installed_source() or _downloaded(recipe, work, progress)
    progress("Unpacking the source", 0, 0)
    source = work / "source"
    source.mkdir()
    run(["tar", "-xJf", str(archive), "-C", str(source), "--strip-components=1", "--no-same-owner"],
        deadline_s=_UNPACK_DEADLINE_S)
    for patch in recipe.patches:
        progress(f"Applying {patch.name}", 0, 0)
        run(["patch", "-p1", "--batch", "--forward", "--no-backup-if-mismatch"], deadline_s=_UNPACK_DEADLINE_S,
            cwd=source, stdin=patch)
    return source


def _downloaded(recipe: Recipe, work: Path, progress: Progress) -> Path:
    """The source's archive out of the package."""
    progress(f"Downloading {PACKAGE} {recipe.source_version}", 0, 0)
    package = debian.fetch(f"{PACKAGE}={recipe.source_version}", work)
    run(["dpkg-deb", "-x", str(package), str(work / "package")], deadline_s=_UNPACK_DEADLINE_S)
    package.unlink()
    return next((work / "package/usr/src").glob("linux-source-*.tar.xz"))


def _environment(source: Path) -> dict[str, str]:
    """Nothing of the host's but the path to its programs. The kernel's date is that of its source."""
    released = time.strftime("%Y-%m-%d", time.gmtime((source / "COPYING").stat().st_mtime))
    return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "TZ": "UTC",
            "KBUILD_BUILD_TIMESTAMP": released, "KBUILD_BUILD_USER": "hyperstack", "KBUILD_BUILD_HOST": "hyperstack",
            "KBUILD_BUILD_VERSION": "1"}


def _configure(recipe: Recipe, source: Path, environment: dict[str, str], progress: Progress) -> None:
    progress("Configuring", 0, 0)
    fragment = source / "hyperstack.config"
    fragment.write_text(recipe.config)
    run(["make", "-s", f"KCONFIG_ALLCONFIG={fragment.name}", "allnoconfig"], deadline_s=_UNPACK_DEADLINE_S, cwd=source,
        env=environment)
    kernel_recipe.check_config(recipe.config, (source / ".config").read_text())


def _compile(source: Path, environment: dict[str, str], progress: Progress) -> None:
    """:raise Unavailable: with make's last lines."""
    done = 0
    tail: list[str] = []
    with subprocess.Popen(["make", f"-j{os.cpu_count() or 1}", "vmlinux"], cwd=source, env=environment, text=True,
                          errors="replace", stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT) as make:
        assert make.stdout is not None
        timer = threading.Timer(_MAKE_DEADLINE_S, make.kill)
        timer.start()
        try:
            for line in make.stdout:
                tail = [*tail[1 - _TAIL_LINES:], line.rstrip()]
                if re.match(r"  (CC|AS|AR|LD) ", line):
                    done += 1
                    if done % _STEP == 0:
                        progress("Compiling", min(done, _OBJECTS), _OBJECTS)
        finally:
            timer.cancel()
    if make.returncode != 0:
        raise Unavailable("the kernel does not compile: " + "\n".join(tail),
                          hint="Is there enough memory, and a compiler that this kernel knows?")


def _store(recipe: Recipe, source: Path, environment: dict[str, str], store: KernelStore) -> None:
    stripped = source / "vmlinux.stripped"
    run(["strip", "-s", "-o", str(stripped), "vmlinux"], deadline_s=_UNPACK_DEADLINE_S, cwd=source, env=environment)
    candidate = examine(vmlinux.read(stripped.read_bytes()), None)
    build_agent(store.root)
    staged = store.stage(recipe.name, candidate, command_line=recipe.command_line, origin="built",
                         min_memory_mib=kernel_recipe.MIN_MEMORY_MIB)
    store.commit(staged)


def _end_with_stdin() -> None:
    """The daemon holds the other end, and sends nothing."""
    os.read(0, 1)
    # Our whole group, compilers included. SIGTERM becomes an exit of ours that removes the directory.
    os.killpg(0, signal.SIGTERM)


def _stop(number: int, _frame: object) -> None:
    raise SystemExit(128 + number)


def main() -> None:
    """Of the child process; it leads a process group of its own."""
    os.nice(NICENESS)
    signal.signal(signal.SIGTERM, _stop)
    threading.Thread(target=_end_with_stdin, daemon=True).start()

    def tell(**message: object) -> None:
        print(json.dumps(message), flush=True)

    store = KernelStore(Path(sys.argv[1]))
    try:
        name = build(store, lambda status, current, total: tell(status=status, current=current, total=total))
        tell(name=name)
    except HyperStackError as error:
        tell(error=error.message, hint=error.hint or "")
        sys.exit(1)


if __name__ == "__main__":
    main()
