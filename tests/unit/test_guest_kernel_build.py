"""Our own kernel's recipe, and what goes wrong around a build. The build itself: tests/vm/test_own_kernel.py."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from hyperstack.guest import build_lock, kernel_check, kernel_recipe
from hyperstack.guest.kernel_recipe import Recipe
from hyperstack.pod.errors import Conflict, InvalidArgument, Unavailable

CONFIG = (kernel_recipe.DIRECTORY / "config").read_text()


def group_lives(leader: int) -> bool:
    try:
        os.killpg(leader, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    patch = tmp_path / "0001.patch"
    patch.write_text("--- a\n+++ b\n")
    return Recipe(source_version="6.1.192-2", config=CONFIG, patches=(patch,), command_line="a=b", compiler="gcc 12")


def test_our_configuration_has_all_that_we_ask_of_others() -> None:
    options = kernel_check.parse_config(CONFIG)
    assert {name for name in kernel_check.DRIVERS.values() if options.get(name) != "y"} == set()
    assert {name for name in kernel_check._WANTED if options.get(name) != "y"} == set()
    # The kernel switches these on by itself, with what is asked for.
    implied = {name for name in kernel_check._REQUIRED if options.get(name) != "y"}
    assert implied == set()


def test_the_kernel_is_named_by_all_that_it_is_made_of(recipe: Recipe) -> None:
    patch = recipe.patches[0]
    names = {recipe.name, replace(recipe, config=CONFIG + "#").name, replace(recipe, compiler="gcc 13").name,
             replace(recipe, command_line="").name, replace(recipe, source_version="6.1.192-3").name}
    patch.write_text("another")
    names.add(recipe.name)
    assert len(names) == 6
    assert all(name.startswith("hyperstack-6.1.192-") for name in names)


def test_options_that_the_kernel_s_rules_took_back_are_named() -> None:
    fragment = "# a comment\nCONFIG_A=y\nCONFIG_B=n\nCONFIG_C=64\nCONFIG_D=n\nCONFIG_E=y\n"
    resulting = "CONFIG_A=y\nCONFIG_B=y\nCONFIG_C=8\n# CONFIG_E is not set\n"
    with pytest.raises(InvalidArgument) as caught:
        kernel_recipe.check_config(fragment, resulting)
    text = str(caught.value)
    assert all(word in text for word in ("CONFIG_B=n", "CONFIG_C=64 (it is CONFIG_C=8)", "CONFIG_E=y (it is not set)"))
    assert "CONFIG_A" not in text
    assert "CONFIG_D" not in text


def test_tools_that_are_missing_are_named_with_their_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Unavailable) as caught:
        kernel_recipe.read()
    assert caught.value.hint is not None
    assert caught.value.hint.startswith("apt-get install ")
    assert {"flex", "bison", "make", "xz-utils"} <= set(caught.value.hint.split())


def test_one_store_has_one_builder(tmp_path: Path) -> None:
    with build_lock.sole_builder(tmp_path), pytest.raises(Conflict), build_lock.sole_builder(tmp_path):
        pytest.fail("two builders")
    with build_lock.sole_builder(tmp_path):
        pass


def test_what_a_killed_builder_left_is_removed_and_a_living_one_is_let_be(tmp_path: Path) -> None:
    left = tmp_path / f"{build_lock.PREFIX}x"
    (left / "source").mkdir(parents=True)
    script = ("import sys, pathlib; from hyperstack.guest import build_lock\n"
              "with build_lock.sole_builder(pathlib.Path(sys.argv[1])):\n"
              f"    pathlib.Path(sys.argv[1], '{build_lock.PREFIX}y').mkdir()\n"
              "    print('here', flush=True); sys.stdin.read()")
    with subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
                          ) as builder:
        assert builder.stdout is not None
        assert builder.stdout.readline() == b"here\n"
        build_lock.remove_abandoned(tmp_path)
        assert [path.name for path in tmp_path.glob(".new-*")] == [f"{build_lock.PREFIX}y"]
        builder.kill()
    build_lock.remove_abandoned(tmp_path)
    assert not list(tmp_path.glob(".new-*"))


def test_the_builder_ends_with_who_started_it(tmp_path: Path) -> None:
    """A program that never ends stands in for the first that the builder runs."""
    (tmp_path / "bin").mkdir()
    for tool in (*kernel_recipe._TOOLS, "apt-cache"):
        (tmp_path / "bin" / tool).write_text("#!/bin/sh\nexec /bin/sleep 600\n")
        (tmp_path / "bin" / tool).chmod(0o755)
    environment = os.environ | {"PATH": str(tmp_path / "bin")}
    with subprocess.Popen([sys.executable, "-m", "hyperstack.guest.kernel_build", str(tmp_path / "store")],
                          env=environment, stdin=subprocess.PIPE, start_new_session=True) as child:
        assert child.stdin is not None
        child.stdin.close()
        assert child.wait(timeout=60) != 0
    while group_lives(child.pid):
        time.sleep(0.01)
