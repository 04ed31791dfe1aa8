"""Pulls and loads as the user sees them: bars per layer on a terminal, lines elsewhere."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from typing import IO, Any

import click

from hyperstack.cli import references
from hyperstack.cli.client import Client
from hyperstack.cli.errors import CliError


def pull(client: Client, reference: str, *, platform: str = "", quiet: bool = False, to_stderr: bool = False) -> None:
    """Pull an image and show how it goes.

    :raise CliError: the daemon could not; the message is its own.
    """
    name, version = references.split(reference)
    if not version and not quiet and not to_stderr:
        click.echo("Using default tag: latest")
    from hyperstack.cli.credentials import headers_for

    response = client.request("POST", "/images/create", headers=headers_for(reference), query={
        "fromImage": name, "tag": version or "latest", "platform": platform or None})
    show(response.json_lines(), quiet=quiet, to_stderr=to_stderr)


def show(messages: Iterable[Any], *, quiet: bool = False, to_stderr: bool = False) -> list[str]:
    """Draw a stream of progress messages to its end. Returns the text of its `stream` messages.

    :raise CliError: the stream reports an error.
    """
    output = sys.stderr if to_stderr else sys.stdout
    checked = _checked(messages)
    if quiet:
        return [text for message in checked if (text := str(message.get("stream", "")))]
    if os.isatty(output.fileno()):
        from hyperstack.cli.bars import draw

        return draw(checked, output)
    return _lines(checked, output)


def _checked(messages: Iterable[Any]) -> Iterable[dict[str, Any]]:
    for message in messages:
        if not isinstance(message, dict):
            raise CliError(f"hyperd sent a progress message that is none: {str(message)[:80]}")
        detail = message.get("errorDetail") or {}
        if failure := detail.get("message") or message.get("error"):
            # A build's is the exit code of what it ran; others are statuses of HTTP.
            code = detail.get("code")
            raise CliError(str(failure), exit_code=code if isinstance(code, int) and 0 < code < 256 else 1)
        yield message


def _lines(messages: Iterable[dict[str, Any]], output: IO[str]) -> list[str]:
    streams: list[str] = []
    for message in messages:
        if text := message.get("stream"):
            streams.append(str(text))
            output.write(str(text))
        elif status := message.get("status"):
            if message.get("progressDetail"):
                continue  # a bar's steps say nothing on paper
            ident = message.get("id")
            output.write(f"{ident}: {status}\n" if ident else f"{status}\n")
        output.flush()
    return streams
