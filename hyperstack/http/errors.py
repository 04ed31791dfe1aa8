"""Errors as answers: the one place where an error of ours becomes a status and `{"message": ...}`."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

from aiohttp import web

from hyperstack.http.responses import Spent, json_response
from hyperstack.http.targets import BARE, misdirected
from hyperstack.pod import errors

_log = logging.getLogger(__name__)

_STATUS: tuple[tuple[type[errors.HyperStackError], int], ...] = (
    (errors.InvalidArgument, 400),
    (errors.Unauthorized, 401),
    (errors.Forbidden, 403),
    (errors.NotFound, 404),
    (errors.Conflict, 409),
    (errors.NotModified, 304),
    (errors.Unsupported, 501),
    (errors.Exhausted, 507),
    (errors.TooManyRequests, 429),
    (errors.Unavailable, 503),
    (errors.StartFailed, 400),
)

_START_WORDS = {127: "executable file not found in $PATH", 126: "permission denied"}
"""Docker's clients read a start's exit code out of these words."""


class PlainTextError(errors.InvalidArgument):
    """For a client so old that it takes no errors in JSON."""


def status_of(error: errors.HyperStackError) -> int:
    """The HTTP status; 500 for an error of no known kind."""
    return next((status for kind, status in _STATUS if isinstance(error, kind)), 500)


def message_of(error: errors.HyperStackError) -> str:
    """The sentence for the client, with its hint."""
    text = str(error)
    if isinstance(error, errors.StartFailed):
        words = _START_WORDS.get(error.exit_code, "")
        known = (*_START_WORDS.values(), "no such file or directory", "is a directory")
        if words and not any(word in text for word in known):
            return f"{text}: {words}"
    return text


def answer(error: errors.HyperStackError) -> web.StreamResponse:
    if isinstance(error, PlainTextError):
        return web.Response(status=400, text=f"{message_of(error)}\n", headers={"X-Content-Type-Options": "nosniff"})
    status = status_of(error)
    return web.Response(status=304) if status == 304 else json_response({"message": message_of(error)}, status=status)


@web.middleware
async def unknown_paths(request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
                        ) -> web.StreamResponse:
    """What the router itself refuses, in the shape of every other error. OPTIONS is answered for any path."""
    answer = misdirected(request)
    if answer is not None:
        return answer
    if request.method == "OPTIONS":
        return web.Response(headers={"Content-Length": "0"})
    try:
        return await handler(request)
    except (web.HTTPNotFound, web.HTTPMethodNotAllowed):
        request[BARE] = True
        return json_response({"message": "page not found"}, status=404)


async def guarded(request: web.Request, work: Awaitable[web.StreamResponse]) -> web.StreamResponse:
    """The answer of `work`, whatever happens in it. Where a part of the answer is out already, all that can be told is
    that it is not whole: the connection ends without the stream's last chunk."""
    try:
        return await work
    except errors.HyperStackError as error:
        return answer(error) if _unanswered(request) else _cut(request, error)
    except web.RequestPayloadError:
        return json_response({"message": "the request body is malformed or not whole"}, status=400)
    except web.HTTPException as error:
        return json_response({"message": error.reason.lower()}, status=error.status)
    except ConnectionError as error:
        if request.transport is None or request.transport.is_closing():
            return Spent()  # The client went away; nobody is left to be told.
        return _internal(request, error)
    except Exception as error:  # The outermost boundary: a defect of ours must not look like the client's.
        return _internal(request, error)


def _unanswered(request: web.Request) -> bool:
    return request.writer.output_size == 0


def _cut(request: web.Request, error: Exception) -> web.StreamResponse:
    _log.warning("%s %s ends early: %s", request.method, request.path, error)
    if request.transport is not None:
        request.transport.close()
    return Spent()


def _internal(request: web.Request, error: Exception) -> web.StreamResponse:
    _log.exception("%s %s failed", request.method, request.path)
    if not _unanswered(request):
        return _cut(request, error)
    return json_response({"message": "internal error; the daemon's log has the details"}, status=500)
