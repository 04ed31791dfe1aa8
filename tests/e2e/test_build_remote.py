"""Builds whose context or files are elsewhere: on web servers and in git repositories; and who may not be asked."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness import Daemon, Namespace, Output, wait_until
from tests.images import BUSYBOX, daemon_with_busybox

PORT = 8087
AT = f"http://127.0.0.1:{PORT}"
_GIT = "#!/bin/sh\nexport GIT_CONFIG_COUNT=1 GIT_CONFIG_KEY_0=safe.directory GIT_CONFIG_VALUE_0='*'\n" \
       "export GIT_PROJECT_ROOT={root} GIT_HTTP_EXPORT_ALL=1\nexec git http-backend\n"


_SERVER = """
import http.server, sys
class Handler(http.server.CGIHTTPRequestHandler):
    def do_GET(self):
        if not self.path.startswith("/away/"):
            return super().do_GET()
        self.send_response(302)
        self.send_header("Location", self.path[6:])
        self.end_headers()
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""
"""What is asked for below /away/ is elsewhere."""


def git(where: Path, *words: str) -> str:
    names = ("-c", "user.name=t", "-c", "user.email=t@t", "-c", "init.defaultBranch=main")
    return subprocess.run(["git", "-C", str(where), *names, *words], check=True, capture_output=True,
                          text=True).stdout.strip()


def make_repository(root: Path) -> None:
    work = root / "work"
    (work / "sub").mkdir(parents=True)
    git(work, "init", "-q")
    (work / "Dockerfile").write_text(f"FROM {BUSYBOX}\nCOPY . /src\n")
    (work / "sub/Dockerfile").write_text(f"FROM {BUSYBOX}\nRUN echo from sub > /sub\n")
    (work / "exported").write_text("$Format:%H$")
    (work / ".gitattributes").write_text("exported export-subst\nsub export-ignore\n")
    (work / "outside").symlink_to("/etc/shadow")
    hook = work / "hook"
    hook.write_text("#!/bin/sh\ntouch /tmp/hook-ran\n")
    hook.chmod(0o755)
    git(work, "add", "-A")
    git(work, "commit", "-qm", "one")
    git(work, "tag", "v1")
    git(work, "checkout", "-qb", "other")
    (work / "Dockerfile").write_text(f"FROM {BUSYBOX}\nRUN echo other > /other\n")
    git(work, "commit", "-qam", "two")
    git(work, "checkout", "-q", "main")
    git(root, "clone", "-q", "--bare", str(work), str(root / "repo.git"))


@pytest.fixture(scope="module")
def server(namespace: Namespace, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A web server's directory, on the namespace's loopback; /cgi-bin/git has repositories."""
    root = tmp_path_factory.mktemp("www")
    for parent in (root, *root.parents[:2]):
        parent.chmod(0o755)
    make_repository(root)
    (root / "cgi-bin").mkdir()
    script = root / "cgi-bin/git"
    script.write_text(_GIT.format(root=root))
    script.chmod(0o755)
    with (root.parent / "www.log").open("wb") as log:
        process = subprocess.Popen(namespace.inside([sys.executable, "-c", _SERVER, str(PORT)]), stdout=log, stderr=log,
                                   cwd=root)

        def answers() -> bool:
            try:
                namespace.connect("127.0.0.1", PORT).close()
            except OSError:
                return False
            return True

        try:
            wait_until(answers, "the web server answers")
            yield root
        finally:
            process.terminate()
            process.wait()


@pytest.fixture(scope="module")
def trusting(namespace: Namespace, server: Path) -> Iterator[Daemon]:
    """A daemon whose builds may ask the loopback."""
    settings = server / "hyperd.toml"
    settings.write_text('[build]\nprivate_sources = ["127.0.0.0/8"]\n')
    with daemon_with_busybox(namespace, "--config", str(settings)) as daemon:
        yield daemon


def build(daemon: Daemon, *words: str, stdin: str = "", check: bool = True) -> Output:
    return daemon.ctl("build", *words, stdin=stdin.encode(), check=check)


def shown(daemon: Daemon, image: str, *command: str) -> str:
    return daemon.text("run", "--rm", image, *command)


def test_downloads(trusting: Daemon, server: Path) -> None:
    (server / "file.txt").write_text("fetched")
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        archive.addfile(tarfile.TarInfo("inner"))
    (server / "pack.tgz").write_bytes(packed.getvalue())
    dockerfile = f"FROM {BUSYBOX}\nADD {AT}/file.txt /\nADD {AT}/pack.tgz /p/\nADD --chmod=644 {AT}/file.txt /named\n"
    build(trusting, "-t", "add:1", "-", stdin=dockerfile)
    script = "cat /file.txt; stat -c ' %a' /file.txt /named; ls /p"
    assert shown(trusting, "add:1", "sh", "-c", script).splitlines() == ["fetched 600", " 644", "pack.tgz"]
    assert b"Using cache" in build(trusting, "-", stdin=dockerfile).stdout
    (server / "file.txt").write_text("changed")
    build(trusting, "-t", "add:1", "-", stdin=dockerfile)
    assert shown(trusting, "add:1", "cat", "/file.txt") == "changed"
    done = build(trusting, "-", stdin=f"FROM {BUSYBOX}\nADD {AT}/absent /\n", check=False)
    assert b"ADD failed: failed to GET" in done.stderr
    assert b"with status 404" in done.stderr
    for repository in (f"{AT}/cgi-bin/git/repo.git", "git@127.0.0.1:x.git"):
        done = build(trusting, "-", stdin=f"FROM {BUSYBOX}\nADD {repository} /x\n", check=False)
        assert b"is a git repository, which is not supported here" in done.stderr


def test_contexts_on_a_web_server(trusting: Daemon, server: Path) -> None:
    (server / "plain").write_text(f"FROM {BUSYBOX}\nLABEL from=plain\n")
    build(trusting, "-t", "plain:1", f"{AT}/plain")
    assert json.loads(trusting.text("image", "inspect", "plain:1"))[0]["Config"]["Labels"] == {"from": "plain"}
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:xz") as archive:
        for name, text in (("D", f"FROM {BUSYBOX}\nCOPY . /all\n"), (".dockerignore", "secret\n"), ("secret", "s"),
                           ("open", "o")):
            entry = tarfile.TarInfo(name)
            entry.size = len(text)
            archive.addfile(entry, io.BytesIO(text.encode()))
    (server / "context.tar.xz").write_bytes(packed.getvalue())
    build(trusting, "-t", "packed:1", "-f", "D", f"{AT}/context.tar.xz")
    assert shown(trusting, "packed:1", "ls", "-A", "/all").split() == [".dockerignore", "D", "open"]


def test_git_repositories(trusting: Daemon, server: Path) -> None:
    repository = f"{AT}/cgi-bin/git/repo.git"
    build(trusting, "-t", "main:1", repository)
    assert shown(trusting, "main:1", "ls", "-A", "/src").split() == [
        ".gitattributes", "Dockerfile", "exported", "hook", "outside", "sub"]
    # A link of the repository is a link in the image; nothing was read through it here.
    assert shown(trusting, "main:1", "readlink", "/src/outside") == "/etc/shadow"
    assert shown(trusting, "main:1", "cat", "/src/exported") == "$Format:%H$"
    build(trusting, "-t", "other:1", f"{repository}#other")
    assert shown(trusting, "other:1", "cat", "/other") == "other"
    build(trusting, "-t", "sub:1", f"{repository}#v1:sub")
    assert shown(trusting, "sub:1", "cat", "/sub") == "from sub"
    for remote, words in ((f"{repository}#absent", b"git could not fetch absent of 127.0.0.1"),
                          (f"{repository}#main:nowhere", b"git could not fetch"),
                          ("git@127.0.0.1:x.git", b"over https or http only"),
                          (f"{repository}#--upload-pack=x", b"is no git context"),
                          (f"{repository}#main:../..", b"is no git context")):
        done = build(trusting, remote, check=False)
        assert done.returncode == 1
        assert words in done.stderr, done.stderr
    assert list((trusting.state / "images/tmp").iterdir()) == []
    assert trusting.mounts() == []
    assert not Path("/tmp/hook-ran").exists()


def test_builds_ask_public_addresses_only(daemon: Daemon, server: Path) -> None:
    for target in (AT, f"http://localhost:{PORT}", "http://169.254.169.254/latest", "http://10.0.0.1/x",
                   "http://[::1]/x", "http://[::ffff:127.0.0.1]/x", "http://0.0.0.0/x"):
        done = build(daemon, "-", stdin=f"FROM {BUSYBOX}\nADD {target}/file.txt /\n", check=False)
        assert done.returncode == 1
        assert b"is not a public address" in done.stderr, target
    for remote in (f"{AT}/context.tar", f"{AT}/cgi-bin/git/repo.git", f"http://localhost:{PORT}/cgi-bin/git/repo.git"):
        assert b"is not a public address" in build(daemon, remote, check=False).stderr


def test_a_redirection_is_checked_as_well(trusting: Daemon, server: Path) -> None:
    (server / "there").write_text("found")
    for address, words in ((f"{AT}/away/{AT}/there", b""), (f"{AT}/away//there", b""),
                           (f"{AT}/away/http://10.9.9.9/x", b"10.9.9.9 (10.9.9.9) is not a public address"),
                           (f"{AT}/away/file:///etc/passwd", b"is no http or https address"),
                           (f"{AT}/away/" * 9 + "there", b"more than 5 redirections")):
        done = build(trusting, "-", stdin=f"FROM {BUSYBOX}\nADD {address} /there\n", check=False)
        assert (done.returncode, words in done.stderr) == (1 if words else 0, True), done.stderr
