"""What is said of samples, and how a report tells of what it has and has not."""

from __future__ import annotations

import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench import gauge
from bench.report import Report
from bench.samples import Samples


def test_the_median_of_an_even_number_lies_between_the_middle_two() -> None:
    assert Samples("any", values=[4, 1, 3, 2]).median == 2.5


def test_a_summary_keeps_the_order_of_measurement_and_tells_the_extremes() -> None:
    summary = Samples("from here to there", "s", [3.0, 1.0, 2.0]).summary()
    assert summary["values"] == [3.0, 1.0, 2.0]
    assert (summary["min"], summary["median"], summary["max"]) == (1.0, 2.0, 3.0)
    assert (summary["clock"], summary["unit"]) == ("from here to there", "s")


def test_equal_samples_have_no_spread_and_one_sample_neither() -> None:
    assert Samples("any", values=[7.0] * 5).spread == 0
    assert Samples("any", values=[7.0]).spread == 0
    assert Samples("any", values=[7.0]).summary()["quartiles"] == [7.0, 7.0, 7.0]


def test_the_spread_is_the_middle_half_as_a_part_of_the_median() -> None:
    assert Samples("any", values=[80, 90, 100, 110, 120]).spread == pytest.approx(0.2)


def test_of_nothing_nothing_is_said() -> None:
    with pytest.raises(statistics.StatisticsError):
        Samples("any").summary()


@given(st.lists(st.floats(0.001, 1e6), min_size=1, max_size=50))
def test_quartiles_lie_within_the_samples(values: list[float]) -> None:
    samples = Samples("any", values=values)
    assert samples.spread >= 0
    assert min(values) <= samples.median <= max(values)
    quartiles = samples.summary()["quartiles"]
    assert isinstance(quartiles, list)
    assert quartiles == sorted(quartiles)


def test_a_report_tells_why_a_figure_is_missing() -> None:
    report = Report()
    report.median("start.a_ms", Samples("any", values=[3.0, 1.0, 2.0]))
    report.median("start.b_ms", Samples("any"))
    report.ratio("start.ratio", "start.a_ms", "start.b_ms")
    document = report.document({"cpus": 2})
    assert document["figures"] == {"start.a_ms": 2.0}
    assert document["details"]["left_out"] == {"start.b_ms": "no sample", "start.ratio": "no start.b_ms"}
    assert document["details"]["start.a_ms"]["count"] == 3
    assert document["host"] == {"cpus": 2}


def test_a_ratio_is_the_first_divided_by_the_second() -> None:
    report = Report(figures={"a": 3.0, "b": 2.0, "zero": 0.0})
    report.ratio("good", "a", "b")
    report.ratio("bad", "a", "zero")
    assert report.figures["good"] == 1.5
    assert "bad" not in report.figures


def test_the_gauge_prints_bytes_and_nanoseconds() -> None:
    assert gauge.mb_per_s("5000000 1000000000\n") == 5.0
    assert gauge.microseconds("any", "1500\n2500\n").values == [1.5, 2.5]
    with pytest.raises(ValueError, match="invalid literal"):
        gauge.mb_per_s("gauge: /data: no such file")
