"""Docker's Engine API onto the engine. The front door is `build_app`.

    app                                         the table of all rooms below
    bodies                                      what clients send, typed
    creation, mounts, ports, security           what it means
    refusals                                    what cannot be honoured, by name
    inspection, listing, networks               what exists, in Docker's words
    containers, execs, images, volumes, system  the verbs
    output, streams, hijack, websocket          attach, logs, stats: bytes in both directions
    layers, usage                               what containers changed, what takes disk space
"""

from hyperstack.docker_api.app import build_app

__all__ = ["build_app"]
