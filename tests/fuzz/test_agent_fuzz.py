"""The agent's parsers under libFuzzer with address and undefined-behaviour sanitizers, for a bounded time."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from hyperstack.guest.kernels import AGENT_SOURCES

SECONDS = int(os.environ.get("HYPERSTACK_FUZZ_SECONDS", "10"))


@pytest.mark.skipif(shutil.which("clang") is None, reason="needs clang with libFuzzer: apt-get install clang")
def test_agent_parsers_survive_fuzzing(tmp_path: Path) -> None:
    command = ["make", "-s", "-C", str(AGENT_SOURCES), f"OUT={tmp_path}", f"FUZZ_SECONDS={SECONDS}", "fuzz"]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
                          check=False)
    assert done.returncode == 0, done.stdout[-4000:]
    runs = [line.split()[-1] for line in done.stdout.splitlines() if "number_of_executed_units" in line]
    assert runs, done.stdout[-4000:]
    assert int(runs[0]) > 1000, f"only {runs[0]} runs: the fuzzer did not get going"
