"""Coverage-guided fuzzing of Python parsers, each target in a process of its own that was instrumented for it."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path


def run_target(module: str, target: str, seeds: Sequence[bytes], directory: Path, *, seconds: int, max_len: int,
               rss_limit_mb: int) -> None:
    """Fuzz one target of a test module for a bounded time, starting from `seeds`, with its corpus in `directory`.

    :raise AssertionError: an input crashed it, hung it, or made it take too much; or nothing but the seeds was tried.
    """
    for place, seed in enumerate(seeds):
        (directory / f"seed{place}").write_bytes(seed)
    done = subprocess.run(
        [sys.executable, "-m", module, target, f"-max_total_time={seconds}", f"-max_len={max_len}", "-timeout=20",
         f"-rss_limit_mb={rss_limit_mb}", f"-artifact_prefix={directory}/crash-", str(directory)],
        cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False, timeout=seconds + 120)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    runs = re.search(r"Done (\d+) runs", done.stdout + done.stderr)
    assert runs
    assert int(runs[1]) > len(seeds)


def fuzz(targets: Mapping[str, Callable[[bytes], None]], room: str, modules: Sequence[str]) -> None:
    """The fuzzing process itself: imports `modules` of `room` instrumented, then runs the target that argv names."""
    import atheris

    with atheris.instrument_imports(include=[room]):
        for module in modules:
            importlib.import_module(module)
    target = targets[sys.argv.pop(1)]
    atheris.Setup(sys.argv, target)
    atheris.Fuzz()
