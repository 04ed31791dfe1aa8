"""docker pull, push, tag, save, load, history and the other verbs of images."""

from __future__ import annotations

import io
import json
import re
import subprocess
import tarfile
from pathlib import Path

import pytest

from tests.clients.peers import LABEL, Cli
from tests.harness import REGISTRY
from tests.images import BUSYBOX, SECOND


def test_the_list_of_images(cli: Cli) -> None:
    cli("tag", BUSYBOX, "hs-list:1")
    [row] = cli.table("images", "hs-list")
    ident = cli("images", "-q", "--no-trunc", "hs-list:1")
    assert ident.startswith("sha256:")
    assert (row["REPOSITORY"], row["TAG"], row["IMAGE ID"]) == ("hs-list", "1", ident[7:19])
    assert re.match(r"[\d.]+MB\Z", row["SIZE"])
    assert cli.lines("image", "ls", "--filter", "reference=hs-*", "--format",
                     "{{.Repository}}:{{.Tag}}") == ["hs-list:1"]
    assert cli.table("images", "--digests", BUSYBOX.rpartition(":")[0])[0]["DIGEST"].startswith("sha256:")
    assert cli.lines("images", "-q", "--filter", "label=hs-none") == []
    assert f"{BUSYBOX}" in cli.lines("images", "-a", "--format", "{{.Repository}}:{{.Tag}}")
    assert cli("images", "hs-none") == "REPOSITORY   TAG       IMAGE ID   CREATED   SIZE"


@pytest.mark.parametrize("words", [("image", "inspect"), ("rmi",), ("history",), ("save",), ("push",)], ids=" ".join)
def test_no_such_image(cli: Cli, words: tuple[str, ...]) -> None:
    said = cli.fails(*words, "hs-none")
    assert any(wording in said for wording in (
        "No such image: hs-none", "reference does not exist", "An image does not exist locally with the tag: hs-none"))


def test_pull_says_what_it_does(cli: Cli) -> None:
    done = cli("pull", SECOND).splitlines()
    assert done[0] == "1: Pulling from second"
    assert re.match(r"Digest: sha256:[0-9a-f]{64}\Z", done[-3])
    assert done[-2] == f"Status: Downloaded newer image for {SECOND}"
    assert done[-1] == SECOND
    assert f"Status: Image is up to date for {SECOND}" in cli.lines("pull", SECOND)
    assert cli("pull", "-q", SECOND) == SECOND
    by_digest = f"{SECOND.rpartition(':')[0]}@{done[-3].removeprefix('Digest: ')}"
    assert cli("pull", "-q", by_digest) == by_digest
    assert cli("run", "--rm", by_digest, "cat", "/etc/second") == "yes"
    assert cli.lines("rmi", SECOND)[0] == f"Untagged: {SECOND}"
    said = cli.fails("pull", f"{REGISTRY}/hs-none:9")
    assert f"manifest for {REGISTRY}/hs-none:9 not found: manifest unknown" in said
    assert "invalid reference format" in cli.fails("pull", "IN VALID")


def test_a_run_pulls_what_is_not_here(cli: Cli) -> None:
    done = cli.run("run", "--rm", SECOND, "cat", "/etc/second")
    assert done.stdout == "yes\n"
    assert f"Unable to find image '{SECOND}' locally" in done.stderr
    assert f"Status: Downloaded newer image for {SECOND}" in done.stderr
    cli("rmi", SECOND)
    assert "No such image" in cli.fails("run", "--rm", "--pull", "never", SECOND, code=125)
    cli("create", "--name", "hs-pulled", "--pull", "always", SECOND)
    cli("run", "--rm", "--pull", "missing", SECOND, "true")


def test_push_and_pull_of_all_tags(cli: Cli) -> None:
    for tag in ("1", "2"):
        cli("tag", BUSYBOX, f"{REGISTRY}/hs-pushed:{tag}")
    pushed = cli("push", f"{REGISTRY}/hs-pushed:1")
    assert pushed.startswith(f"The push refers to repository [{REGISTRY}/hs-pushed]\n")
    assert re.search(r"\n1: digest: sha256:[0-9a-f]{64} size: \d+\Z", pushed)
    cli("push", "-a", "-q", f"{REGISTRY}/hs-pushed")
    cli("rmi", f"{REGISTRY}/hs-pushed:1", f"{REGISTRY}/hs-pushed:2")
    cli("pull", "-a", f"{REGISTRY}/hs-pushed")
    assert sorted(cli.lines("images", "--format", "{{.Tag}}", f"{REGISTRY}/hs-pushed")) == ["1", "2"]


def test_tags_and_their_removal(cli: Cli) -> None:
    cli("tag", BUSYBOX, "hs-tag:1")
    cli("image", "tag", "hs-tag:1", "hs-tag:2")
    assert cli("rmi", "hs-tag:1") == "Untagged: hs-tag:1"
    assert cli("image", "rm", "--no-prune", "hs-tag:2") == "Untagged: hs-tag:2"
    assert "No such image: hs-tag:1" in cli.fails("tag", "hs-tag:1", "hs-tag:3")
    assert "invalid reference format" in cli.fails("tag", BUSYBOX, "IN:VALID")


def test_an_image_in_use_stays(cli: Cli) -> None:
    cli("pull", "-q", SECOND)
    cli("create", "--name", "hs-user", SECOND)
    ident = cli("images", "-q", SECOND)
    said = cli.fails("rmi", SECOND)
    user = cli("ps", "-aq", "--filter", "name=hs-user")
    assert f'conflict: unable to remove repository reference "{SECOND}" (must force) - container {user} is using its ' \
        f"referenced image {ident}" in said
    assert f"conflict: unable to delete {ident} (must be forced) - image is being used by stopped container {user}" \
        in cli.fails("rmi", ident)
    cli("rm", "hs-user")
    assert re.search(r"^Deleted: sha256:", cli("rmi", SECOND), re.MULTILINE)


def test_save_and_load(cli: Cli, tmp_path: Path) -> None:
    cli("pull", "-q", SECOND)
    cli("tag", SECOND, "hs-saved:1")
    file = tmp_path / "image.tar"
    cli("save", "-o", str(file), "hs-saved:1", BUSYBOX)
    with tarfile.open(file) as tar:
        manifest = tar.extractfile("manifest.json")
        assert manifest is not None
        assert sorted(row["RepoTags"] for row in json.load(manifest)) == [[BUSYBOX], ["hs-saved:1"]]
    cli("rmi", "hs-saved:1", SECOND)
    assert sorted(cli.lines("load", "-i", str(file))) == [f"Loaded image: {BUSYBOX}", "Loaded image: hs-saved:1"]
    assert cli("run", "--rm", "hs-saved:1", "cat", "/etc/second") == "yes"
    piped = subprocess.run(cli.argv("image", "save", "hs-saved:1"), env=cli.environment, capture_output=True,
                           check=True)
    cli("rmi", "hs-saved:1")
    assert cli("image", "load", "-q", stdin=piped.stdout) == "Loaded image: hs-saved:1"
    cli.run("load", stdin=b"this is no archive", code=1)


def test_an_import_and_its_history(cli: Cli) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        entry = tarfile.TarInfo("hello")
        entry.size = 3
        tar.addfile(entry, io.BytesIO(b"hi\n"))
    ident = cli("import", "-c", "CMD /none", "-c", "WORKDIR /w", "-m", "imported here", "-", "hs-import:1",
                stdin=buffer.getvalue())
    assert ident.startswith("sha256:")
    [row] = cli.table("history", "hs-import:1")
    assert (row["IMAGE"], row["COMMENT"]) == (ident[7:19], "imported here")
    assert cli("history", "-q", "--no-trunc", "hs-import:1") == ident
    assert cli("image", "history", "--format", "{{.Comment}}", "-H=false", "hs-import:1") == "imported here"
    [shown] = json.loads(cli("image", "inspect", "hs-import:1"))
    assert (shown["Id"], shown["RepoTags"], shown["Config"]["WorkingDir"]) == (ident, ["hs-import:1"], "/w")
    assert (shown["Os"], shown["RootFS"]["Type"], len(shown["RootFS"]["Layers"])) == ("linux", "layers", 1)


def test_prune_of_images(cli: Cli) -> None:
    cli("create", "--name", "hs-base", BUSYBOX)
    first = cli("commit", "-c", f"LABEL {LABEL}=1", "hs-base", "hs-moved:1")
    cli("commit", "-c", f"LABEL {LABEL}=2", "hs-base", "hs-moved:1")
    assert cli.lines("images", "-q", "--no-trunc", "--filter", "dangling=true", "--filter", f"label={LABEL}") == [first]
    pruned = cli("image", "prune", "-f", "--filter", f"label={LABEL}")
    assert f"deleted: {first}" in pruned
    assert "Total reclaimed space: " in pruned
    assert "hs-moved:1" in cli("image", "prune", "-a", "-f", "--filter", f"label={LABEL}")


def test_manifests_of_the_registry(cli: Cli) -> None:
    if not cli.modern:
        pytest.skip("this client knows no OCI manifests")
    assert len(json.loads(cli("manifest", "inspect", "--insecure", BUSYBOX))["layers"]) == 1
    described = json.loads(cli("manifest", "inspect", "-v", "--insecure", BUSYBOX))
    assert described["Descriptor"]["platform"]["os"] == "linux"
    part, both = f"{REGISTRY}/hs-part:1", f"{REGISTRY}/hs-part:both"
    cli("tag", BUSYBOX, part)
    cli("push", "-q", part)
    cli("manifest", "create", "--insecure", both, part)
    cli("manifest", "annotate", "--arch", "amd64", both, part)
    assert re.search(r"^sha256:[0-9a-f]{64}\Z", cli("manifest", "push", "--insecure", both), re.MULTILINE)
    cli("manifest", "rm", both)
    assert cli("pull", "-q", both) == both
