"""Images, registries and builds."""

from __future__ import annotations

from tests.clients.alike import Row

ROWS = (
    Row("GET /images/hs-none/json"),
    Row("POST /images/hs-none/tag?repo=hs-x"),
)
