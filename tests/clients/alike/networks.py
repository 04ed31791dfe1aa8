"""Networks and volumes."""

from __future__ import annotations

from tests.clients.alike import Row

ROWS = (
    Row("GET /networks/hs-none"),
    Row("POST /volumes/create", {"Name": "hs-alike"}),
    Row("DELETE /volumes/hs-alike"),
    Row("DELETE /volumes/hs-none"),
)
