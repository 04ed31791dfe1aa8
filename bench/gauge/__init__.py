"""The measuring program (gauge.c): compiled, as an image, and what it prints."""

from __future__ import annotations

import subprocess
from pathlib import Path

from bench.samples import Samples
from tests.harness import REGISTRY, Namespace
from tests.images import Pusher, base_layer, file_layer

IMAGE = f"{REGISTRY}/gauge:1"
PATH = "/bin/gauge"
DATA_PATH = "/data"
"""A file of the image's own, which compression does not shrink."""
PORT = "7000"
FIRST_WORD = b"gauge is up"
"""What it prints as a VM's init."""

_SOURCE = Path(__file__).with_name("gauge.c")


def compiled(directory: Path) -> Path:
    """A static executable. :raise subprocess.CalledProcessError: it does not compile."""
    made = directory / "gauge"
    subprocess.run(["musl-gcc", "-std=gnu11", "-D_GNU_SOURCE", "-O2", "-Wall", "-Wextra", "-Werror", "-static", "-s",
                    "-o", str(made), str(_SOURCE)], check=True)
    return made


def push_image(namespace: Namespace, program: Path, *, data: bytes = b"") -> None:
    """Busybox's layer, and one with the program and its data."""
    files = {PATH.lstrip("/"): program.read_bytes()} | ({DATA_PATH.lstrip("/"): data} if data else {})
    Pusher(namespace).push("gauge", "1", [base_layer(), file_layer(files)],
                           {"Cmd": [PATH, "serve", PORT], "Env": ["PATH=/bin"]})


def mb_per_s(output: str) -> float:
    """Of "BYTES NS"; megabytes are 10^6 bytes. :raise ValueError: it is not that."""
    count, took = (int(word) for word in output.split())
    return count * 1000 / took


def microseconds(clock: str, output: str) -> Samples:
    """Of a line of nanoseconds each."""
    return Samples(clock, "us", [int(line) / 1000 for line in output.split()])
