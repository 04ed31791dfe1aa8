"""hyperctl build: what goes to the daemon, from where, and how the answer is shown."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import pytest

from hyperstack.cli.context import BuildContext, read_context
from hyperstack.cli.errors import CliError


def sent(context: BuildContext) -> dict[str, bytes | None]:
    """Names of the context to contents, None for what is no file."""
    body = context.body if isinstance(context.body, bytes) else b"".join(context.body)
    with tarfile.open(fileobj=io.BytesIO(body)) as archive:
        return {entry.name: file.read() if entry.isreg() and (file := archive.extractfile(entry)) else None
                for entry in archive}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    made = tmp_path / "context"
    for name in ("Dockerfile", "a.txt", "b.log", "deep/c.log", "deep/kept.log", "node_modules/x/y", "other/Dockerfile"):
        (made / name).parent.mkdir(parents=True, exist_ok=True)
        (made / name).write_text(name)
    (made / "link").symlink_to("/etc/passwd")
    os.mkfifo(made / "pipe")
    return made


def test_a_directory_goes_without_what_is_ignored(root: Path) -> None:
    everything = sent(read_context(str(root), ""))
    assert everything["deep/c.log"] == b"deep/c.log"
    assert "link" in everything
    (root / ".dockerignore").write_text("**/*.log\n!deep/kept.log\nnode_modules\nDockerfile\npipe\n.dockerignore\n")
    # The two that the daemon needs go along all the same.
    assert set(sent(read_context(str(root), ""))) == {
        ".dockerignore", "Dockerfile", "a.txt", "deep", "deep/kept.log", "link", "other", "other/Dockerfile"}
    (root / ".dockerignore").write_text("*\n!deep/kept.log\n")
    assert set(sent(read_context(str(root), ""))) == {".dockerignore", "Dockerfile", "deep/kept.log"}
    # As for Docker's own client without BuildKit, a Dockerfile's own list is a file as any other.
    (root / ".dockerignore").write_text("*\n!a.txt\n!Dockerfile.dockerignore\n")
    (root / "Dockerfile.dockerignore").write_text("a.txt\n")
    assert set(sent(read_context(str(root), ""))) == {".dockerignore", "Dockerfile", "Dockerfile.dockerignore", "a.txt"}


def test_the_dockerfile_may_be_elsewhere(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert read_context(str(root), "").dockerfile == "Dockerfile"
    assert read_context(str(root), str(root / "other/Dockerfile")).dockerfile == "other/Dockerfile"
    assert read_context(str(root), "other/Dockerfile").dockerfile == "other/Dockerfile"
    monkeypatch.chdir(root)
    assert read_context(".", "other/Dockerfile").dockerfile == "other/Dockerfile"
    (tmp_path / "Outside").write_text("FROM outside")
    outside = read_context(str(root), str(tmp_path / "Outside"))
    assert sent(outside)[outside.dockerfile] == b"FROM outside"
    with pytest.raises(CliError, match=r"there is no Dockerfile"):
        read_context(str(root / "deep"), "")
    with pytest.raises(CliError, match="not found or not a directory"):
        read_context(str(root / "absent"), "")


class Stdin:
    def __init__(self, data: bytes) -> None:
        self.buffer = io.BytesIO(data)


def test_stdin_is_a_dockerfile_or_a_tar(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", Stdin(b"FROM x\n"))
    assert sent(read_context("-", "")) == {"Dockerfile": b"FROM x\n"}
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        archive.add(root / "a.txt", "a.txt")
    monkeypatch.setattr("sys.stdin", Stdin(packed.getvalue()))
    context = read_context("-", "sub/D")
    assert (sent(context), context.dockerfile) == ({"a.txt": b"a.txt"}, "sub/D")
    monkeypatch.setattr("sys.stdin", Stdin(b"FROM stdin\n"))
    mixed = read_context(str(root), "-")
    assert sent(mixed)[mixed.dockerfile] == b"FROM stdin\n"
    assert "a.txt" in sent(read_context(str(root), ""))
    monkeypatch.setattr("sys.stdin", Stdin(b""))
    for path, dockerfile in (("-", ""), ("-", "-"), ("https://x/y.git", "-")):
        with pytest.raises(CliError):
            read_context(path, dockerfile)


def test_addresses_are_left_to_the_daemon(root: Path) -> None:
    for address in ("https://x.example/y.tar", "git@x:y.git", "github.com/a/b#main:sub"):
        assert read_context(address, "").remote == address


def test_a_malformed_ignore_file_is_told(root: Path) -> None:
    (root / ".dockerignore").write_text("[a")
    with pytest.raises(CliError, match=r"\.dockerignore: syntax error in pattern"):
        read_context(str(root), "")
