"""From results to pictures: scales, charts, and what is drawn of a directory of results."""

from __future__ import annotations

import json
import math
import re
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench import charts, plots, svg

HOST = {"cpus": 2, "cpu": "Some <CPU> & more", "memory_mib": 24576, "kernel": "6.1", "load_before": 0.1,
        "began": "2026-01-02T03:04:05Z", "commit": "abc"}


def document(figures: dict[str, float], **details: Any) -> str:
    return json.dumps({"figures": figures, "details": details, "host": HOST})


def texts(picture: str) -> list[str]:
    return [element.text or "" for element in ET.fromstring(picture).iter("{http://www.w3.org/2000/svg}text")]


def test_a_scale_puts_its_ends_at_its_ends_and_what_is_beyond_too() -> None:
    scale = svg.Scale(0, 10, 100, 300)
    assert [scale.place(value) for value in (0, 5, 10, 99, -1)] == [100, 200, 300, 300, 100]


def test_a_logarithmic_scale_puts_equal_ratios_at_equal_distances() -> None:
    scale = svg.Scale(1, 1000, 0, 300, logarithmic=True)
    assert [round(scale.place(value)) for value in (1, 10, 100, 1000, 0)] == [0, 100, 200, 300, 0]


@given(st.floats(1e-3, 1e6), st.floats(1.01, 1e6), st.booleans())
def test_ticks_lie_within_their_scale_in_order_and_are_few(low: float, factor: float, logarithmic: bool) -> None:
    scale = svg.Scale(low, low * factor, 0, 1, logarithmic)
    ticks = scale.ticks()
    assert ticks == sorted(ticks)
    assert len(ticks) <= 20
    assert all(low * 0.999 <= tick <= low * factor * 1.001 for tick in ticks)


@given(st.floats(1e-6, 1e9))
def test_a_round_step_is_one_two_or_five(value: float) -> None:
    step = svg.round_up(value)
    assert value * 0.999 <= step <= value * 2.6
    assert round(step / 10 ** math.floor(math.log10(step) + 1e-9)) in (1, 2, 5)


@pytest.mark.parametrize(("value", "words"), [(0, "0"), (0.71, "0.71"), (1, "1"), (9.916, "9.92"), (50, "50"),
                                              (187.7, "188"), (1844.5, "1,844"), (100, "100")])
def test_a_number_shows_three_digits_that_count(value: float, words: str) -> None:
    assert svg.number(value) == words


def test_words_are_escaped() -> None:
    canvas = svg.Canvas(10, 10, 'a "title" & <more>')
    canvas.text(1, 2, "<b>&")
    assert texts(canvas.document()) == ["<b>&"]


def test_a_longer_bar_is_a_larger_value() -> None:
    picture = charts.bars("t", "s", "ms", [charts.Bar("one", 10), charts.Bar("two", 20, peer=True)], "note")
    found = re.findall(rf'width="([\d.]+)" height="20" fill="(?:{svg.OURS}|{svg.PEER})"', picture)
    assert float(found[1]) == pytest.approx(2 * float(found[0]), abs=0.2)


def test_every_sample_is_a_dot() -> None:
    picture = charts.strips("t", "s", "ms", [charts.Series("one", [1, 2, 3]), charts.Series("two", [5.0])], "note")
    assert picture.count("<circle") == 4
    assert "2" in texts(picture)


def test_a_stack_tells_its_sum() -> None:
    assert "30" in texts(charts.stacks("t", "s", "MiB", [charts.Stack("pod", {"a": 10.0, "b": 20.0})], "note"))


def test_a_kept_promise_ends_left_of_the_line_whichever_way_it_counts() -> None:
    less = charts.Goal("start", 100, "ms", 200, 50)
    more = charts.Goal("pods", 600, "pods", 300, 900, more_is_better=True)
    assert (less.share, less.aim_share) == (0.5, 0.25)
    assert more.share == 0.5
    assert more.aim_share == pytest.approx(1 / 3)
    picture = charts.scorecard("t", "s", [less, more], "note")
    assert svg.GOOD in picture
    assert svg.BAD not in picture
    assert svg.BAD in charts.scorecard("t", "s", [charts.Goal("start", 201, "ms", 200, 50)], "note")


def test_results_become_pictures_and_what_was_not_measured_is_said(tmp_path: Path) -> None:
    (tmp_path / "start.json").write_text(document(
        {"start.cold_run_ms": 1800.0, "start.podman_ms": 200.0, "start.vs_podman": 9.0},
        **{"start.cold_run_ms": {"values": [1700, 1800, 1900]}, "start.podman_ms": {"values": [200]}}))
    (tmp_path / "net.json").write_text(document({"net.host_ping_us": 160, "net.podman_host_ping_us": 18}))
    written = plots.draw(tmp_path)
    assert {path.name for path in written} == {"start.svg", "net-latency.svg", "scorecard.svg"}
    start, card = texts((tmp_path / "start.svg").read_text()), texts((tmp_path / "scorecard.svg").read_text())
    assert "1,800" in start
    assert any("Some <CPU> & more" in words for words in start)
    assert card.count("not measured") == len(plots.GOALS) - 1
    assert "9 x" in card


def test_fewer_pods_than_promised_say_nothing_about_the_promise(tmp_path: Path) -> None:
    (tmp_path / "density.json").write_text(document(
        {"density.pods": 5}, curve=[[5, 20000, 7.0]], mem_available_mib={"before": 21000},
        **{"stopped by": "the limit of pods"}))
    (tmp_path / "rate.json").write_text(document({"rate.pods_per_s": 1.0}, pods=6))
    plots.draw(tmp_path)
    assert texts((tmp_path / "scorecard.svg").read_text()).count("not measured") == len(plots.GOALS)


def test_what_is_no_result_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "start.json").write_text("{}")
    with pytest.raises(ValueError, match=r"start\.json is no result"):
        plots.draw(tmp_path)
    (tmp_path / "start.json").write_text("")
    with pytest.raises(ValueError, match=r"start\.json is not JSON"):
        plots.draw(tmp_path)


def test_the_committed_pictures_are_made_from_the_committed_results(tmp_path: Path) -> None:
    for path in plots.DIRECTORY.glob("*.json"):
        (tmp_path / path.name).write_text(path.read_text())
    made = {path.name: path.read_text() for path in plots.draw(tmp_path)}
    assert made == {path.name: path.read_text() for path in plots.DIRECTORY.glob("*.svg")}
