"""Samples of a duration and what to say of them."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field


@dataclass
class Samples:
    """Milliseconds, in the order they were measured."""

    clock: str
    """Where it starts and where it ends, in words."""
    values: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    def summary(self) -> dict[str, object]:
        ordered = sorted(self.values)
        return {"clock": self.clock, "count": len(ordered), "median_ms": round(self.median, 1),
                "min_ms": round(ordered[0], 1), "max_ms": round(ordered[-1], 1),
                "quartiles_ms": [round(cut, 1) for cut in statistics.quantiles(ordered, n=4)]
                if len(ordered) > 1 else [], "values_ms": [round(value, 1) for value in self.values]}
