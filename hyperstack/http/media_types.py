"""The Content-Type of a request's body."""

from __future__ import annotations

import re
import string

from hyperstack.pod.errors import InvalidArgument

JSON = "application/json"
_TOKEN = "!#$%&'*+-.^_`|~" + string.digits + string.ascii_letters
_WORD = f"[{re.escape(_TOKEN)}]+"
_PARAMETERS = re.compile(rf'(?:\s*;\s*{_WORD}=(?:{_WORD}|"(?:[^"\\]|\\.)*"))*\s*;?\s*\Z')


def require_json(header: str, *, empty: bool) -> None:
    """:param empty: there is no body, which needs no type. :raise InvalidArgument: it is another one, or none."""
    if not header and empty:
        return
    found, fault = _parsed(header)
    shown = header[:128]
    if fault:
        raise InvalidArgument(f"malformed Content-Type header ({shown}): mime: {fault}", field="Content-Type",
                              value=shown, hint=f"must be '{JSON}'")
    if found != JSON:
        raise InvalidArgument(f"unsupported Content-Type header ({shown}): must be '{JSON}'", field="Content-Type",
                              value=shown)


def _parsed(header: str) -> tuple[str, str]:
    """Type and subtype, and what is wrong with the header, in the words of Go's `mime`."""
    kind, semicolon, parameters = header.partition(";")
    kind = kind.strip().lower()
    rest = kind.lstrip(_TOKEN)
    if rest == kind:
        return "", "no media type"
    if rest:
        subtype, after = rest[1:], rest[1:].lstrip(_TOKEN)
        fault = ("expected slash after first token" if rest[0] != "/" else "expected token after slash"
                 if after == subtype else "unexpected content after media subtype" if after else "")
        if fault:
            return "", fault
    return (kind, "") if _PARAMETERS.match(semicolon + parameters) else ("", "invalid media parameter")
