"""The report's parts on filters and on sources."""

from dataclasses import replace

from lightgen_core.report.data import DedupSummary, FilteredImage, FilterReason, RecaptionCount, SourceRow, SourceTable
from lightgen_core.report.page import render_report
from tests.core.report.test_page import NOISE, report, strip_volatile

SUMMARY = DedupSummary(5, {"small": 2, "no judge score": 1}, 0.95, (), 0, 0, None)
FILTERED = (
    FilterReason("small", 2, (FilteredImage(NOISE[0], "a <b>", 12.0, 64.0),)),
    FilterReason("no judge score", 1, (FilteredImage(NOISE[1], "c", None, 5.0),)),
)


def test_each_reason_has_its_count_and_examples_with_values():
    page = render_report(replace(report(), dedup=SUMMARY, filtered=FILTERED))
    part = page[page.index("Images that filters dropped") :]
    assert "3 of 5 images failed a filter" in part
    assert "<h4>Small: 2</h4>" in part and "<h4>No judge score: 1</h4>" in part
    assert "a &lt;b&gt;" in part and ">12, threshold 64</p>" in part and ">no value, threshold 5</p>" in part


def test_a_recipe_without_filters_has_no_such_part():
    without, empty = report(), replace(report(), filtered=())
    assert strip_volatile(render_report(without)) == strip_volatile(render_report(empty))
    assert "filters dropped" not in render_report(without)


def test_each_source_has_its_count_and_its_share_of_each_phase():
    rows = (SourceRow("flux", 300, (0.75, 0.5)), SourceRow("dalle", 100, (0.25, 0.5)))
    counts = (RecaptionCount("short", 398, {"cut off": 2}), RecaptionCount("long", 400, {}))
    page = render_report(replace(report(), sources=(SourceTable("Teachers", "Images", rows),), recaptions=counts))
    part = page[page.index("<h3>Teachers</h3>") :]
    assert "Seen in phase 1" in part and "Seen in phase 2" in part
    assert '<th scope="row">flux</th><td class="figure">300</td><td class="figure">75 %</td>' in part.replace(
        "\xa0", " "
    )
    assert "398 short captions were written for the images; others failed (cut off 2)." in part
    assert "400 long captions were written for the images." in part
