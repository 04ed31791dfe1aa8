"""`hyperd`: parse the command line, start the process."""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import click
import uvloop

from hyperstack import __version__
from hyperstack.daemon import logs
from hyperstack.daemon.config import DEFAULT_FILE, Config, load
from hyperstack.daemon.server import serve
from hyperstack.daemon.wiring import prepare
from hyperstack.pod.errors import HyperStackError

_log = logging.getLogger(__name__)


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option("--config", "config_file", type=click.Path(path_type=Path), help=f"TOML file  [default: {DEFAULT_FILE}]")
@click.option("--data-root", help="Images, disks and state  [default: /var/lib/hyperstack]")
@click.option("--run-dir", help="What does not outlive a reboot  [default: /run/hyperstack]")
@click.option("--cache-dir", help="Kernels, compiled agent and jail; may be shared  [default: cache in the data root]")
@click.option("-H", "--host", "hosts", multiple=True, metavar="unix:///PATH|tcp://ADDRESS[:PORT]",
              help="Where to listen; may be repeated  [default: docker.sock in the run directory]")
@click.option("--tlsverify", is_flag=True, default=None,
              help="Serve tcp:// hosts with TLS, to clients with a certificate of --tlscacert's authority")
@click.option("--tlscacert", metavar="FILE", help="Whose clients are let in  [default: /etc/hyperstack/tls/ca.pem]")
@click.option("--tlscert", metavar="FILE", help="[default: /etc/hyperstack/tls/server-cert.pem]")
@click.option("--tlskey", metavar="FILE", help="[default: /etc/hyperstack/tls/server-key.pem]")
@click.option("--group", help="Group whose members may use the socket  [default: hyperstack]")
@click.option("--log-level", type=click.Choice(["debug", "info", "warning", "error"]), help="[default: info]")
@click.option("--log-format", type=click.Choice(["text", "json"]), help="[default: text]")
@click.option("--insecure-registry", "insecure", multiple=True, metavar="HOST[:PORT]",
              help="Registry that is spoken to in plain http; may be repeated")
@click.option("--registry-mirror", "mirrors", multiple=True, metavar="HOST=ENDPOINT",
              help="Fetch HOST's images from ENDPOINT, names kept; may be repeated")
@click.option("--prepare", "only_prepare", is_flag=True,
              help="Compile the guest's agent and fetch the default kernel, then end; else the first start does it")
@click.version_option(__version__, prog_name="hyperd")
def main(config_file: Path | None, only_prepare: bool, **options: Any) -> None:
    """The daemon of one HyperStack host: runs each pod of Docker images as its own small virtual machine.

    Options win over the configuration file. SIGTERM ends the daemon and leaves the pods running; SIGHUP reads the
    log level, the registries and the server's certificate again.
    """
    try:
        overrides = _overrides(options)
        config = load(config_file, overrides)
        _require_root()
        logs.configure(config.log_level, config.log_format)
        if only_prepare:
            uvloop.run(prepare(config, _log.info))
        else:
            uvloop.run(serve(config, _reloader(config_file, overrides)))
    except HyperStackError as error:
        sys.exit(f"hyperd: {error}")
    except OSError as error:
        sys.exit(f"hyperd: {error}")


def _reloader(config_file: Path | None, overrides: dict[str, Any]) -> Callable[[], Config]:
    return lambda: load(config_file, overrides)


def _overrides(options: dict[str, Any]) -> dict[str, Any]:
    """The options that were given, in the configuration file's shape."""
    chosen = {name: value for name, value in options.items() if value not in (None, ())}
    registries: dict[str, Any] = {}
    if insecure := chosen.pop("insecure", ()):
        registries["insecure"] = list(insecure)
    if mirrors := chosen.pop("mirrors", ()):
        registries["mirrors"] = _mirrors(mirrors)
    if registries:
        chosen["registries"] = registries
    names = {"tlsverify": "verify", "tlscacert": "ca", "tlscert": "certificate", "tlskey": "key"}
    if tls := {names[option]: chosen.pop(option) for option in names if option in chosen}:
        chosen["tls"] = tls
    if hosts := chosen.pop("hosts", ()):
        chosen["hosts"] = list(hosts)
    return chosen


def _mirrors(texts: Iterable[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for text in texts:
        host, equals, endpoint = text.partition("=")
        if not equals:
            raise click.BadParameter(f"{text!r} is not HOST=ENDPOINT", param_hint="--registry-mirror")
        found.setdefault(host, []).append(endpoint)
    return found


def _require_root() -> None:
    if os.geteuid() != 0:
        sys.exit("hyperd: must be started as root: it makes cgroups, namespaces and taps, and gives each VM a uid of "
                 "its own (try: sudo hyperd)")


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    main()
