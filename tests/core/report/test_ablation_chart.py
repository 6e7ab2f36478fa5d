"""The chart of an ablation: places of points, lines, whiskers, and its text alternative."""

import re

import pytest

from lightgen_core.intervals import Interval
from lightgen_core.report.ablation_chart import ablation_chart


def point(*values, score: float = 0.5) -> tuple[tuple, Interval]:
    return values, Interval(score, score - 0.1, score + 0.1, 960)


def places(chart: str) -> list[float]:
    """Return the horizontal places of the whiskers' middles."""
    return [float(x) for x, other in re.findall(r'<line x1="([\d.]+)" y1="[\d.]+" x2="([\d.]+)"', chart) if x == other]


def test_numbers_far_apart_stand_on_a_logarithmic_axis():
    near, middle, far = places(ablation_chart(["captions"], [point(60), point(600), point(6000)]))
    assert middle - near == pytest.approx(far - middle)
    near, middle, far = places(ablation_chart(["steps"], [point(100), point(200), point(300)]))
    assert middle - near == pytest.approx(far - middle)


def test_words_stand_side_by_side_and_are_not_joined():
    chart = ablation_chart(["preference"], [point("none"), point("nft")])
    assert len(places(chart)) == 2 and "<path" not in chart
    assert ">none</text>" in chart and ">nft</text>" in chart


def test_each_value_of_a_second_axis_has_a_line_of_its_own():
    grid = [point(captions, volume) for captions in (60, 300) for volume in (3000, 12000)]
    chart = ablation_chart(["captions", "volume"], grid)
    assert chart.count("<path") == 2 and "volume 12,000" in chart
    assert len(set(places(chart))) == 4, "points of two lines do not hide each other"


def test_the_text_alternative_has_every_score():
    assert "60: 0.523; 300: 0.655" in ablation_chart(["captions"], [point(60, score=0.523), point(300, score=0.655)])


def test_one_point_is_drawn_in_the_middle():
    assert places(ablation_chart(["captions"], [point(60)])) == [274.0]


def test_points_without_an_axis_are_refused():
    with pytest.raises(ValueError, match="0 points over 1 axes"):
        ablation_chart(["captions"], [])
