"""Docker's Engine API onto the engine. The front door is `build_app`.

    app                                         the table of all rooms below
    bodies                                      what clients send, typed
    creation, mounts, ports, security           what it means
    refusals                                    what cannot be honoured, by name
    inspection, listing, networks               what exists, in Docker's words
    containers, execs, images, volumes, system  the verbs
    output, streams, hijack                     attach, logs, stats: bytes in both directions
"""

from hyperstack.docker_api.app import build_app

__all__ = ["build_app"]
