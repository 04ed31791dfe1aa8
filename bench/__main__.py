"""`python -m bench COMMAND [--json]`: measure, and print figures with all that is needed to judge them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click

from bench import bed, density, engine_api, io, memory, net, plots, rate, start
from bench.host import Facts
from bench.report import Report, say
from hyperstack.pod.errors import HyperStackError

_Command = Callable[..., None]
_INTERRUPTED = 130
"""As a shell says it of Ctrl-C."""


@click.group()
def main() -> None:
    """Benchmarks of HyperStack on this host. BENCHMARKS.md explains each figure."""


def _json_option(command: _Command) -> _Command:
    text = "One JSON object on standard output; progress goes to stderr."
    return click.option("--json", "as_json", is_flag=True, help=text)(command)


def _count(name: str, *, default: int, text: str, least: int = 1) -> Callable[[_Command], _Command]:
    return click.option(name, type=click.IntRange(least, 100_000), default=default, show_default=True, help=text)


def _run(measure: Callable[[bed.Bed], None], as_json: bool) -> None:
    if os.geteuid() != 0:
        sys.exit("bench: must run as root: it starts a hyperd of its own")
    report, facts = Report(), Facts()
    try:
        with bed.made(report) as made:
            measure(made)
    except KeyboardInterrupt:
        say("bench: interrupted; nothing is left behind")
        sys.exit(_INTERRUPTED)
    except (RuntimeError, OSError, HyperStackError, subprocess.CalledProcessError) as error:
        sys.exit(f"bench: {error}")
    if as_json:
        print(json.dumps(report.document(facts.facts()), indent=2))
        return
    for name, value in (*report.figures.items(), *facts.facts().items()):
        print(f"{name:32} {value}")
    for name, reason in report.left_out.items():
        print(f"{name:32} left out: {reason}")


@main.command("start")
@_json_option
@_count("--samples", default=12, least=2, text="Starts of each kind.")
def start_command(as_json: bool, samples: int) -> None:
    """A start: API create + start until the first byte of output, beside podman run and a plain QEMU."""
    _run(lambda made: start.measure(made, samples), as_json)


@main.command("memory")
@_json_option
@_count("--pods", default=30, text="Idle pods whose memory is taken.")
@_count("--crowd", default=100, text="Pods that the daemon watches when its own cost is taken.")
@_count("--idle", default=60, text="Seconds over which the idle daemon's processor time is taken.")
def memory_command(as_json: bool, pods: int, crowd: int, idle: int) -> None:
    """An idle pod's memory on the host, where it goes, and the daemon's cost beside many."""
    _run(lambda made: memory.measure(made, pods, crowd, idle), as_json)


@main.command("density")
@_json_option
@_count("--limit", default=2000, text="Pods at most.")
@_count("--memory", default=24 << 10, text="MiB of the host that the pods may take together.")
@_count("--reserve", default=1024, text="MiB that stay available on the host.")
def density_command(as_json: bool, limit: int, memory: int, reserve: int) -> None:
    """How many idle pods the host holds, all of them answering."""
    _run(lambda made: density.measure(made, limit, memory, reserve), as_json)


@main.command("rate")
@_json_option
@_count("--pods", default=100, least=2, text="Pods asked for at once.")
def rate_command(as_json: bool, pods: int) -> None:
    """A storm of starts: how many pods a second."""
    _run(lambda made: rate.measure(made, pods), as_json)


@main.command("io")
@_json_option
@_count("--mib", default=128, text="Size of each file.")
@_count("--rounds", default=5, text="Rounds of throughput.")
@_count("--count", default=500, text="Single accesses.")
def io_command(as_json: bool, mib: int, rounds: int, count: int) -> None:
    """Disks: the image's layers, the writable layer, a volume."""
    _run(lambda made: io.measure(made, mib, rounds, count), as_json)


@main.command("net")
@_json_option
@_count("--seconds", default=5, text="Of each throughput.")
@_count("--rounds", default=5, text="Rounds of throughput.")
@_count("--count", default=500, text="Single round trips.")
def net_command(as_json: bool, seconds: int, rounds: int, count: int) -> None:
    """Network: between a pod and the host, and between two pods."""
    _run(lambda made: net.measure(made, seconds, rounds, count), as_json)


@main.command("api")
@_json_option
@_count("--samples", default=12, least=3, text="Runs of docker and of podman; transfers a third of it.")
@_count("--megabytes", default=100, text="Of each transfer.")
def api_command(as_json: bool, samples: int, megabytes: int) -> None:
    """The API: requests a second, answers beside many containers, and docker run, cp, logs, attach beside podman."""
    _run(lambda made: engine_api.measure(made, samples, megabytes), as_json)


@main.command("plots")
@click.option("--directory", type=click.Path(exists=True, file_okay=False, path_type=Path), default=plots.DIRECTORY,
              show_default="docs/performance", help="Holds the results (NAME.json), and gets the pictures (NAME.svg).")
def plots_command(directory: Path) -> None:
    """Make the pictures of docs/performance.md from stored results."""
    try:
        written = plots.draw(directory)
    except ValueError as error:
        sys.exit(f"bench: {error}")
    for path in written:
        print(path)


main()
