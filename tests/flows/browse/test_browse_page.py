"""The data page in a real browser: strange captions stay text, search and keys work, images and points open."""

import threading
from collections.abc import Iterator

import httpx
import numpy as np
import pytest
import uvicorn

from benchmarks.browse import write_store
from flows.browse.app import create_app
from flows.browse.library import Library
from tests.support.browser import browser_page, needs_browser
from tests.support.waiting import wait_until

SCRIPT = "<script>window.owned = 1</script><img src=x onerror='window.owned = 1'>"
CAPTIONS = [SCRIPT, "a cat 🐈 in the rain", "wide" * 5000, *(f"plain caption {number}" for number in range(147))]

pytestmark = [pytest.mark.browser, needs_browser]


@pytest.fixture(scope="module")
def address(tmp_path_factory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("browse") / "store"
    library = Library(write_store(folder, CAPTIONS, side=24, dimensions=8, without=["evaluation"]))
    config = uvicorn.Config(create_app(library, hosts=("127.0.0.1",)), host="127.0.0.1", port=0, log_level="warning")
    socket, server = config.bind_socket(), uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [socket]})
    thread.start()
    try:
        wait_until(lambda: server.started)
        yield f"http://127.0.0.1:{socket.getsockname()[1]}/"
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def asked() -> list[str]:
    """Hosts that the page asked for anything."""
    return []


@pytest.fixture(scope="module")
def page(asked, tmp_path_factory):
    with browser_page(tmp_path_factory.mktemp("profile"), asked) as page:
        yield page


def shown(page, state: str) -> list[str]:
    """Wait until the cards of an address are shown that holds `state`; return their captions."""
    page.wait_for_selector(f"#cards[data-ready*='{state}']", state="attached")
    return page.locator("#cards .caption").all_inner_texts()


def test_captions_of_strangers_stay_text(page, address, asked):
    for view in ("images", "captions", "dropped-captions", "pairs"):
        page.goto(f"{address}?view={view}")
        assert shown(page, f"view={view}")[0] == SCRIPT
    page.locator("#cards .card").first.click()
    page.wait_for_selector("#fields dd")
    assert SCRIPT in page.locator("#fields dd").all_inner_texts()
    assert page.evaluate("window.owned") is None
    assert set(asked) <= {"127.0.0.1", ""}


def test_typing_searches_and_the_address_remembers_it(page, address):
    page.goto(f"{address}?view=images")
    assert len(shown(page, "view=images")) == 60
    page.keyboard.press("/")
    page.keyboard.type("RAIN 🐈")
    assert shown(page, "search=RAIN") == [CAPTIONS[1]]
    assert "1 of 150 rows" in page.locator("#note").inner_text()
    page.reload()
    assert shown(page, "search=RAIN") == [CAPTIONS[1]]
    page.click("#clear")
    page.wait_for_selector("#cards:not([data-ready*=search]) .card:nth-child(60)")


def test_filters_and_order_are_chosen_from_lists(page, address):
    page.goto(f"{address}?view=images")
    shown(page, "view=images")
    page.get_by_label("verdict", exact=True).select_option("verdict:near duplicate")
    assert shown(page, "verdict")[0] == CAPTIONS[9]
    page.select_option("#sort", "id")
    shown(page, "sort=id")
    page.click("#order")
    assert shown(page, "descending")[0] == CAPTIONS[149]


def test_an_image_opens_and_arrows_lead_across_pages(page, address):
    page.goto(f"{address}?view=images")
    shown(page, "view=images")
    page.locator("#cards .card").nth(59).click()
    page.wait_for_selector("dialog[open] #large img.small")
    assert page.locator("#where").inner_text() == "60 of 150"
    page.keyboard.press("ArrowRight")
    page.get_by_text("61 of 150", exact=True).wait_for()
    assert CAPTIONS[60] in page.locator("#fields dd").all_inner_texts()
    page.keyboard.press("Escape")
    page.wait_for_selector("dialog", state="hidden")
    assert "page=1" in page.url
    page.keyboard.press("ArrowRight")
    assert len(shown(page, "page=2")) == 30


def test_duplicates_and_pairs_stand_side_by_side(page, address):
    for view, titles in (("duplicates", ["dropped", "kept"]), ("pairs", ["winner", "loser"])):
        page.goto(f"{address}?view={view}")
        shown(page, f"view={view}")
        card = page.locator("#cards .card").nth(1)
        card.locator("img.small").nth(1).wait_for()
        assert card.locator("figcaption").all_inner_texts() == titles
        left, right = (card.locator("img").nth(number).bounding_box() for number in (0, 1))
        assert left["y"] == right["y"] and left["x"] + left["width"] <= right["x"]


def place_of(address: str, row: int, width: float, height: float) -> dict[str, float]:
    """Return where a map of this size shows a row: the points of all rows fill it but for a margin."""
    with httpx.Client(base_url=address, trust_env=False) as client:
        run = client.get("/api/runs").json()["runs"][0]["id"]
        data = client.get("/api/map/points", params={"run": run}).content
    points = np.frombuffer(data, "<f4", 2 * len(CAPTIONS), offset=4 * len(CAPTIONS)).reshape(2, -1)
    low, high = points.min(axis=1), points.max(axis=1)
    x, y = (points[:, row] - (low + high) / 2) * 0.94 * (np.array([width, height]) / (high - low)).min()
    return {"x": width / 2 + x, "y": height / 2 - y}


def test_a_point_of_the_map_opens_its_image(page, address):
    page.goto(f"{address}?view=map&search=rain")
    shown(page, "view=map")
    assert page.locator("#note").inner_text().startswith("1 point matches")
    canvas = page.locator("#canvas")
    size = canvas.evaluate("canvas => [canvas.clientWidth, canvas.clientHeight]")
    canvas.click(position=place_of(address, 1, *size))
    page.wait_for_selector("dialog[open] #large img.small")
    assert CAPTIONS[1] in page.locator("#fields dd").all_inner_texts()
    page.keyboard.press("Escape")
    page.wait_for_selector("dialog", state="hidden")
    canvas.press("Enter")
    page.wait_for_selector("dialog[open] #large img.small")


def test_a_stage_that_is_not_there_yet_is_said(page, address):
    page.goto(address)
    assert shown(page, "view=images")[0] == SCRIPT  # the view of whoever names none
    page.get_by_role("button", name="Samples").click()
    page.get_by_text("Not there yet: evaluation is missing").wait_for()
    assert page.locator("#cards .card").count() == 0


def test_a_phone_shows_all_without_scrolling_sideways(page, address):
    page.set_viewport_size({"width": 380, "height": 800})
    for view in ("images", "duplicates", "captions", "map"):
        page.goto(f"{address}?view={view}")
        page.wait_for_selector(f"#cards[data-ready*='view={view}']", state="attached")
        assert page.evaluate("document.documentElement.scrollWidth") <= 380
    page.set_viewport_size({"width": 1400, "height": 1000})
