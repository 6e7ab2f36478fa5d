"""The run before in an opened report: where it stands, what it says, strange text."""

import pytest

from lightgen_core.intervals import Interval
from lightgen_core.report.comparison import ChangedField, ComparedScore, Comparison, insert_comparison
from lightgen_core.report.data import JudgedImage, SampleRow
from lightgen_core.report.page import render_report
from tests.core.report.test_page import NOISE, Page, report

DASH = "\N{EN DASH}"
SCRIPT = "<script>alert(1)</script>"
ROW = SampleRow("counting", SCRIPT, {"before": JudgedImage(NOISE[0], False), "now": JudgedImage(NOISE[1], True)})
CHANGE = Interval(0.044, 0.021, 0.066, 960)
COMPARISON = Comparison(
    recipe="demo",
    before="1a2b3c4d",
    now="5e6f7a8b",
    made="2026-01-02T03:04:05+00:00",
    fields=[ChangedField("dpo.rounds", "2", "4"), ChangedField("captions.file.path", "", SCRIPT)],
    scores=[ComparedScore("overall", Interval(0.84, 0.82, 0.86, 960), Interval(0.88, 0.86, 0.9, 960), CHANGE)],
    shared=["captions", "synthesis"],
    samples=[ROW],
    changed=1,
)


def opened(**changes) -> str:
    return insert_comparison(render_report(report()), Comparison(**(vars(COMPARISON) | changes)))


def part(page: str) -> str:
    return page[page.index('<section id="before">') : page.index('<section id="lineage">')]


def test_the_run_before_stands_before_the_lineage():
    page, text = opened(), part(opened())
    assert page.index('<a href="#before">') < page.index('<a href="#lineage">')
    assert "report/1a2b3c4d</code> of 2026-01-02 03:04 UTC" in text
    assert f"<small>0.82{DASH}0.86</small>" in text and "+0.044<small>+0.021 to +0.066</small>" in text
    assert "<code>dpo.rounds</code></th><td>2</td><td>4</td>" in text
    assert "captions, synthesis" in text
    assert Page(page).open == [], "every tag is closed"


def test_the_rest_of_the_report_keeps_its_bytes():
    page, plain = opened(), render_report(report())
    assert page.replace(part(page), "").replace('<a href="#before">Run before</a>\n', "") == plain


def test_captions_and_fields_of_strangers_stay_text():
    assert SCRIPT not in opened()
    assert part(opened()).count("&lt;script&gt;") >= 3


def test_without_pairs_the_difference_has_no_interval():
    text = part(opened(scores=[ComparedScore("overall", None, Interval(0.5, 0.4, 0.6, 8), None)]))
    assert "the runs were scored on other captions or seeds" in text
    assert text.count(f">{DASH}</td>") == 2


def test_without_a_judge_images_and_fields_are_left():
    text = part(opened(scores=[], changed=None, fields=[]))
    assert "There are no scores to compare" in text and "No field of the recipe differs" in text
    assert text.count("<img ") == 2 and "judged otherwise" not in text


def test_a_page_that_is_no_report_is_refused():
    with pytest.raises(ValueError, match="found no report"):
        insert_comparison("<html></html>", COMPARISON)
