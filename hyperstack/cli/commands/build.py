"""hyperctl build."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click

from hyperstack.cli import options, pulling
from hyperstack.cli.app import App, Command, pass_app
from hyperstack.cli.context import read_context
from hyperstack.cli.credentials import header_for_all
from hyperstack.cli.errors import CliError
from hyperstack.cli.units import parse_size


@click.command(cls=Command)
@click.option("-t", "--tag", multiple=True, metavar="NAME[:TAG]", help="Name of the image; may be given several times")
@click.option("-f", "--file", "dockerfile", default="", metavar="FILE", help="The Dockerfile; - is stdin")
@click.option("--build-arg", multiple=True, metavar="NAME[=VALUE]", help="Value of an ARG")
@click.option("--label", multiple=True, metavar="NAME=VALUE", help="Label of the image")
@click.option("--target", default="", metavar="STAGE", help="Build up to this stage")
@click.option("--no-cache", is_flag=True, help="Do every step anew")
@click.option("--cache-from", multiple=True, metavar="IMAGE", help="Take steps over from this image, too")
@click.option("--pull", is_flag=True, help="Look for newer base images")
@click.option("--platform", default="", help="Platform of the image (os/arch)")
@click.option("-q", "--quiet", is_flag=True, help="Print nothing but the id of the image")
@click.option("--iidfile", default="", metavar="FILE", help="Write the id of the image to this file")
@click.option("--rm/--no-rm", default=True, show_default=True, help="Remove the containers of steps that went well")
@click.option("--force-rm", is_flag=True, help="Remove those of steps that failed, too")
@click.option("--network", default="default", show_default=True, metavar="NAME", help="Network of each RUN; or none")
@click.option("--add-host", multiple=True, metavar="HOST:IP", help="One more name for each RUN")
@click.option("-m", "--memory", default="", metavar="BYTES", help="Memory limit of each RUN")
@click.option("--memory-swap", default="", metavar="BYTES", help="Checked and of no effect: guests have no swap")
@click.option("-c", "--cpu-shares", type=int, default=0, help="Weight of each RUN's CPU time")
@click.option("--cpu-period", type=int, default=0, metavar="US", help="Period of the CPU quota, in microseconds")
@click.option("--cpu-quota", type=int, default=0, metavar="US", help="CPU time of each RUN in a period")
@click.option("--cpuset-cpus", default="", metavar="CPUS", help="CPUs of the host that each RUN may use: 0-2,4")
@click.option("--shm-size", default="", metavar="BYTES", help="Size of /dev/shm")
@click.option("--ulimit", multiple=True, metavar="NAME=SOFT[:HARD]", help="Limit of each RUN's processes")
@click.argument("path", metavar="PATH|URL|-")
@pass_app
def build(app: App, /, *, path: str, dockerfile: str, quiet: bool, iidfile: str, **asked: Any) -> None:
    """Build an image from a Dockerfile; each RUN has a VM of its own."""
    context = read_context(path, dockerfile)
    query = {"dockerfile": context.dockerfile, "remote": context.remote or None, "q": quiet, **_query(**asked)}
    response = app.client.request("POST", "/build", query=query, body=context.body, headers={
        "Content-Type": "application/x-tar", **header_for_all()})
    found: list[str] = []
    texts = pulling.show(_watched(response.json_lines(), found), quiet=quiet)
    if quiet:
        click.echo("".join(texts), nl=False)
    if iidfile:
        if not found:
            raise CliError(f"hyperd did not tell the image's id, so {iidfile} was not written")
        Path(iidfile).write_text(found[-1])


def _query(*, tag: Sequence[str], build_arg: Sequence[str], label: Sequence[str], target: str, no_cache: bool,
           cache_from: Sequence[str], pull: bool, platform: str, rm: bool, force_rm: bool, network: str,
           add_host: Sequence[str], memory: str, memory_swap: str, cpu_shares: int, cpu_period: int, cpu_quota: int,
           cpuset_cpus: str, shm_size: str, ulimit: Sequence[str]) -> dict[str, Any]:
    limits = options.resources(memory=memory, memory_swap=memory_swap)
    return {
        "t": tag, "buildargs": json.dumps(dict(map(_argument, build_arg))) if build_arg else None,
        "labels": json.dumps(dict(map(_label, label))) if label else None, "target": target or None,
        "nocache": no_cache, "cachefrom": json.dumps(cache_from) if cache_from else None, "pull": pull,
        "platform": platform or None, "rm": "1" if rm else "0", "forcerm": force_rm,
        "networkmode": network, "extrahosts": [options.extra_host(value) for value in add_host],
        "memory": limits.get("Memory"), "memswap": limits.get("MemorySwap"), "cpushares": cpu_shares or None,
        "cpuperiod": cpu_period or None, "cpuquota": cpu_quota or None,
        "cpusetcpus": cpuset_cpus or None,
        "shmsize": parse_size(shm_size) if shm_size else None,
        "ulimits": json.dumps([options.ulimit(value) for value in ulimit]) if ulimit else None}


def _argument(text: str) -> tuple[str, str | None]:
    """A bare name takes its value from the environment, where it has one."""
    name, equals, value = text.partition("=")
    return name, value if equals else os.environ.get(name)


def _label(text: str) -> tuple[str, str]:
    name, _, value = text.partition("=")
    return name, value


def _watched(messages: Iterator[Any], found: list[str]) -> Iterator[Any]:
    """The messages; ids of images among them are collected."""
    for message in messages:
        if isinstance(message, dict) and isinstance(ident := (message.get("aux") or {}).get("ID"), str):
            found.append(ident)
            continue
        yield message
