"""The page of a stage in the Prefect UI, at work, failed and done, and the thread that shows it."""

import json
import logging
import re
import threading
import time
import xml.etree.ElementTree as ElementTree
from urllib.parse import unquote

import httpx
import numpy as np
import pytest
from prefect.client.schemas.actions import ArtifactCreate
from prefect.exceptions import TerminationSignal

from flows.distill import ALL_NAMES
from flows.errors import StageFailed, UserError
from flows.operations.retries import without_traceback
from flows.pages import live as live_module
from flows.pages.live import StagePage, page_key
from flows.pages.markdown import escape, scores_markdown, table
from flows.pages.progress_log import ProgressLog
from flows.pages.stage_page import failed_page, working_page
from lightgen_core.report.charts import loss_curve
from lightgen_core.report.data import Curve, JudgedImage, SampleRow
from lightgen_core.report.grid import image_grid
from lightgen_core.report.svg import image_uri
from storage.store import StoreError
from tasks.context.progress import Progress
from tests.support.waiting import PATIENCE, wait_until

NOISE = np.random.default_rng(0).integers(0, 256, (64, 48, 48, 3), dtype=np.uint8)


def heard(*progress: Progress, seconds_ago: float = 0.0) -> ProgressLog:
    """Progress that was told one second apart, the last just now."""
    given = ProgressLog(started=time.monotonic() - seconds_ago)
    for turn, each in enumerate(reversed(progress)):
        given.latest = given.latest or (time.monotonic(), each)
        given.first = time.monotonic() - turn, each
    given.steps = [(each.done, each.metrics) for each in progress if each.metrics]
    return given


def caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


@pytest.fixture
def shown(monkeypatch):
    """All that the UI shows, in order; the thread looks every 20 ms."""
    shown: list[str] = []

    class Recorder:
        def __init__(self, kind, **about):
            assert kind == "markdown"

        @property
        def shown(self):
            return bool(shown)

        def show(self, data):
            shown.append(data)

    monkeypatch.setattr(live_module, "UiArtifact", Recorder)
    monkeypatch.setattr(live_module, "POLL_SECONDS", 0.02)
    return shown


def test_a_stage_page_shows_count_rows_time_left_and_speed():
    given = heard(Progress(2, 12, "shards"), Progress(6, 12, "shards", 125.4, rows=6000), seconds_ago=90)
    page = working_page("synthesis", "/store/synthesis/key", given)
    assert "synthesis is at work" in page
    bar = "`" + 12 * "\N{FULL BLOCK}" + 12 * "\N{LIGHT SHADE}" + "`"
    told = f"{bar} **6 of 12 shards** (50 %) · 6,000 rows · 1 min 30 s so far · about 2 min 5 s left · 4 shards/s"
    assert told in page


def test_the_page_of_a_training_draws_only_its_finite_losses():
    steps = [Progress(step, 40, "steps", metrics={"loss": 1 / step}) for step in (10, 20)]
    page = working_page("pretrain", "", heard(*steps, Progress(30, 40, "steps", metrics={"loss": float("nan")})))
    (uri,) = re.findall(r"\(data:image/svg\+xml,(\S+)\)", page)
    (title,) = ElementTree.fromstring(unquote(uri)).iterfind(".//{*}title")
    assert title.text == "loss over 20 steps: loss from 0.075 to 0.075"
    assert "| loss | nan |" in page


def test_the_page_of_a_failed_stage_says_why_and_what_is_kept():
    page = failed_page("tokens", "/store/tokens/key", heard(Progress(3, 9, "shards")), OSError("no *space*\nleft"))
    assert "tokens stopped" in page
    assert "\n> OSError\\: no \\*space\\*  \n> left  \n" in page
    assert "**3 of 9 shards** (33 %)" in page
    assert "kept in `/store/tokens/key`" in page


def test_the_page_of_a_cancelled_training_keeps_its_curve():
    """It promises no time."""
    given = heard(*(Progress(step, 40, "steps", 900.0, metrics={"loss": 1 / step}) for step in (10, 20)))
    page = failed_page("pretrain", "", given, TerminationSignal(15))
    assert "It was told to stop" in page
    assert page.count("data:image/svg") == 1
    assert " left" in working_page("pretrain", "", given)
    assert " left" not in page


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (UserError("no field 'cuont'"), "no field 'cuont'"),
        (caused(StageFailed("stage tokens failed: gone"), StoreError("gone")), "stage tokens failed: gone"),
        (caused(StageFailed("stage tokens failed: broken"), RuntimeError("broken")), None),
        (RuntimeError("broken"), None),
    ],
)
def test_an_error_of_ours_is_logged_without_a_traceback(error, said):
    """Any other keeps its own."""
    record = logging.LogRecord("", logging.ERROR, "", 0, "exited unexpectedly", (), (type(error), error, None))
    assert without_traceback(record)
    assert (record.getMessage(), record.exc_info is None) == (said or "exited unexpectedly", said is not None)


def test_of_many_updates_the_newest_is_shown_without_a_wait(shown, monkeypatch):
    """The stage never waits for the server."""
    looks, told, show = threading.Event(), threading.Event(), live_module.UiArtifact.show

    def slow(self, data):
        looks.set()
        assert told.wait(PATIENCE)  # the server takes until the stage has told all
        show(self, data)

    monkeypatch.setattr(live_module.UiArtifact, "show", slow)
    with StagePage("pretrain", "", "key", "") as live:
        live.progress(Progress(0, 1999, "steps"))
        assert looks.wait(PATIENCE)
        for step in range(1, 2000):
            live.progress(Progress(step, 1999, "steps"))
        told.set()
        wait_until(lambda: any("1,999 of 1,999 steps" in page for page in shown))
    assert sum("1,999 of 1,999 steps" in page for page in shown) == 1
    assert len(shown) <= 3


def test_a_stage_without_updates_is_shown_once(shown, monkeypatch):
    """One that has worked for long is looked at less often."""
    with StagePage("pretrain", "", "key", "") as live:
        wait_until(lambda: len(shown) == 1)
        time.sleep(10 * live_module.POLL_SECONDS)
        assert len(shown) == 1
        live.progress(Progress(1, 2, "steps"))
        wait_until(lambda: len(shown) == 2)
        assert "(50 %)" in shown[-1]
    monkeypatch.setattr(live_module, "SLOW_AFTER_SECONDS", 0.0)
    shown.clear()
    with StagePage("pretrain", "", "key", "") as live:
        live.progress(Progress(1, 2, "steps"))
        time.sleep(10 * live_module.POLL_SECONDS)
        assert shown == []


def test_a_stage_that_ends_at_once_without_output_shows_nothing(shown):
    with StagePage("tokens", "", "key", ""):
        pass
    assert shown == []


def test_a_stage_that_waited_for_another_run_says_so(shown):
    with StagePage("tokens", "", "key", ""):
        wait_until(lambda: shown)
    assert "There was nothing to do" in shown[-1]


def test_the_error_of_a_stage_is_shown_and_raised(shown):
    with pytest.raises(MemoryError), StagePage("tokens", "", "key", ""):
        raise MemoryError("too much")
    assert "MemoryError\\: too much" in shown[-1]


def test_a_refusing_server_is_logged_once_and_the_stage_goes_on(shown, monkeypatch, caplog):
    refused = []

    def refuse(self, data):
        refused.append(data)
        raise httpx.ConnectError("nobody answers")

    monkeypatch.setattr(live_module.UiArtifact, "show", refuse)
    with caplog.at_level(logging.WARNING), StagePage("tokens", "", "key", ""):
        wait_until(lambda: len(refused) >= 3)
    assert [record.getMessage() for record in caplog.records] == [
        "tokens: Prefect's server does not take its page (nobody answers); the stage goes on"
    ]


def test_an_undrawable_page_is_logged_and_the_stage_goes_on(shown, caplog):
    with StagePage("tokens", "", "key", "") as live:
        live.result = "not a stage"
    assert "its page in the Prefect UI could not be drawn" in caplog.text


def test_page_keys_have_only_what_prefect_allows():
    assert page_key("My_Recipe.v2", "dedup") == "my-recipe-v2-dedup"
    for stage in (*ALL_NAMES, "dpo-sft-2", "ablation", "run"):
        ArtifactCreate(key=page_key("demo", stage), type="markdown")  # raises for what is not allowed


def test_a_chart_is_a_whole_image_that_is_safe_in_markdown():
    """It has a size and a style of its own."""
    uri = image_uri(loss_curve(Curve("loss (mean)", np.arange(1, 4), {"loss": np.array([3.0, 2, 1])})))
    assert not set(uri) & set('()<>" \n')
    root = ElementTree.fromstring(unquote(uri.removeprefix("data:image/svg+xml,")))
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert (root.get("width"), root.get("height")) == ("468", "282")
    assert "--pretrain: #3d6fa5" in root.find("{*}style").text


def test_a_grid_holds_as_many_captions_as_its_bytes_allow():
    rows = [SampleRow("", f"caption <{row}>", {"": JudgedImage(NOISE[row])}) for row in range(64)]
    one = len(re.search(r'href="([^"]+)"', image_grid(rows[:1], 10**9))[1])
    drawn = image_grid(rows, 10 * one + one // 2)
    assert drawn.count("<image ") == 10
    assert "caption &lt;9&gt;" in drawn
    assert image_grid(rows, one - 1) is None
    assert image_grid([], 10**9) is None


def test_a_grid_names_who_drew_and_marks_the_verdict():
    row = SampleRow("", "two circles", {"before": JudgedImage(NOISE[0], True), "after": JudgedImage(NOISE[1], False)})
    said = [text.text for text in ElementTree.fromstring(image_grid([row], 10**9)).iterfind(".//text")]
    assert said == ["✓", "before", "✗", "after", "two circles"]


def test_scores_become_a_table_and_their_absence_a_sentence():
    """The table shows intervals."""
    dash = "\N{EN DASH}"
    score = {"value": 0.821, "low": 0.797, "high": 0.844, "n": 960}
    told, bars = scores_markdown({"pretrain": {"overall": score}, "dpo": {"overall": score}})
    assert bars.startswith("![scores](data:image/svg+xml,")
    assert told.splitlines() == [
        "| score (95 % interval) | Pre-trained | After DPO |",
        "| --- | ---: | ---: |",
        f"| overall | 0.82 (0.80{dash}0.84) | 0.82 (0.80{dash}0.84) |",
    ]
    assert scores_markdown(json.loads('{"pretrain": null, "dpo": null}')) == [
        "No scorer applies: nothing here can judge images of these captions."
    ]


def test_every_sign_that_markdown_could_interpret_is_escaped():
    said = escape('a <img> | ![dog](http://x) `cat` *of_two*\nhats, it\'s "3-D" \\ 1.')
    assert re.sub(r"\\([!-/:-@[-`{-~])", "", said).replace(" ", "").isalnum()
    assert re.sub(r"\\(.)", r"\1", said) == 'a <img> | ![dog](http://x) `cat` *of_two* hats, it\'s "3-D" \\ 1.'
    assert table(["topic"], [[escape("a|b")]]).splitlines()[-1] == "| a\\|b |"
