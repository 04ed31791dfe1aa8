"""What a bench found out: figures, the samples behind them, and why a figure is missing."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import Any

from bench.samples import Samples


@dataclass
class Report:
    figures: dict[str, float] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    """Name of a figure -> why there is none."""

    def median(self, name: str, samples: Samples, *, digits: int = 1) -> None:
        self._samples(name, samples, samples.median if samples.values else 0.0, digits)

    def mean(self, name: str, samples: Samples, *, digits: int = 1) -> None:
        self._samples(name, samples, samples.mean if samples.values else 0.0, digits)

    def _samples(self, name: str, samples: Samples, value: float, digits: int) -> None:
        if not samples.values:
            self.leave_out(name, reason="no sample")
            return
        self.figures[name] = round(value, digits)
        self.details[name] = samples.summary()

    def ratio(self, name: str, over: str, under: str) -> None:
        """A figure divided by another, where both are there."""
        missing = [part for part in (over, under) if not self.figures.get(part)]
        if missing:
            self.leave_out(name, reason=f"no {missing[0]}")
        else:
            self.figures[name] = round(self.figures[over] / self.figures[under], 2)

    def leave_out(self, *names: str, reason: str) -> None:
        for name in names:
            self.left_out[name] = reason

    def document(self, facts: dict[str, Any]) -> dict[str, Any]:
        return {"figures": self.figures, "details": {**self.details, "left_out": self.left_out}, "host": facts}


def say(text: str) -> None:
    """Progress: to standard error, as standard output is the result's."""
    print(text, file=sys.stderr, flush=True)
