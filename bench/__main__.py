"""`python -m bench start [--json] [--samples N]`: measure, and print figures with all that is needed to judge them."""

from __future__ import annotations

import json
import os
import sys

import click

from bench import host, start


@click.group()
def main() -> None:
    """Benchmarks of HyperStack on this host. BENCHMARKS.md explains each figure."""
    if os.geteuid() != 0:
        sys.exit("bench: must run as root: it starts a hyperd of its own")


@main.command("start")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output; progress goes to stderr.")
@click.option("--samples", type=click.IntRange(2, 1000), default=12, show_default=True)
def start_command(as_json: bool, samples: int) -> None:
    """A cold start: API create + start until the first byte of output, beside podman run with runc."""
    facts = host.facts()
    figures, details = start.measure(samples)
    if as_json:
        print(json.dumps({"figures": figures, "details": details, "host": facts}, indent=2))
        return
    for name, value in (*figures.items(), *facts.items()):
        print(f"{name:24} {value}")


main()
