"""The report's parts on filters and on sources."""

from dataclasses import replace

from lightgen_core.report.data import (
    DedupSummary,
    FilteredImage,
    FilterReason,
    RecaptionedImage,
    RecaptionKind,
    Recaptions,
    RejectedText,
    SourceRow,
    SourceTable,
    TextReason,
)
from lightgen_core.report.page import render_report
from tests.core.report.test_page import NOISE, report, strip_volatile

SUMMARY = DedupSummary(5, {"small": 2, "no judge score": 1}, 0.95, (), 0, 0, None)
FILTERED = (
    FilterReason("small", 2, (FilteredImage(NOISE[0], "a <b>", 12.0, 64.0),)),
    FilterReason("no judge score", 1, (FilteredImage(NOISE[1], "c", None, 5.0),)),
    FilterReason("not selected", 1, (FilteredImage(NOISE[2], "d", None, None),)),
)


def test_each_reason_has_its_count_and_examples_with_values():
    page = render_report(replace(report(), dedup=SUMMARY, filtered=FILTERED))
    part = page[page.index("Images that filters dropped") :]
    assert "4 of 5 images failed a filter" in part
    assert "<h4>Small: 2</h4>" in part and "<h4>No judge score: 1</h4>" in part
    assert "a &lt;b&gt;" in part and ">12, threshold 64</p>" in part and ">no value, threshold 5</p>" in part
    assert ">no value</p>" in part, "dedup.select has neither value nor threshold"


def test_a_recipe_without_filters_has_no_such_part():
    without, empty = report(), replace(report(), filtered=())
    assert strip_volatile(render_report(without)) == strip_volatile(render_report(empty))
    assert "filters dropped" not in render_report(without)


def test_each_source_has_its_count_and_its_share_of_each_phase():
    rows = (SourceRow("flux", 300, (0.75, 0.5)), SourceRow("dalle", 100, (0.25, 0.5)))
    page = render_report(replace(report(), sources=(SourceTable("Teachers", "Images", 400, rows),)))
    part = page[page.index("<h3>Teachers</h3>") :].replace("\xa0", " ")
    assert "Seen in phase 1" in part and "Seen in phase 2" in part
    cells = "".join(f'<td class="figure">{cell}</td>' for cell in ("300", "75 %", "75 %", "50 %"))
    assert f'<th scope="row">flux</th>{cells}' in part


def test_recaptions_have_counts_reasons_and_examples():
    cut = TextReason("cut off", 2, (RejectedText("a <b>", "at the token limit"),))
    kinds = (RecaptionKind("short", 398, (cut,)), RecaptionKind("long", 400, ()))
    recaptions = Recaptions(kinds, (RecaptionedImage(NOISE[0], "the original", None, "a long one"),))
    part = render_report(replace(report(), recaptions=recaptions))
    assert "398 short captions were written for the images; 2 answers were no use" in part
    assert "a &lt;b&gt; <small>at the token limit</small>" in part
    assert "400 long captions were written for the images.</p>" in part
    assert "the original</p>" in part and "short: \N{EN DASH}<br>long: a long one</p>" in part
