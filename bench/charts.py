"""The four kinds of chart of the performance page, each from plain numbers to an SVG document. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bench.svg import BAD, FAINT, GOOD, INK, OURS, PALETTE, PEER, Canvas, Scale, number, text_width

_WIDTH = 860.0
_ROW = 30.0
_TOP = 54.0
_FOOT = 50.0
_RIGHT = 96.0
_SMALL = 10.0


@dataclass(frozen=True)
class Bar:
    label: str
    value: float
    peer: bool = False


@dataclass(frozen=True)
class Series:
    """Samples of one thing."""

    label: str
    values: Sequence[float]
    peer: bool = False


@dataclass(frozen=True)
class Stack:
    """A bar of parts."""

    label: str
    parts: dict[str, float]


@dataclass(frozen=True)
class Goal:
    """A figure beside what was promised of it; `value` is None where it was not measured."""

    label: str
    value: float | None
    unit: str
    must: float
    aim: float
    more_is_better: bool = False

    @property
    def share(self) -> float:
        """Of what is allowed: 1 is the promise, less is better, whichever way the figure counts."""
        assert self.value is not None
        return self.must / max(self.value, 1e-9) if self.more_is_better else self.value / self.must

    @property
    def aim_share(self) -> float:
        return self.must / self.aim if self.more_is_better else self.aim / self.must


def _frame(title: str, subtitle: str, rows: int, note: str) -> tuple[Canvas, float]:
    """An empty chart, and where its rows end."""
    height = _TOP + rows * _ROW + _FOOT
    canvas = Canvas(_WIDTH, height, title)
    canvas.text(16, 22, title, size=15, bold=True)
    canvas.text(16, 40, subtitle, size=11)
    canvas.text(16, height - 8, note, size=9, colour="#6b7280")
    return canvas, _TOP + rows * _ROW


def _left(labels: Sequence[str]) -> float:
    return 24 + max(text_width(label) for label in labels)


def _axis(canvas: Canvas, scale: Scale, top: float, bottom: float, unit: str) -> None:
    for tick in scale.ticks():
        canvas.line([(scale.place(tick), top), (scale.place(tick), bottom)], FAINT)
        canvas.text(scale.place(tick), bottom + 14, number(tick), size=_SMALL, anchor="middle")
    canvas.text(scale.end + 12, bottom + 14, unit, size=_SMALL)


def bars(title: str, subtitle: str, unit: str, rows: Sequence[Bar], note: str) -> str:
    """Values beside each other. :raise ValueError: there is none."""
    canvas, bottom = _frame(title, subtitle, len(rows), note)
    left = _left([row.label for row in rows])
    scale = Scale(0, max(row.value for row in rows), left, _WIDTH - _RIGHT)
    _axis(canvas, scale, _TOP, bottom, unit)
    for index, row in enumerate(rows):
        y = _TOP + index * _ROW
        end = scale.place(row.value)
        canvas.text(left - 8, y + 19, row.label, anchor="end")
        canvas.rectangle(left, y + 5, end - left, _ROW - 10, PEER if row.peer else OURS)
        canvas.text(end + 6, y + 19, number(row.value), size=11, bold=True)
    return canvas.document()


def strips(title: str, subtitle: str, unit: str, rows: Sequence[Series], note: str) -> str:
    """Every sample a dot, the median a line and a number; logarithmic. :raise ValueError: there is none."""
    canvas, bottom = _frame(title, subtitle, len(rows), note)
    left = _left([row.label for row in rows])
    everything = [value for row in rows for value in row.values]
    scale = Scale(min(everything) / 1.3, max(everything) * 1.1, left, _WIDTH - _RIGHT, logarithmic=True)
    _axis(canvas, scale, _TOP, bottom, unit)
    for index, row in enumerate(rows):
        y = _TOP + index * _ROW
        colour = PEER if row.peer else OURS
        canvas.text(left - 8, y + 19, row.label, anchor="end")
        for value in row.values:
            canvas.dot(scale.place(value), y + _ROW / 2, colour)
        ordered = sorted(row.values)
        middle = (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2
        x = scale.place(middle)
        canvas.line([(x, y + 3), (x, y + _ROW - 3)], INK, width=2.5)
        canvas.text(scale.place(ordered[-1]) + 8, y + 19, number(middle), size=11, bold=True)
    return canvas.document()


def stacks(title: str, subtitle: str, unit: str, rows: Sequence[Stack], note: str) -> str:
    """What things are made of. :raise ValueError: there is none."""
    names = list(dict.fromkeys(name for row in rows for name in row.parts))
    colours = {name: PALETTE[index % len(PALETTE)] for index, name in enumerate(names)}
    canvas, bottom = _frame(title, subtitle, len(rows) + 1, note)
    left = _left([row.label for row in rows])
    scale = Scale(0, max(sum(row.parts.values()) for row in rows), left, _WIDTH - _RIGHT)
    _axis(canvas, scale, _TOP + _ROW, bottom, unit)
    x = left
    for name, colour in colours.items():
        canvas.rectangle(x, _TOP + 4, 12, 12, colour)
        canvas.text(x + 16, _TOP + 14, name, size=11)
        x += 34 + text_width(name, 11)
    for index, row in enumerate(rows, start=1):
        y, at = _TOP + index * _ROW, 0.0
        canvas.text(left - 8, y + 19, row.label, anchor="end")
        for name, value in row.parts.items():
            begin, end = scale.place(at), scale.place(at + value)
            canvas.rectangle(begin, y + 4, end - begin, _ROW - 8, colours[name], hint=f"{name}: {number(value)} {unit}")
            if end - begin > text_width(number(value), _SMALL) + 4:
                canvas.text((begin + end) / 2, y + 19, number(value), size=_SMALL, colour="#ffffff", anchor="middle")
            at += value
        canvas.text(scale.place(at) + 6, y + 19, number(at), size=11, bold=True)
    return canvas.document()


def curves(title: str, subtitle: str, axes: tuple[str, str], lines: Mapping[str, Sequence[tuple[float, float]]],
           note: str) -> str:
    """Lines over a common x. :param axes: units of x and y. :raise ValueError: there is no point."""
    rows = 8
    canvas, bottom = _frame(title, subtitle, rows, note)
    points = [point for line in lines.values() for point in line]
    across = Scale(0, max(x for x, _ in points), 64, _WIDTH - _RIGHT - 60)
    up = Scale(0, max(y for _, y in points), bottom, _TOP + 8)
    _axis(canvas, across, _TOP + 8, bottom, axes[0])
    for tick in up.ticks():
        canvas.line([(across.start, up.place(tick)), (across.end, up.place(tick))], FAINT)
        canvas.text(across.start - 6, up.place(tick) + 4, number(tick), size=_SMALL, anchor="end")
    canvas.text(16, _TOP + 2, axes[1], size=_SMALL)
    for index, (name, line) in enumerate(lines.items()):
        places = [(across.place(x), up.place(y)) for x, y in line]
        canvas.line(places, PALETTE[index % len(PALETTE)], width=2)
        canvas.text(places[-1][0] + 6, places[-1][1] + 4 + 13 * index, name, size=11,
                    colour=PALETTE[index % len(PALETTE)], bold=True)
    return canvas.document()


def scorecard(title: str, subtitle: str, goals: Sequence[Goal], note: str) -> str:
    """Each figure as a share of what it may be: a bar that ends left of the line keeps the promise."""
    canvas, bottom = _frame(title, subtitle, len(goals) + 1, note)
    left = _left([goal.label for goal in goals])
    scale = Scale(0.1, 30, left, _WIDTH - 170, logarithmic=True)
    line = scale.place(1)
    canvas.text(line, _TOP + 18, "must", size=11, anchor="middle", bold=True)
    for index, goal in enumerate(goals, start=1):
        y = _TOP + index * _ROW
        canvas.text(left - 8, y + 19, goal.label, anchor="end")
        aim = scale.place(goal.aim_share)
        if goal.value is None:
            canvas.text(left + 4, y + 19, "not measured", size=11, colour="#6b7280")
        else:
            colour = GOOD if goal.share <= 1 else BAD
            canvas.rectangle(left, y + 6, scale.place(goal.share) - left, _ROW - 12, colour,
                             hint=f"{number(goal.share)} of what is allowed")
            canvas.text(_WIDTH - 160, y + 19, f"{number(goal.value)} {goal.unit}", size=12, colour=colour, bold=True)
        canvas.line([(aim, y + 3), (aim, y + _ROW - 3)], INK, width=1.5, dashed=True)
        promise = f"{number(goal.must)} / {number(goal.aim)}"
        canvas.text(_WIDTH - 12, y + 19, promise, size=_SMALL, anchor="end", colour="#6b7280")
    canvas.text(_WIDTH - 12, _TOP + 18, "must / aim", size=_SMALL, anchor="end", colour="#6b7280")
    canvas.line([(line, _TOP + 24), (line, bottom)], INK, width=2)
    return canvas.document()
