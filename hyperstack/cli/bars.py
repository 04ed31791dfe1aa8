"""Progress bars of a pull: one line per layer."""

from __future__ import annotations

from collections.abc import Iterable
from typing import IO, Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TextColumn
from rich.text import Text

from hyperstack.cli.units import decimal_size


class _Amount(ProgressColumn):
    """`12.3MB/40MB`, while bytes move."""

    def render(self, task: Task) -> Text:
        if not task.fields["moving"]:
            return Text("")
        total = f"/{decimal_size(task.total)}" if task.total else ""
        return Text(decimal_size(task.completed) + total, style="progress.download")


class _Bar(BarColumn):
    """A bar while bytes move, nothing before and after."""

    def render(self, task: Task) -> Any:
        return super().render(task) if task.fields["moving"] else Text("")


def draw(messages: Iterable[dict[str, Any]], output: IO[str]) -> list[str]:
    """Draw until the messages end. Returns the text of `stream` messages."""
    streams: list[str] = []
    console = Console(file=output, highlight=False)
    columns = (TextColumn("{task.description}"), TextColumn("{task.fields[status]}"), _Bar(bar_width=24), _Amount())
    with Progress(*columns, console=console) as progress:
        tasks: dict[str, TaskID] = {}
        for message in messages:
            status, ident = str(message.get("status", "")), message.get("id")
            if text := message.get("stream"):
                streams.append(str(text))
                console.print(str(text), end="", markup=False)
            elif status and (not ident or status.startswith("Pulling from")):
                console.print(f"{ident}: {status}" if ident else status, markup=False)
            elif status:
                _step(progress, tasks, str(ident), status, message.get("progressDetail") or {})
    return streams


def _step(progress: Progress, tasks: dict[str, TaskID], ident: str, status: str, detail: dict[str, Any]) -> None:
    if ident not in tasks:
        tasks[ident] = progress.add_task(escape(ident) + ":", total=None, status="", moving=False)
    moving = bool(detail.get("current"))
    progress.update(tasks[ident], status=escape(status), moving=moving, completed=detail.get("current") or 0,
                    total=detail.get("total") or None)
