"""What other firewalls of this host do to pods: an accept in our tables does not overrule a drop in another's.

Nothing is put into those tables: whose they are decides. Found out here is which chains drop what they do not know, and
which rules let pods through there; what pods may do is still decided by our own tables.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hyperstack.network.bridge.names import Names
from hyperstack.pod.finding import Finding

_TIMEOUT_S = 10
_LEGACY_TABLES = Path("/proc/thread-self/net/ip_tables_names")
"""Of the old kind, those that are there; asking `iptables-legacy` itself would make them."""
_LOSSES = {"forward": "pods reach nobody beyond this host, and nobody their published ports",
           "input": "pods cannot ask their network's name server, nor ping their gateway"}
_COMMANDS = {"ip": "iptables", "ip6": "ip6tables"}
_DOCKERS = "DOCKER-USER"
"""Where Docker leaves room for others' rules, before its own."""


@dataclass(frozen=True)
class Blocker:
    """A chain that drops pods' packets."""

    hook: str
    """forward or input"""
    where: str
    """As a person knows it."""
    remedy: tuple[str, ...]
    """Commands that let pods through."""


def other_firewalls(names: Names) -> Finding:
    """One finding for all of them. Blocks."""
    blockers = [*_of_nftables(names), *_of_legacy(names)]
    if not blockers:
        return Finding(name="other firewalls", status="ok", detail="none drops what pods send")
    losses = (f"{', '.join(b.where for b in blockers if b.hook == hook)}: {loss}" for hook, loss in _LOSSES.items()
              if any(b.hook == hook for b in blockers))
    return Finding(name="other firewalls", status="warn", detail="packets are dropped in " + "; in ".join(losses),
                   remedy=" && ".join(dict.fromkeys(command for b in blockers for command in b.remedy))
                   + " (what pods may do is still decided by HyperStack's own rules)")


def _of_nftables(names: Names) -> Iterable[Blocker]:
    for chain in _listed("chains", "chain"):
        family, table, name, hook = (str(chain.get(key, "")) for key in ("family", "table", "name", "hook"))
        if hook not in _LOSSES or family not in ("ip", "ip6", "inet") or table == names.table:
            continue
        rules = _listed("table", "rule", family, table)
        own = [rule for rule in rules if rule.get("chain") == name]
        if chain.get("policy") != "drop" and not (own and _is_final(own[-1])):
            continue
        if all(_lets_through(rules, key, f"{names.bridge_prefix}*") for key in _keys(hook)):
            continue
        # The new iptables has chains of these names in tables of this name, and nothing else has.
        if table == "filter" and family in _COMMANDS and name in ("FORWARD", "INPUT"):
            docker = hook == "forward" and any(rule.get("chain") == name and _jumps(rule) == _DOCKERS for rule in rules)
            yield _of_iptables(names, hook, _COMMANDS[family], _DOCKERS if docker else name, docker=docker)
        else:
            device = f'"{names.bridge_prefix}*"'
            yield Blocker(hook, f"nftables {family} {table} {name}", tuple(
                f"nft 'insert rule {family} {table} {name} {key} {device} accept'" for key in _keys(hook)))


def _of_legacy(names: Names) -> Iterable[Blocker]:
    """Of the old iptables for IPv4, whose rules nftables does not list."""
    command = "iptables-legacy"
    try:
        there = "filter" in _LEGACY_TABLES.read_text().split()
    except OSError:
        there = False
    if not there or shutil.which(command) is None:
        return
    rules = _run(command, "-S").splitlines()
    for hook, chain in (("forward", "FORWARD"), ("input", "INPUT")):
        last = next((rule for rule in reversed(rules) if rule.startswith(f"-A {chain} ")), "")
        drops = last.split()[2:4] in (["-j", "DROP"], ["-j", "REJECT"])
        through = all(any(rule.split()[2:] == [option, f"{names.bridge_prefix}+", "-j", "ACCEPT"] for rule in rules)
                      for option in _options(hook))
        if (drops or f"-P {chain} DROP" in rules) and not through:
            docker = hook == "forward" and f"-A FORWARD -j {_DOCKERS}" in rules
            yield _of_iptables(names, hook, command, _DOCKERS if docker else chain, docker=docker)


def _of_iptables(names: Names, hook: str, command: str, chain: str, *, docker: bool) -> Blocker:
    whose = f"{command} {hook.upper()}{' (Docker)' if docker else ''}"
    return Blocker(hook, whose, tuple(
        f"{command} -I {chain} {option} {names.bridge_prefix}+ -j ACCEPT" for option in _options(hook)))


def _keys(hook: str) -> tuple[str, ...]:
    return ("iifname", "oifname") if hook == "forward" else ("iifname",)


def _options(hook: str) -> tuple[str, ...]:
    return ("-i", "-o") if hook == "forward" else ("-i",)


def _lets_through(rules: Iterable[dict[str, Any]], key: str, device: str) -> bool:
    """Whether a rule accepts whatever comes from, or goes to, devices of this pattern."""
    return any(any("accept" in part for part in rule["expr"])
               and [part["match"] for part in rule["expr"] if "match" in part]
               == [{"op": "==", "left": {"meta": {"key": key}}, "right": device}] for rule in rules)


def _is_final(rule: dict[str, Any]) -> bool:
    """Whether nothing passes it."""
    parts = [part for part in rule["expr"] if "counter" not in part]
    # The new iptables' own, which nft knows by name alone.
    target = {"type": "target", "name": "REJECT"}
    return len(parts) == 1 and (any(word in parts[0] for word in ("drop", "reject")) or parts[0].get("xt") == target)


def _jumps(rule: dict[str, Any]) -> str:
    return next((str(part["jump"]["target"]) for part in rule["expr"] if "jump" in part), "")


def _listed(what: str, kind: str, *where: str) -> list[dict[str, Any]]:
    """Items of this kind; none where nft cannot tell, of which another finding speaks."""
    text = _run("nft", "-j", "list", what, *where)
    return [item[kind] for item in json.loads(text)["nftables"] if kind in item] if text else []


def _run(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout
