"""Containers, and what runs in them."""

from __future__ import annotations

from tests.clients.alike import Row
from tests.images import BUSYBOX

ROWS = (
    Row("POST /containers/create?name=hs-alike", {"Image": BUSYBOX, "Cmd": ["sleep", "600"]}),
    Row("GET /containers/hs-alike/logs"),
    Row("POST /containers/hs-none/start"),
    Row("DELETE /containers/hs-alike"),
    Row("POST /containers/create?name=hs-mac", {"Image": BUSYBOX, "MacAddress": "02:42:ac:11:00:99"}, same=True),
    Row("DELETE /containers/hs-mac"),
    Row("POST /v1.43/containers/create?name=hs-mac", {"Image": BUSYBOX, "MacAddress": "02:42:ac:11:00:99"}, same=True),
    Row("DELETE /containers/hs-mac"),
    *(Row("POST /containers/create?name=hs-policy", {"Image": BUSYBOX, "HostConfig": {"RestartPolicy": policy}})
      for policy in ({"Name": "never"}, {"Name": "always", "MaximumRetryCount": 2},
                     {"Name": "on-failure", "MaximumRetryCount": -2}, {"Name": "no", "MaximumRetryCount": -2})),
)
