"""Ablations in an opened report: where they stand, what they say, strange text."""

import re
from urllib.parse import unquote

import pytest

from lightgen_core.intervals import Interval
from lightgen_core.report.ablation_chart import ablation_chart
from lightgen_core.report.ablations import AblationPoint, ShownAblation, insert_ablations
from lightgen_core.report.page import render_report
from tests.core.report.test_page import Page, report

LOW, HIGH = Interval(0.5, 0.4, 0.6, 96), Interval(0.75, 0.7, 0.8, 96)
POINTS = [AblationPoint(["1"], LOW, None), AblationPoint(["4"], HIGH, Interval(0.25, 0.125, 0.375, 96))]
ABLATION = ShownAblation(
    key="1a2b3c4d",
    made="2026-01-02T03:04:05+00:00",
    axes=["sampler.guidance_scale"],
    seeds=1,
    intervals="95 % for new prompts, of one training",
    points=POINTS,
    figure=str(ablation_chart(["sampler.guidance_scale"], [([1], LOW), ([4], HIGH)])),
)


def test_ablations_stand_before_the_lineage_with_their_figure():
    page = insert_ablations(render_report(report()), [ABLATION])
    part = page[page.index('<section id="ablations">') : page.index('<section id="lineage">')]
    assert page.index('<a href="#ablations">') < page.index('<a href="#lineage">')
    assert "Score against sampler.guidance_scale" in part
    assert "ablation/1a2b3c4d</code> of 2026-01-02 03:04 UTC; 1 training of each point" in part
    figure = re.search(r'<img src="(data:image/svg\+xml,[^"]+)"', part)
    assert figure and unquote(figure[1]).endswith(ABLATION.figure)
    assert "+0.250<small>+0.125 to +0.375</small>" in part
    assert Page(page).open == [], "every tag is closed"


def test_the_rest_of_the_report_keeps_its_bytes():
    plain = render_report(report())
    page = insert_ablations(plain, [ABLATION])
    part = page[page.index('<section id="ablations">') : page.index('<section id="lineage">')]
    assert page.replace(part, "").replace('<a href="#ablations">Ablations</a>\n', "") == plain


def test_values_of_strangers_stay_text():
    script = "<script>alert(1)</script>"
    hostile = ShownAblation(**vars(ABLATION) | {"axes": [script], "points": [AblationPoint([script], LOW, None)]})
    assert script not in insert_ablations(render_report(report()), [hostile])


def test_a_page_that_is_no_report_is_refused():
    with pytest.raises(ValueError, match="found no report"):
        insert_ablations("<html></html>", [ABLATION])
