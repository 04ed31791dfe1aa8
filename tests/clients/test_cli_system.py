"""docker version, info, events, system, login, search and context; and whether every command was used."""

from __future__ import annotations

import json
import re
import time

import pytest

from tests.clients.peers import LABEL, Cli
from tests.harness import REGISTRY
from tests.images import BUSYBOX

ELSEWHERE = frozenset({
    "swarm", "node", "service", "stack", "secret", "config", "plugin",  # of a swarm, and of an engine's own add-ons
    "trust", "completion", "checkpoint",  # of the client alone, or of no engine by default
    "buildx", "compose"})
ALIASES = {"ps": "container ls", "images": "image ls", "rmi": "image rm"}
COMMANDS = 150
"""At least so many command lines make the scenario."""


def test_version_and_info(cli: Cli) -> None:
    assert re.search(r"^ +API version: +1\.\d+ \(minimum version 1\.\d+\)$", cli("version"), re.MULTILINE)
    server = json.loads(cli("version", "--format", "{{json .Server}}"))
    assert (server["Os"], server["Arch"]) == ("linux", "amd64")
    assert server["ApiVersion"] >= "1.41"
    assert "Server Version: " in cli("info")
    assert cli("info", "--format", "{{.OSType}} {{.DefaultRuntime}}") == f"linux {cli.expect.runtime}"
    assert cli("system", "info", "--format", "{{.Swarm.LocalNodeState}}") == "inactive"


def test_disk_usage(cli: Cli) -> None:
    cli("run", "-d", "--name", "hs-du", "-v", "hs-v:/d", BUSYBOX, "sleep", "600")
    rows = {row["TYPE"]: row for row in cli.table("system", "df")}
    assert list(rows) == ["Images", "Containers", "Local Volumes", "Build Cache"]
    assert int(rows["Containers"]["ACTIVE"]) >= 1
    detailed = cli("system", "df", "-v")
    for title in ("Images space usage:", "Containers space usage:", "Local Volumes space usage:", "Build cache usage:"):
        assert title in detailed
    assert re.search(r"^hs-v +1 ", detailed, re.MULTILINE)
    assert cli.lines("system", "df", "--format", "{{.Type}}") == list(rows)


def test_events_tell_a_containers_life(cli: Cli) -> None:
    since = f"{time.time():.6f}"
    cli("network", "create", "hs-n")
    cli.run("run", "--name", "hs-ev", "--network", "hs-n", "-l", "k=v", "-v", "hs-used:/d:ro", BUSYBOX, "sh", "-c",
            "exit 2", code=2)
    cli("rename", "hs-ev", "hs-ew")
    cli("rm", "hs-ew")
    cli("tag", BUSYBOX, "hs-ev:1")
    cli("rmi", "hs-ev:1")
    cli("volume", "create", "hs-ev")
    cli("volume", "rm", "hs-ev")
    window = ("events", "--since", since, "--until", f"{time.time() + 0.1:.3f}")
    told = cli.lines(*window, "--filter", "type=container", "--filter", "label=k=v", "--format", "{{.Action}}")
    assert told == ["create", "attach", "start", "die", "rename", "destroy"]
    assert cli.lines(*window, "--filter", "type=container", "--filter", "event=die", "--filter", "label=k=v",
                     "--format", "{{.Actor.Attributes.exitCode}} {{.Actor.Attributes.name}}") == ["2 hs-ev"]
    assert cli.lines(*window, "--filter", "type=network", "--format", "{{.Action}}") == ["create", "connect",
                                                                                         "disconnect"]
    assert cli.lines(*window, "--filter", "type=volume", "--filter", "volume=hs-ev", "--format",
                     "{{.Action}}") == ["create", "destroy"]
    assert cli.lines(*window, "--filter", "type=volume", "--filter", "volume=hs-used", "--format",
                     "{{.Action}}") == ["create", "mount", "unmount"]
    [mounted] = cli.lines(*window, "--filter", "event=mount", "--filter", "volume=hs-used", "--format",
                          "{{json .Actor.Attributes}}")
    assert json.loads(mounted).items() >= {"destination": "/d", "driver": "local", "read/write": "false"}.items()
    assert cli.lines(*window, "--filter", "type=image", "--format", "{{.Action}}") == ["tag", "untag"]
    [line] = cli.lines(*window, "--filter", "container=hs-ew", "--filter", "event=destroy")
    assert re.match(r"\d{4}-\d\d-\d\dT[\d:.]+[+-Z][\d:]* container destroy [0-9a-f]{64} \(.*name=hs-ew.*\)\Z", line)
    assert json.loads(cli.lines("system", *window, "--format", "{{json .}}")[0])["Type"] == "network"


def test_a_login_is_kept_by_the_client(cli: Cli) -> None:
    assert "Login Succeeded" in cli("login", "-u", "someone", "--password-stdin", REGISTRY, stdin=b"secret")
    assert REGISTRY in json.loads((cli.home / ".docker" / "config.json").read_text())["auths"]
    assert cli("logout", REGISTRY) == f"Removing login credentials for {REGISTRY}"


def test_search_in_a_registry(cli: Cli) -> None:
    if not cli.expect.catalogues_are_searched:
        assert "404" in cli.fails("search", f"{REGISTRY}/bus"), "it has no search of its own"
        return
    rows = cli.table("search", f"{REGISTRY}/bus")
    assert [row["NAME"] for row in rows] == [f"{REGISTRY}/busybox"]
    assert cli("search", "--limit", "1", "--no-trunc", "--format", "{{.Name}}",
               f"{REGISTRY}/bus") == f"{REGISTRY}/busybox"


def test_contexts(cli: Cli) -> None:
    def run(*words: str) -> str:
        return cli.run(*words, without_host=True).stdout.strip()

    run("context", "create", "hs-c", "--description", "this one", "--docker", f"host={cli.host}")
    assert run("--context", "hs-c", "run", "--rm", BUSYBOX, "echo", "there") == "there"
    assert run("context", "use", "hs-c") == "hs-c"
    assert run("ps", "--format", "{{.Names}}", "--filter", "name=hs-") == ""
    assert "hs-c" in run("context", "ls", "--format", "{{.Name}}").split()
    run("context", "update", "hs-c", "--description", "that one")
    [shown] = json.loads(run("context", "inspect", "hs-c"))
    assert shown["Endpoints"]["docker"]["Host"] == cli.host
    run("context", "export", "hs-c", str(cli.home / "context.tar"))
    run("context", "import", "hs-d", str(cli.home / "context.tar"))
    if "show" in run("context", "--help"):
        assert run("context", "show") == "hs-c"
    run("context", "use", "default")
    assert run("context", "rm", "hs-c", "hs-d").split() == ["hs-c", "hs-d"]


def test_system_prune_takes_what_nobody_uses(cli: Cli) -> None:
    gone = cli("create", "--name", "hs-gone", "-l", LABEL, BUSYBOX)
    cli("network", "create", "--label", LABEL, "hs-gone")
    pruned = cli("system", "prune", "-f", "--filter", f"label={LABEL}")
    assert gone in pruned
    assert "Deleted Networks:\nhs-gone\n" in pruned
    assert "Total reclaimed space: " in pruned


def test_every_command_was_used(cli: Cli, request: pytest.FixtureRequest) -> None:
    """The last of the scenario: it looks at what the others did."""
    ours = {item.path.name for item in request.session.items if "tests/clients/test_cli" in str(item.path)}
    if request.config.option.keyword or ours != {path.name for path in request.path.parent.glob("test_cli_*.py")}:
        pytest.skip("only a part of the scenario ran")
    used = {_canonical(call, groups) for groups in [_groups(cli)] for call in cli.calls}
    wanted = {f"{group} {verb}".strip() for group, verbs in _groups(cli).items() for verb in verbs}
    assert wanted - used == set()
    assert len(cli.calls) >= COMMANDS


def _groups(cli: Cli) -> dict[str, set[str]]:
    """The client's own list of commands: by the noun, and those without one."""
    top = _listed(cli("--help"))
    nouns = {"container", "image", "network", "volume", "system", "context",
             "builder"} | ({"manifest"} if cli.modern else set())
    groups = {noun: _listed(cli(noun, "--help")) - ELSEWHERE for noun in nouns & top}
    verbs = {verb for group in ("container", "image") for verb in groups[group]}
    return {**groups, "": top - nouns - ELSEWHERE - {"manifest"} - verbs - set(ALIASES) - {"info", "events"}}


def _listed(text: str) -> set[str]:
    _, _, tail = text.partition("Commands:")
    return set(re.findall(r"^  ([a-z]+)\*? ", tail, re.MULTILINE))


def _canonical(call: tuple[str, ...], groups: dict[str, set[str]]) -> str:
    words = [word for word in call if word not in ("--context", "hs-c")]
    if words[0] in groups:
        return " ".join(words[:2])
    if words[0] in ALIASES:
        return ALIASES[words[0]]
    owner = next((group for group in ("container", "image", "system") if words[0] in groups[group]
                  and words[0] not in groups[""]), "")
    return f"{owner} {words[0]}".strip()
