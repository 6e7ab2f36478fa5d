"""The Prefect UI in a real browser: two runs of the smoke recipe, the second one cached."""

from collections.abc import Iterator
from typing import Any

import pytest

from flows.distill import NAMES
from flows.pages.markdown import escape, quote, table
from tests.support.browser import browser_page, needs_browser
from tests.support.ports import free_port
from tests.support.prefect_api import PrefectApi
from tests.support.prefect_server import PrefectServer, answers, prefect_server
from tests.support.processes import Process, stop
from tests.support.waiting import PATIENCE

SMALL = ("captions.count=120", "synthesis.count=160", "synthesis.shard_size=80", "pairs.count=8")
ARGUMENTS = ("run", "smoke", *(word for count in SMALL for word in ("--set", count)))
# The command line, with a training that waits at its thirtieth step until it was looked at.
HELD = """
import sys
from pathlib import Path
from flows.cli import main
from flows.pages.progress_log import ProgressLog
from tests.support.waiting import wait_until

hear = ProgressLog.__call__

def hold(self, progress):
    hear(self, progress)
    if (progress.unit, progress.done) == ("steps", 30):
        wait_until(Path(sys.argv[0]).exists)

ProgressLog.__call__ = hold
del sys.argv[0]
main()
"""
pytestmark = [
    pytest.mark.slow(rank=7),
    pytest.mark.browser,
    needs_browser,
]


@pytest.fixture(scope="module")
def store_port() -> int:
    """Port at which the store is served, by whatever a test starts there."""
    return free_port()


@pytest.fixture(scope="module")
def server(tmp_path_factory, store_port) -> Iterator[PrefectServer]:
    home = tmp_path_factory.mktemp("ui")
    settings = {"LIGHTGEN_STORE": str(home / "store"), "LIGHTGEN_STORE_URL": f"http://127.0.0.1:{store_port}"}
    with prefect_server(home, **settings, LIGHTGEN_THREADS="1") as server:
        yield server


def pages(api: PrefectApi, run: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Artifacts of a flow run by key."""
    return {each["key"]: each for each in api.artifacts(run)}


@pytest.fixture(scope="module")
def asked() -> list[str]:
    """Hosts that the pages asked for anything."""
    return []


@pytest.fixture(scope="module")
def browser(asked, tmp_path_factory):
    """A page of a fresh browser."""
    with browser_page(tmp_path_factory.mktemp("profile"), asked) as page:
        yield page


def see(page, *texts: str) -> None:
    """Wait until every text is on the page."""
    for text in texts:
        page.get_by_text(text).first.wait_for()


def images(page) -> list[int]:
    """Widths of the images that Markdown holds in itself, each of them loaded; waits for the first."""
    page.wait_for_selector('img[src^="data:image/svg+xml"]')
    page.wait_for_function("[...document.images].every(image => image.complete)")
    return page.eval_on_selector_all('img[src^="data:image/svg+xml"]', "images => images.map(i => i.naturalWidth)")


@pytest.fixture(scope="module")
def first(server, browser, tmp_path_factory) -> dict[str, Any]:
    """The first run, after a look at the page of its training while that is at work."""
    folder = tmp_path_factory.mktemp("first")
    log, go_on = folder / "run.log", folder / "go on"
    process = server.start("-c", HELD, str(go_on), *ARGUMENTS, log=log)
    try:
        Process("the run", log, process).wait_until(lambda: "30 of 40 steps" in training(server.api).get("data", ""))
        browser.goto(f"{server.url}/artifacts/artifact/{training(server.api)['id']}")
        see(browser, "pretrain is at work", "30 of 40 steps", " left", " steps/s", "newest")
        assert images(browser) == [468]
        go_on.touch()
        assert process.wait(PATIENCE) == 0, log.read_text()
    finally:
        stop(process)
    (run,) = server.api.flow_runs()
    server.api.wait_for_states(run, **dict.fromkeys(NAMES, "Completed"))
    return run


def training(api: PrefectApi) -> dict[str, Any]:
    """The page of the training of the only run so far, if it has one yet."""
    return next((pages(api, run).get("smoke-pretrain", {}) for run in api.flow_runs()), {})


def test_a_run_shows_ten_named_stages_and_lines_in_its_log(first, server, browser):
    browser.goto(f"{server.url}/runs/flow-run/{first['id']}")
    see(
        browser,
        first["name"],
        "10 Task runs",
        "smoke: captions, synthesis, embeddings",
        "captions: started (never made)",
    )
    browser.get_by_text("Task Runs", exact=True).click()
    see(browser, *(run["name"] for run in server.api.task_runs(first).values()))


def test_each_stage_has_one_page_which_changes_without_events(first, server):
    there = pages(server.api, first)
    assert sorted(there) == sorted(f"smoke-{name}" for name in (*NAMES, "run"))
    assert len(server.api.artifacts(first)) == len(NAMES) + 1
    assert max(len(page["data"]) for page in there.values()) < 90_000
    assert server.api.events("prefect.artifact.updated") == []


@pytest.mark.parametrize("stage", ["synthesis", "dedup", "pretrain", "pairs", "dpo", "evaluation"])
def test_the_page_of_a_stage_shows_counts_and_images(stage, first, server, browser):
    page = pages(server.api, first)[f"smoke-{stage}"]
    browser.goto(f"{server.url}/artifacts/artifact/{page['id']}")
    see(browser, f"{stage} is done", "device time")
    assert min(images(browser)) > 200


def test_the_page_of_the_run_shows_scores_costs_and_the_report(first, server, browser):
    page = pages(server.api, first)["smoke-run"]
    browser.goto(f"{server.url}/artifacts/artifact/{page['id']}")
    see(browser, "smoke: 10 stages made, 0 cached", "After DPO", "color attribution", "samples as they come", "in all")
    assert len(images(browser)) == 2 and images(browser)[0] == 468
    assert "**The same captions, drawn by each**" in page["data"]
    with browser.expect_popup() as opened:
        browser.get_by_role("link", name="synthesis").click()
    see(opened.value, "synthesis is done")


@pytest.mark.parametrize("command", [["flows", "browse", "--port"], ["http.server", "--bind", "127.0.0.1"]])
def test_links_open_the_report_and_the_samples(command, first, server, browser, store_port, tmp_path):
    """The store is a folder; whatever serves it, its links are the same."""
    folder = ["--directory", server.environment["LIGHTGEN_STORE"]] if command[0] == "http.server" else []
    log, address = tmp_path / "store.log", f"http://127.0.0.1:{store_port}"
    process = server.start("-m", command[0], *folder, *command[1:], str(store_port), log=log)
    try:
        Process(command[0], log, process).wait_until(lambda: answers(address))
        there = pages(server.api, first)
        for page, link in (("run", "Report"), ("run", "samples as they come"), ("report", "Report")):
            browser.goto(f"{server.url}/artifacts/artifact/{there[f'smoke-{page}']['id']}")
            with browser.expect_popup() as opened:
                browser.get_by_role("link", name=link, exact=True).click()
            report = opened.value
            report.get_by_role("heading", name="Uncurated samples").wait_for()
            width = report.locator("#grid img").first.evaluate("image => image.decode().then(() => image.naturalWidth)")
            assert (width, report.title()) == (48, "LightGen report: smoke")
            assert report.url.startswith(f"{address}/report/")
            report.close()
    finally:
        stop(process)


def test_a_second_run_is_cached_stage_by_stage_and_says_so(first, server, browser):
    done = server.run("-m", "flows", *ARGUMENTS)
    assert done.returncode == 0, done.stderr
    (run,) = [run for run in server.api.flow_runs() if run["id"] != first["id"]]
    server.api.wait_for_states(run, **dict.fromkeys(NAMES, "Cached"))
    browser.goto(f"{server.url}/runs/flow-run/{run['id']}")
    see(browser, "smoke: 0 stages made, 10 cached", "captions was done already: 120 rows in 2 files")
    browser.get_by_text("Task Runs", exact=True).click()
    browser.get_by_text("Cached", exact=True).nth(len(NAMES) - 1).wait_for()
    browser.goto(f"{server.url}/artifacts/artifact/{pages(server.api, run)['smoke-run']['id']}")
    see(browser, "smoke: 0 stages made, 10 cached")
    with browser.expect_popup() as opened:
        browser.get_by_role("link", name="pretrain").click()
    see(opened.value, "pretrain is done", first["name"])  # the page of the run that made it


def test_text_of_others_is_shown_sign_by_sign_and_never_read(server, browser):
    said = 'a <img src="http://x.example/y.png"> | ![dog](http://x.example) `cat` *of_two* & &#60; \\ www.x.example: 1.'
    page = "\n\n".join([escape(said), quote(said), table(["first"], [[escape(said)]])])
    made = server.api.post("artifacts/", type="markdown", key="words", data=page)
    browser.goto(f"{server.url}/artifacts/artifact/{made['id']}")
    see(browser, "first")
    assert browser.get_by_text(said, exact=True).count() == 3
    assert browser.locator('img[src*="x.example"], a[href*="x.example"]').count() == 0


def test_the_first_page_is_the_dashboard_and_needs_no_outside(first, server, browser, asked):
    """The browser contacts this machine only."""
    browser.goto(server.url)
    see(browser, "Flow Runs", "Dashboard")
    browser.goto(f"{server.url}/artifacts")
    see(browser, "smoke-run")
    assert set(asked) <= {"127.0.0.1", ""}
    assert len(asked) > 100
