"""The report page: self-contained, escaped, honest about what is not scored, the same for the same data."""

import base64
import io
import itertools
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from lightgen_core.dedup.diversity import Metric
from lightgen_core.emoji.credits import credits_of
from lightgen_core.intervals import Interval
from lightgen_core.report.charts import loss_curve, running_mean, score_bars, time_bars
from lightgen_core.report.data import (
    STUDENTS,
    Curve,
    DedupSummary,
    DuplicateCaption,
    DuplicateImage,
    JudgedImage,
    PairExample,
    RejectedText,
    ReportData,
    SampleRow,
    StageRow,
    TextReason,
    Topic,
)
from lightgen_core.report.formats import format_bytes, format_duration, image_data_uri, interval, number, percent, when
from lightgen_core.report.page import headline, render_report
from lightgen_core.report.svg import log_ticks, round_ticks

CATEGORIES = ("overall", "single_object", "two_object", "counting", "colors", "position", "color_attr")
NOISE = np.random.default_rng(0).integers(0, 256, (400, 48, 48, 3), dtype=np.uint8)


def strip_volatile(page: str) -> str:
    """The page without the facts that differ between two runs of one recipe."""
    return re.sub(r'<section id="run".*?</section>', "", page, flags=re.DOTALL)


def table(value, low, high):
    return {category: Interval(value, low, high, 160) for category in CATEGORIES}


SCORES = {"pretrain": table(0.75, 0.72, 0.78), "dpo": table(0.77, 0.74, 0.8), "shuffled": table(0.04, 0.03, 0.06)}
STAGES = (
    StageRow("captions", "0123abcd", (), 4000, 183_000, "cached", 1.5, 0.0, "2026-01-02T03:04:05+00:00"),
    StageRow("pretrain", "4567cdef", ("captions",), 0, 14_900_000, "ran", 300.0, 300.0, "2026-01-02T03:10:00+00:00"),
)


def report(rows=12, **changes):
    pictures = iter(NOISE)
    samples = tuple(
        SampleRow(
            CATEGORIES[1 + row % 6],
            f"caption {row}",
            {name: JudgedImage(next(pictures), row % 3 > 0) for name in ("teacher", "pretrain", "dpo")},
        )
        for row in range(rows)
    )
    steps = np.arange(1, 101)
    data = ReportData(
        name="demo",
        purpose="learns in minutes",
        recipe="name: demo\nseed: 0\n",
        scorer="the scene detector",
        scores=SCORES,
        samples=samples,
        curves=(
            Curve("Pre-training loss", steps, {"loss": 1 / steps}),
            Curve("DPO errors", steps, {"winner": -steps / 1e5, "loser": steps / 1e4}, "Winner falls.", reference=0.0),
        ),
        topics=(Topic("colors", 780, "a red circle"), Topic("position", 1010, "a star left of a cross")),
        unused_topics=("negation",),
        repeats=(DuplicateCaption("a Red circle!", "a red circle", 1.0),),
        repeated_captions=311,
        diversity=(Metric("Vendi score", 38.42, "effective number of different images"),),
        dedup=DedupSummary(
            images=12_000,
            reasons={"exact copy": 12, "near duplicate": 438},
            threshold=0.995,
            index=("Flat",),
            queries=10_000,
            pairs=912,
            recall=Interval(1.0, 0.9958, 1.0, 912),
            planted=100,
            planted_found={"mirrored": 99, "grey": 97},
            planted_wrong=2,
            examples=(DuplicateImage(next(pictures), next(pictures), "gone", "stays", 0.9971, "near duplicate"),),
        ),
        pairs=(PairExample("a blue star", next(pictures), next(pictures), "best_worst"),),
        pair_counts={"best_worst": 521, "teacher": 311},
        stages=STAGES,
        host={"machine": "x86_64"},
        software={"torch": "2.11.0"},
        created_at="2026-01-02T03:20:00+00:00",
    )
    return replace(data, **changes)


class Page(HTMLParser):
    """The page's references, images without words, and whether tags are balanced."""

    VOID = frozenset({"meta", "img", "br", "link", "input"})

    def __init__(self, page):
        super().__init__(convert_charrefs=True)
        self.open, self.tags, self.references, self.images, self.text = [], [], [], [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.references += [value for name, value in attrs if name in ("src", "href", "srcset", "action", "data")]
        if tag == "img":
            self.images.append(dict(attrs))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def test_the_page_refers_to_nothing_outside_itself():
    page = render_report(report())
    parsed = Page(page)
    assert {reference.split(",")[0] for reference in parsed.references if not reference.startswith("#")} == {
        "data:image/png;base64"
    }
    assert not re.search(r"https?://|//[a-z]|url\(|@import", re.sub(r"base64,[^\"]*", "", page))
    assert not {"script", "link", "iframe", "object"} & set(parsed.tags)
    assert parsed.open == []
    for anchor in (reference for reference in parsed.references if reference.startswith("#")):
        assert f'id="{anchor[1:]}"' in page


def test_published_tables_stand_apart_from_scene_scores():
    page = render_report(report())
    part = page[page.index("Published scores") :]
    assert "do not compare with these" in part and "demo: " not in part
    row = part[part.index("Show-o") :].partition("</tr>")[0]
    assert re.findall(r"\d\.\d\d", row)[:7] == [
        "0.53",
        "0.95",
        "0.52",
        "0.49",
        "0.82",
        "0.11",
        "0.28",
    ]  # Table 3, reordered
    assert "Published scores" not in render_report(report(smoke_test=True))


def test_a_geneval_run_stands_above_the_published_rows():
    page = render_report(report(benchmark="geneval", scorer="GenEval-HF", prompts="553 captions"))
    part = page[page.index("Published scores") :]
    assert "judged by GenEval-HF over 553 captions" in part and "do not compare" not in part
    first = part[part.index("<tbody>") :].partition("</tr>")[0]
    assert "demo: Pre-trained" in first and "0.75" in first and "measured" in first
    assert "Shuffled" not in part.partition("</details>")[0]


def test_captions_are_escaped():
    evil = '<script>alert("x")</script>'
    row = SampleRow("colors", evil, {"teacher": JudgedImage(NOISE[0], True)})
    page = render_report(
        report(
            samples=(row,),
            topics=(Topic(evil, 1, evil),),
            recipe=evil,
            name=evil,
            stages=(replace(STAGES[0], stage=evil),),
        )
    )
    assert "<script" not in page
    assert "script" not in Page(page).tags
    assert "&lt;script&gt;alert(&#34;x&#34;)&lt;/script&gt;" in page


def test_the_same_data_gives_the_same_page():
    assert render_report(report()) == render_report(report())


def test_two_runs_differ_in_the_run_section_only():
    again = tuple(
        replace(stage, state="ran", seconds=7.0, device_seconds=1.0, created_at="2027-01-01T00:00:00+00:00")
        for stage in STAGES
    )
    one = render_report(report())
    two = render_report(
        report(stages=again, host={"machine": "arm64"}, software={"torch": "3"}, created_at="2027-01-01T00:00:00+00:00")
    )
    assert one != two
    assert strip_volatile(one) == strip_volatile(two)
    assert "Recipe</h2>" in strip_volatile(one)
    assert "Time and cost</h2>" not in strip_volatile(one)


def test_a_recipe_too_small_to_learn_warns_before_anything_else():
    page = render_report(report(smoke_test=True))
    assert page.index("The scores on this page mean nothing.") < page.index("<h1>")
    assert "mean nothing" not in render_report(report())


def test_without_a_scorer_the_page_says_so_and_shows_no_scores():
    page = render_report(report(scorer=None, scores={}))
    assert "No scorer applies" in page
    assert 'id="scores"' not in page
    assert "No scorer applies" not in render_report(report())


def test_without_a_scorer_the_banner_speaks_of_images():
    page = render_report(report(scorer=None, scores={}, smoke_test=True))
    assert "The images on this page mean nothing." in page


def test_clips_cosine_is_distinct_from_a_score():
    cosines = {"pretrain": Interval(0.2513, 0.2407, 0.2611, 64), "dpo": Interval(0.27, 0.26, 0.28, 64)}
    page = render_report(report(scorer=None, scores={}, clip_scores=cosines))
    assert "(no GenEval score): before DPO 0.251 (0.241\N{EN DASH}0.261), after DPO 0.270 (0.260" in page
    assert 'id="scores"' not in page
    assert "(no GenEval score)" not in render_report(report())


def test_images_of_any_size_are_shown_without_teacher_or_verdict():
    sizes = {"pretrain": (96, 64), "dpo": (1024, 512), "other": (17, 301)}
    samples = {name: JudgedImage(np.zeros((*size, 3), np.uint8)) for name, size in sizes.items()}
    row = SampleRow("captions", "a red bus", samples)
    page = render_report(report(scorer=None, scores={}, samples=(row,), dedup=None, pairs=()))
    shown = [(image["alt"], int(image["height"]), int(image["width"])) for image in Page(page).images]
    assert shown == [
        ("Pre-trained: a red bus", 96, 64),
        ("After DPO: a red bus", 1024, 512),
        ("other: a red bus", 17, 301),
    ]
    assert "Held-out captions, drawn by the student before and after DPO." in page
    assert "drawn by the teacher and by the student" in render_report(report())


def test_prompts_are_named_where_they_are_known():
    page = render_report(report(prompts="553 captions of a file"))
    assert "553 captions of a file, drawn by the teacher" in page
    assert "finds what the caption says, over 553 captions of a file." in page


def test_unlisted_topics_and_captions_without_a_pair_are_counted():
    page = render_report(report(other_topics=1976, captions_without_pair=12))
    assert "And 1,976 more topics" in page
    assert "12 captions gave no pair" in page
    assert "more topics" not in render_report(report())
    assert "gave no pair" not in render_report(report())


def test_rates_of_planted_copies_are_shown():
    said = "found: mirrored 99, grey 97. Taken for a copy of an image unlike their own: 2 of all."
    assert said in render_report(report())
    assert "planted" not in render_report(report(dedup=replace(report().dedup, planted=0)))


def test_images_in_quarantine_are_shown_by_reason():
    """A page without any does not mention them."""
    said, reason = "1,203 images could not be had", "not an image"
    shown = "a &lt;b&gt; <small>cut</small><br>(no text)"
    row = f'{reason}</th><td class="example">{shown}</td><td class="figure">1,200</td>'
    examples = (RejectedText("a <b>", "cut"), RejectedText("", ""))
    quarantine = (TextReason(reason, 1200, examples), TextReason("too many pixels", 3, ()))
    alone = ReportData("bare", "", (), STAGES[0].created_at, quarantine=quarantine)
    for page in (render_report(report(quarantine=quarantine)), render_report(alone)):
        assert said in page and row in page and '<a href="#data">' in page
    assert "quarantine" not in render_report(report())


def test_captions_of_no_use_are_shown_by_reason():
    reasons = (TextReason("refusal", 2, (RejectedText("I cannot", ""),)),)
    alone = ReportData("bare", "", (), STAGES[0].created_at, rejected_captions=reasons)
    for page in (render_report(report(rejected_captions=reasons)), render_report(alone)):
        assert "2 captions were left out" in page
        assert 'refusal</th><td class="example">I cannot</td><td class="figure">2</td>' in page
    assert "dropped.parquet" not in render_report(report())


def test_every_image_and_chart_has_a_description():
    page = render_report(report())
    images = Page(page).images
    assert len(images) == 12 * 3 + 4
    assert all(image["alt"] and image["width"] == "48" for image in images)
    assert any(image["alt"] == "Pre-trained: caption 1, judged right" for image in images)
    assert any(image["alt"] == "Pre-trained: caption 0, judged wrong" for image in images)
    assert page.count("<svg") == page.count('role="img"') == page.count("<title>") - 1


def test_a_hundred_noisy_thumbnails_stay_below_two_megabytes():
    assert len(render_report(report(rows=32))) < 2e6


def test_the_headline_separates_noise_from_a_change_beyond_it():
    assert headline(SCORES) == (
        "On captions that training never saw, the pre-trained student scores 0.75 (0.72\N{EN DASH}0.78), and after "
        "DPO it scores 0.77 (0.74\N{EN DASH}0.80); the same images judged by another caption score 0.04. "
        "The change of +0.02 lies within the interval."
    )
    assert headline(SCORES | {"dpo": table(0.85, 0.8, 0.9)}).endswith("The change of +0.10 lies outside the interval.")
    assert headline({"pretrain": SCORES["pretrain"]}).endswith(
        "the pre-trained student scores 0.75 (0.72\N{EN DASH}0.78)."
    )


def test_only_what_there_is_is_shown():
    bare = ReportData(name="bare", recipe="name: bare\n", stages=STAGES, created_at="2026-01-02T03:20:00+00:00")
    page = render_report(bare)
    assert re.findall(r'<section id="(\w+)"', page) == ["lineage", "run", "recipe"]
    assert Page(page).open == []


def test_small_images_are_lossless_and_large_ones_shrink():
    data = base64.b64decode(image_data_uri(NOISE[0]).removeprefix("data:image/png;base64,"))
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(data))), NOISE[0])
    large = base64.b64decode(image_data_uri(np.zeros((512, 1024, 3), np.uint8)).removeprefix("data:image/jpeg;base64,"))
    assert Image.open(io.BytesIO(large)).size == (256, 128)
    with pytest.raises(ValueError, match="expected uint8"):
        image_data_uri(np.zeros((4, 4, 3)))


def test_the_running_mean_keeps_a_constant_and_does_not_lag():
    assert np.allclose(running_mean(np.full(200, 3.0)), 3)
    ramp = np.arange(200.0)
    assert np.allclose(running_mean(ramp)[5:-5], ramp[5:-5])
    noise = np.random.default_rng(0).normal(size=4000)
    assert running_mean(noise).std() == pytest.approx(1 / np.sqrt(201), rel=0.3)


def test_a_curve_that_falls_far_has_a_logarithmic_axis():
    """Any other has a linear one, with a line at zero if it crosses zero."""
    steps = np.arange(1, 51)
    assert "logarithmic" in loss_curve(Curve("loss", steps, {"loss": 1 / steps}))
    assert "logarithmic" not in loss_curve(Curve("accuracy", steps, {"accuracy": 0.5 + steps / 100}))
    assert 'class="zero"' in loss_curve(Curve("change", steps, {"winner": -steps / 9, "loser": steps / 9}))


def test_a_curve_of_one_point_or_of_constant_values_is_drawn():
    for values in ([2.0], [0.0, 0.0], [5.0, 5.0, 5.0]):
        drawn = loss_curve(Curve("loss", np.arange(len(values)), {"loss": np.array(values)}))
        assert "nan" not in drawn
        assert "inf" not in drawn


@pytest.mark.parametrize(
    ("values", "message"),
    [([1.0, 2.0], "expected one value a step"), ([1.0, np.nan, 2.0], "loss is not finite at step 20"), ([], "a step")],
)
def test_a_curve_that_cannot_be_drawn_is_refused(values, message):
    with pytest.raises(ValueError, match=message):
        loss_curve(Curve("loss", np.array([10, 20, 30]), {"loss": np.array(values)}))


def test_bars_are_as_long_as_scores_and_whiskers_span_intervals():
    drawn = score_bars({"pretrain": {"overall": Interval(0.5, 0.25, 0.75, 10)}})
    left, right = 122, 426
    assert (
        f'<rect x="{left}" y="34" width="{(right - left) / 2:g}" height="9" rx="1.5" class="fill-pretrain"/>' in drawn
    )
    ends = re.search(r'<line x1="([\d.]+)" y1="[\d.]+" x2="([\d.]+)" y2="[\d.]+" class="whisker"/>', drawn).groups()
    assert [float(end) for end in ends] == [left + 0.25 * (right - left), left + 0.75 * (right - left)]


@pytest.mark.parametrize("students", [2, 3, 4, 5])
def test_a_legend_lies_beside_the_bars_however_many(students):
    """Names end within the drawing, above the first bar, and do not cover each other."""
    names = ["pretrain", "sft", "dpo", "few_step", "shuffled"][:students]
    drawn = score_bars({name: {"overall": Interval(0.5, 0.25, 0.75, 10)} for name in names})
    found = re.findall(r'<text x="([\d.]+)" y="([\d.]+)"[^>]*>([^<]+)</text>', drawn)
    spans = [(float(y), float(x), float(x) + 7 * len(name)) for x, y, name in found if name in STUDENTS.values()]
    width, first_bar = float(re.search(r'viewBox="0 0 ([\d.]+)', drawn)[1]), 18 + 16 * -(-students // 3)
    assert len(spans) == students and all(y < first_bar and end <= width for y, _, end in spans)
    ordered = sorted(spans)
    assert all(a[0] < b[0] or a[2] < b[1] for a, b in itertools.pairwise(ordered))


def test_time_bars_give_the_share_of_each_stage():
    assert "5 min 0 s · 100 %" in time_bars(STAGES)
    assert "1.5 s · 0.5 %" in time_bars(STAGES)


def test_ticks_are_round_and_inside():
    assert round_ticks(0, 1) == [0, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert str(round_ticks(0, 1)[0]) == "0.0"
    assert round_ticks(-0.003, 0.0085) == [0, 0.005]
    assert round_ticks(0, 4995) == [0, 1000, 2000, 3000, 4000]
    assert log_ticks(0.06, 1.1) == pytest.approx([0.1, 0.2, 0.5, 1])
    assert log_ticks(1e-5, 1) == pytest.approx([1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1])


def test_numbers_are_short_and_have_units():
    assert [number(value) for value in (12345, 1234.5, 6.0, 38.42, 0.03124, -0.5)] == [
        "12,345", "1,234", "6", "38.4", "0.0312", "-0.5",
    ]  # fmt: skip
    assert [format_bytes(count) for count in (0, 999, 183_000, 14_900_000, 2e9)] == [
        "0 Bytes",
        "999 Bytes",
        "183 kB",
        "14.9 MB",
        "2 GB",
    ]
    assert [format_duration(s) for s in (0.04, 9.96, 59.4, 185, 7_812)] == [
        "0.0 s",
        "10 s",
        "59 s",
        "3 min 5 s",
        "2 h 10 min",
    ]
    assert [percent(share) for share in (0, 0.004, 0.42, 1)] == ["0 %", "0.4 %", "42 %", "100 %"]
    assert when("2026-01-02T05:04:59.9+02:00") == "2026-01-02 03:04"


def test_credits_name_artist_licence_and_package():
    page = render_report(report(credits=credits_of(["zoo:emoji/train"])))
    for credit in credits_of(["zoo:emoji/train"]):
        assert all(part in page for part in (credit.artist, credit.licence, credit.package))
    assert "Credits" not in render_report(report())


def test_an_interval_with_a_minus_has_a_word_between_its_ends():
    ends = [interval(Interval(0.5, low, high, 10)) for low, high in ((0.41, 0.6), (-0.269, -0.067), (-0.217, 0.048))]
    assert ends == ["0.41\N{EN DASH}0.60", "-0.27 to -0.07", "-0.22 to 0.05"]
