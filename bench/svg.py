"""SVG, as much of it as a bar or a dot needs: shapes on a canvas, scales with round ticks. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape, quoteattr

INK, FAINT, PAPER = "#1f2937", "#d1d5db", "#ffffff"
OURS, PEER, GOOD, BAD = "#2563eb", "#9ca3af", "#15803d", "#b91c1c"
PALETTE = ("#2563eb", "#f59e0b", "#10b981", "#8b5cf6", "#ef4444", "#64748b", "#0f172a")
_FONT = "ui-sans-serif, system-ui, 'DejaVu Sans', sans-serif"
_CHARACTER = 0.58
"""Width of a character of that font, on average, in its size."""


class Canvas:
    """Shapes in the order in which they are drawn; the origin is at the top left."""

    def __init__(self, width: float, height: float, title: str) -> None:
        self._size = f"{width:g} {height:g}"
        self._title = title
        self._shapes: list[str] = []
        self.rectangle(0, 0, width, height, PAPER)

    def rectangle(self, x: float, y: float, width: float, height: float, colour: str, *, hint: str = "") -> None:
        """:param hint: shown by a browser where the pointer rests on it."""
        self._add("rect", hint, x=x, y=y, width=max(0.0, width), height=height, fill=colour)

    def dot(self, x: float, y: float, colour: str, *, radius: float = 3.0) -> None:
        self._add("circle", cx=x, cy=y, r=radius, fill=colour, fill_opacity=0.55)

    def line(self, points: Sequence[tuple[float, float]], colour: str, *, width: float = 1.0, dashed: bool = False
             ) -> None:
        self._add("polyline", points=" ".join(f"{x:.1f},{y:.1f}" for x, y in points), fill="none", stroke=colour,
                  stroke_width=width, **({"stroke_dasharray": "4 3"} if dashed else {}))

    def text(self, x: float, y: float, words: str, *, size: float = 12.0, colour: str = INK, anchor: str = "start",
             bold: bool = False) -> None:
        """:param anchor: "start", "middle" or "end" of the words is at x."""
        self._add("text", content=words, x=x, y=y, font_size=size, fill=colour, text_anchor=anchor,
                  **({"font_weight": "600"} if bold else {}))

    def _add(self, tag: str, hint: str = "", content: str = "", **attributes: object) -> None:
        words = "".join(f" {name.replace('_', '-')}={quoteattr(_plain(value))}" for name, value in attributes.items())
        inner = (f"<title>{escape(hint)}</title>" if hint else "") + escape(content)
        self._shapes.append(f"<{tag}{words}>{inner}</{tag}>" if inner else f"<{tag}{words}/>")

    def document(self) -> str:
        width, height = self._size.split()
        return "\n".join([
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {self._size}" '
            f'role="img" font-family="{_FONT}">', f"<title>{escape(self._title)}</title>", *self._shapes, "</svg>\n"])


def _plain(value: object) -> str:
    return f"{value:.1f}".removesuffix(".0") if isinstance(value, float) and value >= 1 else str(value)


def text_width(words: str, size: float = 12.0) -> float:
    return len(words) * size * _CHARACTER


@dataclass(frozen=True)
class Scale:
    """Values to places: from `low` at `start` to `high` at `end`; values beyond them stay at the ends."""

    low: float
    high: float
    start: float
    end: float
    logarithmic: bool = False

    def place(self, value: float) -> float:
        low, high, at = (self._bend(number) for number in (self.low, self.high, value))
        part = (at - low) / (high - low) if high > low else 0.0
        return self.start + min(1.0, max(0.0, part)) * (self.end - self.start)

    def _bend(self, value: float) -> float:
        return math.log10(max(value, 1e-12)) if self.logarithmic else value

    def ticks(self, count: int = 6) -> list[float]:
        """Round numbers within: 1, 2 and 5 times powers of ten; on a wide logarithmic scale powers of ten alone."""
        if self.logarithmic:
            first, last = math.floor(self._bend(self.low)), math.ceil(self._bend(self.high))
            steps = (1, 2, 5) if last - first <= 2 else (1,)
            found = [step * 10.0 ** power for power in range(first, last + 1) for step in steps]
        else:
            step = round_up((self.high - self.low) / count) if self.high > self.low else 1.0
            first = math.ceil(self.low / step)
            found = [index * step for index in range(first, math.floor(self.high / step + 1e-9) + 1)]
        return [tick for tick in found if self.low * (1 - 1e-9) <= tick <= self.high * (1 + 1e-9)]


def round_up(value: float) -> float:
    """The next 1, 2 or 5 times a power of ten. :raise ValueError: it is not positive."""
    power = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in (1, 2, 5, 10) if step * power >= value * (1 - 1e-9))


def number(value: float) -> str:
    """As a person writes it: three digits that count."""
    if value == 0:
        return "0"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:.{digits}f}".rstrip("0").rstrip(".") if digits else f"{value:.0f}"
