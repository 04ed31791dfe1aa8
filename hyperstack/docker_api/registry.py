"""What registries are asked: logins, names, what a name means."""

from __future__ import annotations

from aiohttp import web

from hyperstack.docker_api.bodies import AuthBody
from hyperstack.docker_api.filters import Filters
from hyperstack.docker_api.registry_auth import credentials, credentials_of, registry_of
from hyperstack.engine.api import Engine
from hyperstack.http.call import Call
from hyperstack.http.responses import json_response
from hyperstack.http.routing import Route
from hyperstack.pod.errors import InvalidArgument

_SEARCH_LIMIT, _MAX_SEARCH = 25, 100
"""Docker's numbers."""


class RegistryRoutes:
    """The table and its handlers."""

    def __init__(self, engine: Engine) -> None:
        self._images = engine.images

    def table(self) -> list[Route]:
        return [
            Route("GET", "/images/search", self.search, cancellable=True),
            Route("GET", "/distribution/{name:.+}/json", self.distribution, cancellable=True),
            Route("POST", "/auth", self.auth, cancellable=True),
        ]

    async def search(self, call: Call) -> web.StreamResponse:
        wanted = Filters.parse(call, known=("is-automated", "is-official", "stars"))
        flags = [wanted.truth("is-automated"), wanted.truth("is-official")]
        stars = [_stars(text) for text in wanted.get("stars")]
        term, limit = call.text("term"), _limit(call)
        if not 1 <= limit <= _MAX_SEARCH:
            raise InvalidArgument(f"limit {limit} is outside the range of [1, {_MAX_SEARCH}]", field="limit",
                                  value=limit)
        if not term:
            raise InvalidArgument("term must be given", field="term")
        names = await self._images.search(call.who, term, limit=limit)
        # A registry's catalogue tells of no stars and of nothing official: such filters leave nothing.
        return json_response([] if any(flags) or any(stars) else [
            {"name": name, "description": "", "star_count": 0, "is_official": False, "is_automated": False}
            for name in names])

    async def distribution(self, call: Call) -> web.StreamResponse:
        found = await self._images.describe_remote(call.who, call.part("name"), credentials=credentials_of(call))
        return json_response({
            "Descriptor": {"mediaType": found.media_type, "digest": found.digest, "size": found.size},
            "Platforms": [{"architecture": architecture, "os": system, **({"variant": variant} if variant else {})}
                          for system, architecture, variant in found.platforms]})

    async def auth(self, call: Call) -> web.StreamResponse:
        """Only asks: credentials are the client's to keep, and come again with each pull and push."""
        body = await call.body(AuthBody)
        await self._images.check_login(call.who, registry_of(body), credentials(body))
        return json_response({"Status": "Login Succeeded", "IdentityToken": ""})


def _limit(call: Call) -> int:
    """:raise InvalidArgument: it is no number."""
    try:
        return call.integer("limit") or _SEARCH_LIMIT
    except InvalidArgument as error:
        raise InvalidArgument(f"invalid limit specified: {error.message}", field="limit", value=error.value) from error


def _stars(text: str) -> int:
    """:raise InvalidArgument: it is no number."""
    if text.lstrip("+-").isdecimal() and text.isascii() and len(text) < 19:
        return int(text)
    raise InvalidArgument(f"invalid filter 'stars={text[:64]}': strconv.Atoi: parsing \"{text[:64]}\": invalid syntax",
                          field="filters", value=text[:64])
