"""The pages of docs/commands and the completion scripts say what the commands say."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import click
import pytest

from hyperstack.cli import docs
from hyperstack.cli.examples import EXAMPLES
from tests.unit.cli_daemon import Daemon
from tests.unit.cli_process import here

ROOT = Path(__file__).parents[2]
REMEDY = "run: python -m hyperstack.cli.docs docs/commands packaging/completions"


def files(directory: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in directory.iterdir()}


def test_the_pages_are_current() -> None:
    assert files(ROOT / "docs" / "commands") == docs.pages(), REMEDY


def test_the_completion_scripts_are_current() -> None:
    assert files(ROOT / "packaging" / "completions") == docs.completions(), REMEDY


def test_stale_pages_go(tmp_path: Path) -> None:
    (tmp_path / "old.md").write_text("a command that is gone")
    docs.write(tmp_path, {"new.md": "text"})
    assert files(tmp_path) == {"new.md": "text"}


def test_every_example_has_a_page_and_uses_its_command() -> None:
    pages = docs.pages()
    for path, text in EXAMPLES.items():
        assert f"{path.replace(' ', '_')}.md" in pages
        assert f"hyperctl {path}" in text


@pytest.mark.parametrize("path", sorted(docs.pages()))
def test_every_page_names_its_command_and_what_it_does(path: str) -> None:
    text = docs.pages()[path]
    assert "# hyperctl" in text
    assert "\b" not in text
    assert len(text.splitlines()) > 6


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_scripts_are_what_the_command_prints(shell: str, tmp_path: Path) -> None:
    daemon = Daemon(tmp_path)
    try:
        printed = here(daemon, "completion", shell).stdout.decode()
    finally:
        daemon.close()
    assert printed in docs.completions().values()


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
def test_bash_reads_its_script() -> None:
    subprocess.run(["bash", "-n", ROOT / "packaging" / "completions" / "hyperctl.bash"], check=True)


def test_no_two_options_of_a_command_share_a_name() -> None:
    for path, command in docs.commands():
        names = [name for parameter in command.params if isinstance(parameter, click.Option)
                 for name in (*parameter.opts, *parameter.secondary_opts)]
        assert len(names) == len(set(names)), path
