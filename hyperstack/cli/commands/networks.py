"""hyperctl network ls, create, rm, connect and disconnect."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from typing import Any

import click

from hyperstack.cli.app import App, Command, each, pass_app
from hyperstack.cli.client import filters, quoted
from hyperstack.cli.completing import containers, networks
from hyperstack.cli.errors import CliError
from hyperstack.cli.listing import Listing, short_id
from hyperstack.cli.options import endpoint, mapping

_LISTING = Listing({"ID": "NETWORK ID", "Name": "NAME", "Driver": "DRIVER", "Scope": "SCOPE", "Subnets": "SUBNETS",
                    "Internal": "INTERNAL", "CreatedAt": "CREATED AT", "Labels": "LABELS"},
                   ("ID", "Name", "Driver", "Subnets"))


@click.command(cls=Command)
@click.option("-f", "--filter", "chosen", multiple=True, metavar="KEY=VALUE",
              help="Show those that match: dangling, driver, id, label, name, scope, type")
@click.option("--format", "layout", default="", help="table, json, table TEMPLATE or TEMPLATE")
@click.option("--no-trunc", is_flag=True, help="Show whole ids")
@click.option("-q", "--quiet", is_flag=True, help="Show ids only")
@pass_app
def ls(app: App, *, chosen: Sequence[str], layout: str, no_trunc: bool, quiet: bool) -> None:
    """List networks."""
    found = sorted(app.client.get("/networks", {"filters": filters(chosen)}), key=lambda network: str(network["Name"]))
    rows = [_row(network, no_trunc=no_trunc) for network in found]
    if quiet:
        for row in rows:
            click.echo(row["ID"])
        return
    _LISTING.show(rows, layout)


def _row(network: Mapping[str, Any], *, no_trunc: bool) -> dict[str, Any]:
    labels: Mapping[str, str] = network.get("Labels") or {}
    pools = (network.get("IPAM") or {}).get("Config") or ()
    return {"ID": short_id(network["Id"], no_trunc=no_trunc), "Name": network["Name"], "Driver": network["Driver"],
            "Scope": network["Scope"], "Subnets": ",".join(pool["Subnet"] for pool in pools),
            "Internal": str(network["Internal"]).lower(), "CreatedAt": network["Created"],
            "Label": lambda name: labels.get(name, ""),
            "Labels": ",".join(f"{key}={value}" for key, value in sorted(labels.items()))}


@click.command(cls=Command)
@click.option("--attachable", is_flag=True, help="Taken for Docker's sake: on one host, every network is")
@click.option("--aux-address", multiple=True, metavar="NAME=ADDRESS", help="Keep an address free")
@click.option("-d", "--driver", default="bridge", show_default=True, help="Network driver")
@click.option("--gateway", multiple=True, metavar="ADDRESS", help="The host's address in a subnet (default: the first)")
@click.option("--internal", is_flag=True, help="No way out of the host, and no published ports")
@click.option("--ip-range", multiple=True, metavar="CIDR", help="Part of a subnet that addresses are taken from")
@click.option("--ipam-driver", default="default", show_default=True, help="Who gives addresses")
@click.option("--ipam-opt", multiple=True, metavar="KEY=VALUE", help="Set an option of the IPAM driver")
@click.option("--ipv6", is_flag=True, help="Give IPv6 addresses as well")
@click.option("--label", multiple=True, metavar="KEY[=VALUE]", help="Set a label")
@click.option("-o", "--opt", multiple=True, metavar="KEY=VALUE",
              help="Set an option of the driver, such as com.docker.network.driver.mtu=1400")
@click.option("--subnet", multiple=True, metavar="CIDR", help="A subnet (default: one that is free)")
@click.argument("name", metavar="NETWORK")
@pass_app
def create(app: App, *, name: str, attachable: bool, aux_address: Sequence[str], driver: str, gateway: Sequence[str],
           internal: bool, ip_range: Sequence[str], ipam_driver: str, ipam_opt: Sequence[str], ipv6: bool,
           label: Sequence[str], opt: Sequence[str], subnet: Sequence[str]) -> None:
    """Create a network, and print its id."""
    made = app.client.post("/networks/create", payload={
        "Name": name, "Driver": driver, "Internal": internal, "Attachable": attachable, "EnableIPv6": ipv6,
        "Labels": mapping(label, "label"), "Options": mapping(opt, "opt", required=True),
        "IPAM": {"Driver": ipam_driver, "Options": mapping(ipam_opt, "ipam-opt", required=True),
                 "Config": pools(subnet, gateway, ip_range, mapping(aux_address, "aux-address", required=True))}})
    click.echo(made["Id"])


def pools(subnets: Sequence[str], gateways: Sequence[str], ranges: Sequence[str], reserved: Mapping[str, str]
          ) -> list[dict[str, Any]]:
    """Each subnet with what belongs into it.

    :raise CliError: something is no address, or is in none of the subnets.
    """
    found: dict[str, dict[str, Any]] = {}
    for text in subnets:
        if text in found:
            raise CliError(f"conflicting subnets: {text} is given twice")
        found[text] = {"Subnet": text}
    for option, key, values in (("gateway", "Gateway", gateways), ("ip-range", "IPRange", ranges)):
        for text in values:
            pool = found[_home(text, subnets, option)]
            if key in pool:
                raise CliError(f"--{option} {text}: the subnet {pool['Subnet']} has one already")
            pool[key] = text
    for name, text in reserved.items():
        found[_home(text, subnets, "aux-address")].setdefault("AuxiliaryAddresses", {})[name] = text
    return list(found.values())


def _home(text: str, subnets: Sequence[str], option: str) -> str:
    try:
        address = ipaddress.ip_interface(text).ip
        return next(subnet for subnet in subnets if address in ipaddress.ip_network(subnet))
    except ValueError as error:
        raise CliError(f"--{option} {text}: {error}") from error
    except StopIteration:
        raise CliError(f"--{option} {text}: no subnet holds it", hint="name one with --subnet") from None


@click.command(cls=Command)
@click.argument("names", nargs=-1, required=True, metavar="NETWORK [NETWORK...]", shell_complete=networks)
@pass_app
def rm(app: App, *, names: Sequence[str]) -> None:
    """Remove networks that no running container is on."""
    def action(name: str) -> str:
        app.client.delete(f"/networks/{quoted(name)}")
        return name

    each(names, action)


@click.command(cls=Command)
@click.option("--alias", multiple=True, metavar="NAME", help="What else the container is called on the network")
@click.option("--gw-priority", type=int, default=0, help="The network with the highest has the container's way out")
@click.option("--ip", default="", metavar="ADDRESS", help="IPv4 address")
@click.option("--ip6", default="", metavar="ADDRESS", help="IPv6 address")
@click.option("--link", multiple=True, metavar="CONTAINER[:ALIAS]", help="Call another container of the network so")
@click.argument("network", shell_complete=networks)
@click.argument("container", shell_complete=containers)
@pass_app
def connect(app: App, *, network: str, container: str, alias: Sequence[str], gw_priority: int, ip: str, ip6: str,
            link: Sequence[str]) -> None:
    """Put a container on one more network, running or not."""
    app.client.post(f"/networks/{quoted(network)}/connect", payload={
        "Container": container, "EndpointConfig": endpoint(aliases=alias, ip=ip, ip6=ip6, links=link,
                                                               priority=gw_priority)})


@click.command(cls=Command)
@click.option("-f", "--force", is_flag=True, help="Taken for Docker's sake")
@click.argument("network", shell_complete=networks)
@click.argument("container", shell_complete=containers)
@pass_app
def disconnect(app: App, *, network: str, container: str, force: bool) -> None:
    """Take a container off a network, running or not."""
    app.client.post(f"/networks/{quoted(network)}/disconnect", payload={"Container": container, "Force": force})
