"""What a project's own tests do with testcontainers; run beside the engine, as they reach ports on its localhost."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

from testcontainers.core.container import DockerContainer
from testcontainers.core.network import Network
from testcontainers.core.wait_strategies import LogMessageWaitStrategy


def main(image: str, directory: Path) -> None:
    greeting = directory / "greeting"
    greeting.write_text("hello\n")
    serve = "echo ready; while true; do nc -l -p 7000 < /tmp/greeting; done"
    with Network() as network, DockerContainer(image).with_command(["sh", "-c", serve]).with_exposed_ports(7000) \
            .with_network(network).with_network_aliases("server").with_env("FLAVOUR", "plain") \
            .with_copy_into_container(greeting, "/tmp/greeting") \
            .waiting_for(LogMessageWaitStrategy("ready")) as server:
        assert server.exec(["sh", "-c", "echo $FLAVOUR"]) == (0, b"plain\n")
        address = (server.get_container_host_ip(), int(server.get_exposed_port(7000)))
        with socket.create_connection(address, timeout=60) as connection:
            assert connection.recv(100) == b"hello\n"
        with DockerContainer(image).with_command(["sh", "-c",
                                                  "until nc server 7000 > /said; do sleep 0.1; done; cat /said"]) \
                .with_network(network).waiting_for(LogMessageWaitStrategy("hello")) as other:
            assert other.get_logs()[0] == b"hello\n"
        assert server.get_logs()[0].startswith(b"ready\n")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
