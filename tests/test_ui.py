"""What a person sees in the Prefect UI, read in a real browser: two runs of the smoke recipe, the second one cached."""

import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

import httpx
import pytest
from prefect_server import PrefectServer, prefect_server, stop

from flows.distill import NAMES

CHROMIUM = shutil.which("chromium")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
# Small, but with a training of some seconds to look at.
COUNTS = (
    "captions.count=120",
    "synthesis.count=160",
    "synthesis.shard_size=80",
    "pretrain.steps=600",
    "pairs.count=8",
)
WAIT_MS = 60_000

pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no `chromium` on PATH: the Prefect UI is not looked at (Debian: apt install chromium)"
)


@dataclass
class Api:
    """The server's API, for the ids that the pages' addresses are made of."""

    server: PrefectServer

    def __call__(self, of: str, **filters: object) -> list[dict]:
        with self.server.client() as client:
            return client.post(f"{of}/filter", json=filters).raise_for_status().json()

    def runs(self) -> list[dict]:
        return self("flow_runs", sort="START_TIME_ASC")

    def pages(self, run: str) -> dict[str, dict]:
        """Artifacts of a flow run by key."""
        return {each["key"]: each for each in self("artifacts", flow_runs={"id": {"any_": [run]}})}


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[PrefectServer]:
    home = tmp_path_factory.mktemp("ui")
    with prefect_server(home, LIGHTGEN_STORE=str(home / "store"), LIGHTGEN_THREADS="1") as server:
        yield server


@pytest.fixture(scope="module")
def asked() -> list[str]:
    """Hosts that the pages asked for anything."""
    return []


@pytest.fixture(scope="module")
def browser(asked, tmp_path_factory):
    """A page of a fresh browser."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        profile = tmp_path_factory.mktemp("profile")
        context = playwright.chromium.launch_persistent_context(
            profile, executable_path=CHROMIUM, args=FLAGS, viewport={"width": 1400, "height": 1000}
        )
        context.set_default_timeout(WAIT_MS)
        context.on("request", lambda request: asked.append(urlsplit(request.url).hostname or ""))
        yield context.new_page()
        context.close()


def command() -> list[str]:
    return ["-m", "flows", "run", "smoke", *(word for count in COUNTS for word in ("--set", count))]


def see(page, *texts: str) -> None:
    """Wait until every text is on the page."""
    for text in texts:
        page.get_by_text(text).first.wait_for()


def pictures(page) -> list[int]:
    """Widths of the pictures that Markdown holds in itself, each of them loaded; waits for the first."""
    page.wait_for_selector('img[src^="data:image/svg+xml"]')
    page.wait_for_function("[...document.images].every(image => image.complete)")
    return page.eval_on_selector_all('img[src^="data:image/svg+xml"]', "images => images.map(i => i.naturalWidth)")


@pytest.fixture(scope="module")
def first(server, browser, tmp_path_factory) -> dict:
    """The first run, after a look at the page of its training while that is at work."""
    log = tmp_path_factory.mktemp("log") / "run.log"
    process, api = server.start(*command(), log=log), Api(server)
    try:
        while not (live := _at_work(api)):
            assert process.poll() is None, f"the run ended before its training was seen at work:\n{log.read_text()}"
            time.sleep(0.2)
        browser.goto(f"{server.ui}/artifacts/artifact/{live['id']}")
        see(browser, "pretrain is at work", "of 600 steps", " left", " steps/s", "newest")
        assert pictures(browser) == [468]
        assert process.wait(300) == 0, log.read_text()
    finally:
        stop(process)
    (run,) = api.runs()
    return run


def _at_work(api: Api) -> dict | None:
    """The page of the training, once it shows a curve."""
    runs = api.runs()
    page = api.pages(runs[0]["id"]).get("smoke-pretrain") if runs else None
    return page if page and "data:image" in page["data"] else None


def test_a_run_shows_ten_named_stages_and_words_in_its_log(first, server, browser):
    browser.goto(f"{server.ui}/runs/flow-run/{first['id']}")
    see(
        browser,
        first["name"],
        "10 Task runs",
        "smoke: captions, synthesis, embeddings",
        "captions: started (never made)",
    )
    browser.get_by_text("Task Runs", exact=True).click()
    names = {run["name"] for run in Api(server)("task_runs", flow_runs={"id": {"any_": [first["id"]]}})}
    assert {name.split()[0] for name in names} == set(NAMES)
    see(browser, *names)


def test_each_stage_has_one_page_and_one_progress_bar_changed_in_place_and_without_events(first, server):
    api = Api(server)
    pages = api.pages(first["id"])
    assert len(api("artifacts", flow_runs={"id": {"any_": [first["id"]]}})) == len(pages) == 2 * len(NAMES) + 1
    assert [pages[f"smoke-{name}-progress"]["data"] for name in NAMES] == [100] * len(NAMES)
    assert max(len(page["data"]) for page in pages.values() if page["type"] == "markdown") < 90_000
    events = httpx.post(
        f"{server.api}/events/filter",
        json={"limit": 50, "filter": {"event": {"name": ["prefect.artifact.updated"]}}},
        trust_env=False,
    )
    assert events.raise_for_status().json()["events"] == []


@pytest.mark.parametrize("stage", ["synthesis", "dedup", "pretrain", "pairs", "dpo", "evaluation"])
def test_the_page_of_a_stage_shows_counts_and_pictures(stage, first, server, browser):
    page = Api(server).pages(first["id"])[f"smoke-{stage}"]
    browser.goto(f"{server.ui}/artifacts/artifact/{page['id']}")
    see(browser, f"{stage} is done", "device time")
    assert min(pictures(browser)) > 200


def test_the_progress_of_a_stage_is_full_at_its_end(first, server, browser):
    page = Api(server).pages(first["id"])["smoke-tokens-progress"]
    browser.goto(f"{server.ui}/artifacts/artifact/{page['id']}")
    see(browser, "Progress: 100%")


def test_the_page_of_the_run_shows_scores_costs_and_the_report(first, server, browser):
    page = Api(server).pages(first["id"])["smoke-run"]
    browser.goto(f"{server.ui}/artifacts/artifact/{page['id']}")
    see(browser, "smoke: 10 stages made, 0 cached", "After DPO", "color attribution", "/report.html", "in all")
    assert pictures(browser) == [468]
    with browser.expect_popup() as opened:
        browser.get_by_role("link", name="synthesis").click()
    see(opened.value, "synthesis is done")


def test_a_second_run_is_cached_stage_by_stage_and_says_so(first, server, browser):
    done = server.run(*command())
    assert done.returncode == 0, done.stderr
    run = Api(server).runs()[-1]
    states = Api(server)("task_runs", flow_runs={"id": {"any_": [run["id"]]}})
    assert [state["state_name"] for state in states] == ["Cached"] * len(NAMES)
    browser.goto(f"{server.ui}/runs/flow-run/{run['id']}")
    see(browser, "smoke: 0 stages made, 10 cached", "captions was done already: 120 rows in 2 files")
    browser.get_by_text("Task Runs", exact=True).click()
    browser.get_by_text("Cached", exact=True).nth(len(NAMES) - 1).wait_for()
    browser.goto(f"{server.ui}/artifacts/artifact/{Api(server).pages(run['id'])['smoke-run']['id']}")
    see(browser, "smoke: 0 stages made, 10 cached")
    with browser.expect_popup() as opened:
        browser.get_by_role("link", name="pretrain").click()
    see(opened.value, "pretrain is done", first["name"])  # the page of the run that made it


def test_the_first_page_is_the_dashboard_and_nothing_outside_this_machine_was_asked(first, server, browser, asked):
    browser.goto(server.ui)
    see(browser, "Flow Runs", "Dashboard")
    browser.goto(f"{server.ui}/artifacts")
    see(browser, "smoke-run")
    assert set(asked) <= {"127.0.0.1", ""}
    assert len(asked) > 100
