"""docker build: a Dockerfile becomes an image, with what the command line says of it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.clients.peers import LABEL, Cli
from tests.images import BUSYBOX

DOCKERFILE = f"""
ARG BASE={BUSYBOX}
FROM $BASE AS first
ARG WORD=plain
RUN echo $WORD > /word
FROM first AS second
COPY kept/ /kept/
ENV A=b
LABEL {LABEL}=yes
WORKDIR /kept
CMD ["cat", "/word", "file"]
"""


@pytest.fixture
def context(tmp_path: Path) -> Path:
    (tmp_path / "Dockerfile").write_text(DOCKERFILE)
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "file").write_text("copied\n")
    (tmp_path / "kept" / "left").write_text("out\n")
    (tmp_path / ".dockerignore").write_text("**/left\n")
    return tmp_path


def test_a_build_and_its_cache(cli: Cli, context: Path) -> None:
    said = cli("build", "-t", "hs-built:1", "-t", "hs-built:2", "--build-arg", "WORD=spoken", str(context))
    assert "Step 1/" in said
    assert re.search(r"^Successfully built [0-9a-f]{12}$", said, re.MULTILINE)
    assert said.endswith("Successfully tagged hs-built:1\nSuccessfully tagged hs-built:2")
    assert cli.lines("run", "--rm", "hs-built:1") == ["spoken", "copied"]
    assert cli("run", "--rm", "hs-built:1", "ls") == "file"
    again = cli("build", "-t", "hs-built:1", "--build-arg", "WORD=spoken", str(context))
    assert again.count("Using cache") >= 3
    assert "Using cache" not in cli("build", "--no-cache", "-t", "hs-built:1", str(context))
    assert cli.lines("run", "--rm", "hs-built:1") == ["plain", "copied"]


def test_a_build_says_only_its_image(cli: Cli, context: Path) -> None:
    file = context / "image"
    ident = cli("image", "build", "-q", "--target", "first", "--label", "k=v", "--iidfile", str(file), "-t",
                "hs-built:1",
                "-f", str(context / "Dockerfile"), str(context))
    assert re.match(r"sha256:[0-9a-f]{64}\Z", ident)
    assert file.read_text().strip() == ident
    [shown] = json.loads(cli("image", "inspect", ident))
    assert shown["Config"]["Labels"]["k"] == "v"
    assert shown["RepoTags"] == ["hs-built:1"]


def test_a_build_of_standard_input(cli: Cli) -> None:
    cli("builder", "build", "-t", "hs-built:1", "-", stdin=f"FROM {BUSYBOX}\nRUN echo made > /made\n".encode())
    assert cli("run", "--rm", "hs-built:1", "cat", "/made") == "made"
    cli("builder", "prune", "-f")


def test_builds_that_fail(cli: Cli, context: Path) -> None:
    (context / "Dockerfile").write_text(f"FROM {BUSYBOX}\nRUN echo before; exit 7\n")
    done = cli.run("build", "-t", "hs-built:1", str(context), code=7)
    assert "before" in done.stdout
    assert "The command '/bin/sh -c echo before; exit 7' returned a non-zero code: 7" in done.stderr
    (context / "Dockerfile").write_text(f"FROM {BUSYBOX}\nCOPY none /\n")
    assert "none" in cli.fails("build", str(context))
    (context / "Dockerfile").write_text(f"FROM {BUSYBOX}\nNOSUCH thing\n")
    assert "unknown instruction: NOSUCH" in cli.fails("build", str(context))
    assert "No such image: hs-built:1" in cli.fails("image", "inspect", "hs-built:1")
