"""Samples of one quantity, and what to say of them."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field


@dataclass
class Samples:
    """Values in the order they were measured."""

    clock: str
    """For a duration where it starts and where it ends, else what was read; in words."""
    unit: str = "ms"
    values: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def mean(self) -> float:
        return statistics.fmean(self.values)

    @property
    def spread(self) -> float:
        """The middle half of the samples, as a part of the median: 0.1 is a quiet machine, 0.5 a busy one."""
        if len(self.values) < 2 or not self.median:
            return 0.0
        low, _, high = statistics.quantiles(self.values, n=4, method="inclusive")
        return (high - low) / abs(self.median)

    def summary(self) -> dict[str, object]:
        """For the JSON. :raise statistics.StatisticsError: there is no sample."""
        ordered = sorted(self.values)
        if not ordered:
            raise statistics.StatisticsError(f"no sample: {self.clock}")
        cuts = statistics.quantiles(ordered, n=4, method="inclusive") if len(ordered) > 1 else [ordered[0]] * 3
        return {"clock": self.clock, "unit": self.unit, "count": len(ordered), "median": round(self.median, 3),
                "mean": round(self.mean, 3), "min": round(ordered[0], 3), "max": round(ordered[-1], 3),
                "quartiles": [round(cut, 3) for cut in cuts], "spread": round(self.spread, 3),
                "values": [round(value, 3) for value in self.values]}
