"""hyperd over TCP: who has a certificate comes in, as its subject says, and others do not. The client is docker itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import json
import os
import socket
import ssl
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tests.harness import BIN, PATIENCE_S, Daemon, Namespace, Output, wait_until
from tests.images import BUSYBOX
from tests.reference.client import frames

PORT, PLAIN_PORT = 2376, 2375
MIB = 1 << 20


class Certified:
    """A daemon behind TLS, and its certificates' directory."""

    def __init__(self, daemon: Daemon, tls: Path) -> None:
        self.daemon = daemon
        self.tls = tls
        self.network = daemon.namespace

    def docker(self, *words: str, client: str = "admin", home: Path | None = None, stdin: bytes = b"",
               check: bool = True) -> Output:
        """The real docker with a client's certificate."""
        environment = {**self.daemon.environment, "DOCKER_HOST": f"tcp://127.0.0.1:{PORT}", "DOCKER_TLS_VERIFY": "1",
                       "DOCKER_CERT_PATH": str(home or self.tls / "clients" / client)}
        done = subprocess.run(self.network.inside(["docker", *words]), input=stdin, capture_output=True,
                              env=environment, timeout=PATIENCE_S, check=False)
        assert not check or done.returncode == 0, (done.stderr[-2000:], self.daemon.log_tail())
        return done

    def trust(self, client: str = "admin") -> ssl.SSLContext:
        """The client's certificate, and whom it believes."""
        home = self.tls / "clients" / client
        context = ssl.create_default_context(cafile=str(home / "ca.pem"))
        context.load_cert_chain(home / "cert.pem", home / "key.pem")
        return context

    def connect(self, client: str = "admin") -> ssl.SSLSocket:
        return self.trust(client).wrap_socket(self.network.connect("127.0.0.1", PORT), server_hostname="127.0.0.1")

    def take_over(self, path: str, body: bytes = b"", client: str = "admin") -> tuple[int, ssl.SSLSocket]:
        """The status of a POST that asks for the connection, and the connection behind the answer's head."""
        connection = self.connect(client)
        connection.settimeout(PATIENCE_S)
        connection.sendall(f"POST {path} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: tcp\r\nContent-Type: "
                           f"application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += connection.recv(1)
        return int(head.split()[1]), connection


@pytest.fixture(scope="module")
def certified(namespace: Namespace) -> Iterator[Certified]:
    with tempfile.TemporaryDirectory(prefix="hs-tls-") as directory:
        tls = Path(directory)
        files = ("--tlscacert", str(tls / "ca.pem"), "--tlscert", str(tls / "server-cert.pem"), "--tlskey",
                 str(tls / "server-key.pem"))
        daemon = Daemon(namespace, "--tlsverify", *files, "-H", f"tcp://127.0.0.1:{PORT}")
        try:
            daemon.ctl("tls", "init", "--directory", str(tls))
            daemon.ctl("tls", "client", "--directory", str(tls), "--for", "beta", "betty")
            daemon.start()
            daemon.ctl("pull", BUSYBOX)
            yield Certified(daemon, tls)
        finally:
            daemon.close()


def forged(ca: Path, home: Path, *, common_name: str = "eve", expired: bool = False, units: tuple[str, ...] = (),
           purpose: x509.ObjectIdentifier = ExtendedKeyUsageOID.CLIENT_AUTH) -> Path:
    """A certificate of the authority in `ca` that `hyperctl tls` would not make; a client's directory with it."""
    authority = x509.load_pem_x509_certificate((ca / "ca.pem").read_bytes())
    signer = serialization.load_pem_private_key((ca / "ca-key.pem").read_bytes(), None)
    assert isinstance(signer, ec.EllipticCurvePrivateKey)
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.datetime.now(datetime.UTC)
    end = now + datetime.timedelta(days=-1 if expired else 1)
    name = [x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, unit) for unit in units]
    name += [x509.NameAttribute(NameOID.COMMON_NAME, common_name)] if common_name else []
    certificate = (x509.CertificateBuilder().subject_name(x509.Name(name)).issuer_name(authority.subject)
                   .public_key(key.public_key()).serial_number(x509.random_serial_number())
                   .not_valid_before(now - datetime.timedelta(days=9)).not_valid_after(end)
                   .add_extension(x509.ExtendedKeyUsage([purpose]), False).sign(signer, hashes.SHA256()))
    home.mkdir(parents=True, exist_ok=True)
    (home / "ca.pem").write_bytes((ca / "ca.pem").read_bytes())
    (home / "cert.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (home / "key.pem").write_bytes(key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
    return home


def test_docker_works_with_a_certificate(certified: Certified) -> None:
    assert b"HyperStack" in certified.docker("version").stdout
    assert certified.docker("run", "--rm", BUSYBOX, "echo", "hello").stdout == b"hello\n"


def test_the_output_behind_the_end_of_the_input_arrives(certified: Certified) -> None:
    """The client closes its half: an alert of TLS, which leaves the other direction open."""
    words = b"line\n" * 100_000
    command = "n=$(wc -c); sleep 1; echo got $n"
    done = certified.docker("run", "--rm", "-i", BUSYBOX, "sh", "-c", command, stdin=words)
    assert done.stdout == b"got %d\n" % len(words)
    ident = certified.docker("run", "-d", BUSYBOX, "sleep", "1000").stdout.decode().strip()
    try:
        assert certified.docker("exec", "-i", ident, "sh", "-c", command, stdin=words).stdout == done.stdout
        assert certified.docker("exec", "-i", ident, "cat", stdin=words).stdout == words
        assert certified.docker("exec", ident, "sh", "-c", "echo no >&2; exit 7", check=False).returncode == 7
    finally:
        certified.docker("rm", "-f", ident)


def test_a_client_that_vanishes_detaches(certified: Certified) -> None:
    ident = certified.docker("run", "-di", BUSYBOX, "cat").stdout.decode().strip()
    try:
        for alert in (True, False):
            connection = certified.connect()
            connection.sendall(f"POST /containers/{ident}/attach?stream=1&stdin=1&stdout=1 HTTP/1.1\r\nHost: x\r\n"
                               "Connection: Upgrade\r\nUpgrade: tcp\r\nContent-Length: 0\r\n\r\n".encode())
            assert connection.recv(4096).startswith(b"HTTP/1.1 101")
            connection.sendall(b"hi\n")
            assert b"hi" in connection.recv(4096)
            if alert:
                connection.setblocking(False)  # The daemon's own alert is not waited for.
                with contextlib.suppress(OSError):
                    connection.unwrap()
            connection.close()
        wait_until(lambda: _connections(certified.daemon.pid) <= 1, "the daemon let go of the connections")
    finally:
        certified.docker("rm", "-f", ident)


def _whole(connection: ssl.SSLSocket) -> list[tuple[int, bytes]]:
    """All frames that come until the other side ends."""
    raw = b""
    while data := connection.recv(4096):
        raw += data
    return list(frames(raw))


def test_streams_take_the_connection_over(certified: Certified) -> None:
    """Both ways, with the output framed, for who may and for nobody else."""
    script = "read line; echo got $line; echo bad >&2; exit 5"
    ident = certified.docker("run", "-di", BUSYBOX, "sh", "-c", f"read go; {script}").stdout.decode().strip()
    attach, said = f"/containers/{ident}/attach?stream=1&stdin=1&stdout=1&stderr=1", [(1, b"got it\n"), (2, b"bad\n")]
    try:
        command = json.dumps({"Cmd": ["sh", "-c", script], "AttachStdin": True, "AttachStdout": True,
                              "AttachStderr": True}).encode()
        status, connection = certified.take_over(f"/containers/{ident}/exec", command)
        execution = json.loads(connection.recv(4096))["Id"]
        connection.close()
        assert status == 201
        for path in (attach, f"/exec/{execution}/start"):
            status, connection = certified.take_over(path, b"{}", client="betty")
            connection.close()
            assert status == 404
        for path, words in ((f"/exec/{execution}/start", b"it\n"), (attach, b"go\nit\n")):
            status, connection = certified.take_over(path, b"{}")
            with connection:
                assert status == 101
                connection.sendall(words)
                assert sorted(_whole(connection)) == said
        assert certified.docker("wait", ident).stdout == b"5\n"
    finally:
        certified.docker("rm", "-f", ident)


def test_a_websocket_attaches(certified: Certified) -> None:
    ident = certified.docker("run", "-di", BUSYBOX, "sh", "-c", "read line; echo got $line").stdout.decode().strip()
    url = f"https://127.0.0.1:{PORT}/containers/{ident}/attach/ws?stream=1&stdin=1&stdout=1"

    def within(address: Any) -> socket.socket:
        with certified.network.entered():
            return socket.socket(*address[:3])

    async def talk(client: str) -> bytes:
        connector = aiohttp.TCPConnector(ssl=certified.trust(client), socket_factory=within)
        async with aiohttp.ClientSession(connector=connector) as session, session.ws_connect(url) as stream:
            await stream.send_bytes(b"words\n")
            return b"".join([message.data async for message in stream])

    try:
        with pytest.raises(aiohttp.WSServerHandshakeError, match="404"):
            asyncio.run(asyncio.wait_for(talk("betty"), PATIENCE_S))
        assert asyncio.run(asyncio.wait_for(talk("admin"), PATIENCE_S)) == b"got words\n"
    finally:
        certified.docker("rm", "-f", ident)


def _connections(pid: int) -> int:
    """TCP connections of the daemon that are open, with those that wait to be closed."""
    table = Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]
    return sum(line.split()[1].endswith(f":{PORT:04X}") and line.split()[3] in ("01", "08") for line in table)


def test_a_certificate_acts_in_its_own_project(certified: Certified) -> None:
    mine = certified.docker("create", "--name", "mine", BUSYBOX).stdout.decode().strip()
    try:
        assert certified.docker("ps", "-aq", client="betty").stdout == b""
        certified.docker("volume", "create", "hers", client="betty")
        assert "hers" in certified.daemon.text("--project", "beta", "volume", "ls", "-q")
        assert b"hers" not in certified.docker("volume", "ls", "-q").stdout
        refused = certified.docker("inspect", "mine", client="betty", check=False)
        assert refused.returncode == 1
        assert b"no such object" in refused.stderr.lower()
    finally:
        certified.docker("rm", mine)


def test_only_an_administrator_may_name_another_project(certified: Certified) -> None:
    for client, status in (("admin", b" 200 "), ("betty", b" 403 ")):
        with certified.connect(client) as connection:
            connection.sendall(b"GET /containers/json HTTP/1.1\r\nHost: x\r\nX-HyperStack-Project: gamma\r\n\r\n")
            assert status in connection.recv(4096)


@pytest.mark.parametrize("kind", ["none", "foreign", "expired", "server's", "nameless", "ambiguous"])
def test_others_are_refused(certified: Certified, kind: str, tmp_path: Path) -> None:
    home = tmp_path / "client"
    if kind == "none":
        home.mkdir()
        (home / "ca.pem").write_bytes((certified.tls / "ca.pem").read_bytes())
        for name in ("cert.pem", "key.pem"):  # docker wants some; those of a stranger are refused in the next case
            (home / name).write_bytes((certified.tls / "clients" / "admin" / name).read_bytes())
        context = ssl.create_default_context(cafile=str(home / "ca.pem"))
        with certified.network.connect("127.0.0.1", PORT) as plain, \
                context.wrap_socket(plain, server_hostname="127.0.0.1") as connection:
            with contextlib.suppress(OSError):
                connection.sendall(b"GET /_ping HTTP/1.1\r\nHost: x\r\n\r\n")
            with pytest.raises((ssl.SSLError, ConnectionError)):
                connection.recv(100)
        return
    if kind == "foreign":
        certified.daemon.ctl("tls", "init", "--directory", str(tmp_path / "other"))
        home = tmp_path / "other" / "clients" / "admin"
        (home / "ca.pem").write_bytes((certified.tls / "ca.pem").read_bytes())
    elif kind == "expired":
        forged(certified.tls, home, expired=True)
    elif kind == "server's":
        forged(certified.tls, home, purpose=ExtendedKeyUsageOID.SERVER_AUTH)
    elif kind == "nameless":
        forged(certified.tls, home, common_name="", units=("administrator",))
    else:
        forged(certified.tls, home, units=("administrator", "nobody"))
    done = certified.docker("ps", home=home, check=False)
    assert done.returncode != 0
    assert (b"certificate" in done.stderr) is True, done.stderr
    assert certified.docker("ps").returncode == 0


def test_a_thousand_that_dawdle_keep_nobody_out(certified: Certified) -> None:
    before = certified.daemon.rss_bytes()
    hello = _client_hello()
    idle: list[socket.socket] = []
    try:
        for number in range(1000):
            idle.append(certified.network.connect("127.0.0.1", PORT))
            with contextlib.suppress(OSError):
                idle[-1].sendall(hello[:number % len(hello)] if number % 2 else b"GET / HTTP/1.1\r\n\r\n"[:number % 18])
        assert certified.docker("ps").returncode == 0
        assert certified.daemon.rss_bytes() - before < 64 * MIB
    finally:
        for one in idle:
            one.close()


def _client_hello() -> bytes:
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = ssl.create_default_context().wrap_bio(incoming, outgoing, server_hostname="localhost")
    with contextlib.suppress(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()


def test_a_renewed_certificate_is_taken_without_a_restart(certified: Certified) -> None:
    served = certified.connect().getpeercert(binary_form=True)
    for name in ("server-cert.pem", "server-key.pem"):
        (certified.tls / name).unlink()
    certified.daemon.ctl("tls", "init", "--directory", str(certified.tls))
    os.kill(certified.daemon.pid, 1)

    def renewed() -> bool:
        with certified.connect() as connection:
            return connection.getpeercert(binary_form=True) != served

    wait_until(renewed, "the new certificate is served")


def test_plain_tcp_is_for_this_host_only(namespace: Namespace) -> None:
    everywhere = Daemon(namespace, "-H", f"tcp://0.0.0.0:{PLAIN_PORT}")
    daemon = Daemon(namespace, "-H", f"tcp://127.0.0.1:{PLAIN_PORT}")
    try:
        with pytest.raises(RuntimeError, match=r"without TLS .*hyperctl tls init"):
            everywhere.start()
        daemon.start()
        environment = {**daemon.environment, "DOCKER_HOST": f"tcp://127.0.0.1:{PLAIN_PORT}"}
        argv = namespace.inside(["docker", "ps", "-q"])
        done = subprocess.run(argv, env=environment, capture_output=True, check=True)
        assert done.stdout == b""
        for header, status in (("Host: localhost", b" 200 "), ("Host: evil.example", b" 403 "),
                               ("Host: localhost\r\nOrigin: http://evil.example", b" 403 ")):
            with namespace.connect("127.0.0.1", PLAIN_PORT) as connection:
                connection.sendall(f"GET /containers/json HTTP/1.1\r\n{header}\r\n\r\n".encode())
                assert status in connection.recv(4096)
    finally:
        everywhere.process = None
        everywhere.close()
        daemon.close()


def test_a_context_lets_docker_work_at_once(certified: Certified) -> None:
    daemon = certified.daemon
    home = certified.tls / "clients" / "admin"
    daemon.ctl("context", "create", "--description", "ours")
    daemon.ctl("context", "create", "remote", "--cert-path", str(home), "--docker", f"host=tcp://127.0.0.1:{PORT}")
    environment = {name: value for name, value in daemon.environment.items() if not name.startswith("DOCKER_")}

    def docker(*words: str) -> str:
        done = subprocess.run(daemon.namespace.inside(["docker", *words]), env=environment, capture_output=True,
                              check=True, timeout=PATIENCE_S)
        return done.stdout.decode()

    def ctl(*words: str, check: bool = True) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run([str(BIN / "hyperctl"), *words], env=environment, capture_output=True, check=check)

    for name in ("hyperstack", "remote"):
        assert "HyperStack" in docker("--context", name, "version")
        assert ctl("context", "inspect", name).stdout.decode() == docker("context", "inspect", name)
    ctl("context", "use", "remote")
    assert docker("context", "show") == "remote\n"
    assert "Default Runtime: hyperstack" in docker("info")
    assert ctl("context", "ls").stdout.decode() == docker("context", "ls")
    assert ctl("context", "rm", "remote", check=False).returncode == 1
    ctl("context", "rm", "-f", "remote", "hyperstack")
    assert docker("context", "ls", "-q") == "default\n"
