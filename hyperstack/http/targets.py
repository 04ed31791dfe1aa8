"""What a request asks for, its path and its query, read as Go's server reads them."""

from __future__ import annotations

import re

from aiohttp import web

from hyperstack.pod.errors import InvalidArgument

BARE: web.RequestKey[bool] = web.RequestKey("bare", bool)
"""The answer is the server's own and no room's: it has no headers of Docker's."""

_BROKEN = re.compile(r"%(?![0-9a-fA-F]{2}).{0,2}")


def misdirected(request: web.Request) -> web.StreamResponse | None:
    """The answer to a path that is malformed, or written in another way than the routes are; None for any other."""
    if _BROKEN.search(request.rel_url.raw_path):
        request[BARE] = True
        answer = web.Response(status=400, text="400 Bad Request")
        answer.force_close()
        return answer
    clean = _cleaned(request.path)
    if clean != request.path:
        request[BARE] = True
        return web.Response(status=301, headers={"Location": str(request.rel_url.with_path(clean, keep_query=True))})
    return None


def check_query(request: web.Request) -> None:
    """:raise InvalidArgument: a parameter is not written as queries are."""
    raw = request.rel_url.raw_query_string
    if "%" not in raw and ";" not in raw:
        return
    for part in raw.split("&"):
        broken = _BROKEN.search(part)
        if ";" in part:
            raise InvalidArgument("invalid semicolon separator in query", field="query", value=part[:64],
                                  hint="parameters are parted by &, and %3B is a semicolon")
        if broken:
            raise InvalidArgument(f'invalid URL escape "{broken[0]}"', field="query", value=part[:64],
                                  hint="%25 is a percent sign")


def _cleaned(path: str) -> str:
    """Without empty steps, `.` and `..`; a slash at the end stays."""
    if "//" not in path and "/." not in path:
        return path
    steps: list[str] = []
    for step in path.split("/"):
        if step == "..":
            del steps[-1:]
        elif step not in ("", "."):
            steps.append(step)
    clean = "/" + "/".join(steps)
    return f"{clean}/" if path.endswith("/") and steps else clean
