"""The engine itself: version, events, what is not there."""

from __future__ import annotations

from tests.clients.alike import Row

ROWS = (
    Row("GET /_ping", same=True),
    Row("GET /hs-none"),
    Row("GET /v1.99/info", status_only=True),
    Row("GET /swarm", status_only=True),
)
