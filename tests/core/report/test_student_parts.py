"""The report's parts on the student: samples as they come, failures, previews, and how to use it."""

import re
from html import unescape

import numpy as np

from lightgen_core.intervals import Interval
from lightgen_core.report.page import render_report
from lightgen_core.report.parts import (
    Failures,
    PreviewRow,
    Previews,
    PromptScore,
    SampleGrid,
    SeededImage,
    Unmeasured,
    Usage,
)
from lightgen_core.scene.confusion import ConfusionMatrix
from tests.core.report.test_page import NOISE, Page, report

SAMPLES = tuple(SeededImage(NOISE[n], f"caption {n}", 70 + n, n > 0, "4 red stars") for n in range(3))
GRID = SampleGrid("dpo", 20, 60, SAMPLES)
MATRIX = ConfusionMatrix("count", "Asked and found.", ("three",), ("three", "four"), ((7, 3),))
FAILURES = Failures("dpo", 60, 5, (PromptScore("counting", 0.25, SAMPLES[:2]),), (MATRIX,))


def test_samples_with_their_rule_and_seeds_come_before_all_else():
    page = render_report(report(grid=GRID))
    part = page[page.index('<section id="grid">') : page.index('<section id="scores">')]
    assert "Every 20th of the 60 samples of the student after DPO" in part
    assert [part.count(f"<small>{seed}</small>") for seed in (70, 71, 72)] == [1, 1, 1]
    assert "caption 0, seed 70, judged wrong" in part


def test_the_worst_captions_are_shown_with_what_was_found():
    page = render_report(report(failures=FAILURES))
    part = page[page.index('<section id="failures">') :]
    assert "drew 5 of 60 captions wrong at least once" in part
    assert "counting, 25 % right" in part
    assert "4 red stars" in part and "seed 70" in part


def test_a_confusion_marks_where_asked_and_drawn_agree():
    page = render_report(report(failures=FAILURES))
    cells = re.findall(r'<td class="figure( same)?" style="--share:([\d.]+)">(\d+)</td>', page)
    assert cells == [(" same", "0.70", "7"), ("", "0.30", "3")]


def test_a_student_without_failures_is_said_to_have_none():
    page = render_report(report(failures=Failures("dpo", 60, 0, ())))
    assert "finds every image of the student after DPO right, for all 60 captions" in page


def test_previews_have_a_row_a_caption_and_a_column_a_step():
    rows = (PreviewRow("a star", 9, (NOISE[0], NOISE[1])),)
    page = render_report(report(previews=Previews((1300, 2600), rows)))
    assert '<th scope="col">1,300</th><th scope="col">2,600</th>' in page
    assert 'alt="a star, after 1,300 steps"' in page


def test_what_is_not_measured_is_named_with_its_command():
    page = render_report(report(unmeasured=(Unmeasured("score", "lightgen ablate demo"), Unmeasured("loss"))))
    assert "<li>score: <code>lightgen ablate demo</code></li>" in page
    assert "<li>loss</li>" in page


def test_commands_quote_a_prompt_for_the_shell_and_for_python():
    page = unescape(render_report(report(usage=Usage("1a2b3c4d", 'a "$HOME" cat\'s hat', 48, 64))))
    assert """lightgen sample report/1a2b3c4d 'a "$HOME" cat'"'"'s hat' --num-images 4""" in page
    assert """student('a "$HOME" cat\\'s hat', seed=0)""" in page
    assert "64 x 48 px" in page
    assert '<a href="model/">' in page


def test_a_click_enlarges_every_image_without_a_script():
    page = render_report(report(grid=GRID, failures=FAILURES))
    images = Page(page).images
    assert page.count('<details class="zoom"') == len(images)
    assert "script" not in Page(page).tags
    assert not any("loading" in image for image in images)


def test_only_the_students_folder_is_referred_to():
    parsed = Page(render_report(report(grid=GRID, failures=FAILURES, usage=Usage("1a2b3c4d", "a star", 48, 48))))
    outside = {each.split(",")[0] for each in parsed.references if not each.startswith("#")}
    assert outside == {"data:image/png;base64", "model/"}
    assert parsed.open == []


def test_an_enlarged_image_keeps_its_place_on_the_page():
    page = render_report(report(grid=SampleGrid("dpo", 1, 1, (SeededImage(np.zeros((32, 64, 3), np.uint8), "a", 0),))))
    assert 'style="aspect-ratio:64/32"' in page


def test_three_decimals_beside_a_minus_have_a_word_between():
    page = render_report(report(clip_scores={"dpo": Interval(-0.085, -0.217, 0.048, 9)}))
    assert "after DPO -0.085 (-0.217 to 0.048)." in page


def test_machine_software_recipe_and_peers_are_folded():
    page = render_report(report())
    assert page.count('<details class="facts">') == 4
    assert "<details open" not in page
