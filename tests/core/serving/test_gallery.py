"""The gallery: a brush in a real browser, the pixels that it leaves, and what the server refuses."""

import base64
import io
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import numpy as np
import pytest
import torch
import uvicorn
from PIL import Image

from lightgen_core.images.codec import encode_png
from lightgen_core.sampling.inpaint import inpaint
from lightgen_core.sampling.text_to_image import TextToImage
from lightgen_core.serving.app import batch_sampler, create_app
from lightgen_core.serving.batcher import Batcher
from lightgen_core.serving.gallery import add_gallery
from tests.factories.tiny_checkpoint import save_tiny_checkpoint
from tests.support.browser import browser_page, needs_browser
from tests.support.waiting import wait_until

SIDE, TOKENS = 16, 3

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> TextToImage:
    return TextToImage.load(save_tiny_checkpoint(tmp_path_factory.mktemp("student")), torch.device("cpu"))


@contextmanager
def serving(model: TextToImage, key: str = "") -> Iterator[str]:
    """Serve the gallery on a free port of loopback; yield its address."""
    batcher = Batcher(batch_sampler(model))
    app = create_app(model, batcher, "tiny", key, () if key else ("127.0.0.1",))
    add_gallery(app, model, batcher, "tiny", key=bool(key))
    config = uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning")
    socket, server = config.bind_socket(), uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [socket]})
    thread.start()
    try:
        wait_until(lambda: server.started)
        yield f"http://127.0.0.1:{socket.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def address(model) -> Iterator[str]:
    with serving(model) as address:
        yield address


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def in_base64(image: np.ndarray) -> str:
    return base64.b64encode(encode_png(image)).decode()


def decoded(data: str) -> np.ndarray:
    """Pixels of a PNG in base64, or of a data URL."""
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data.rpartition(",")[2]))).convert("RGB"))


def mask_of(image: np.ndarray, *tokens: tuple[int, int]) -> np.ndarray:
    mask = np.zeros_like(image)
    for row, column in tokens:
        mask[row * SIDE : (row + 1) * SIDE, column * SIDE : (column + 1) * SIDE] = 255
    return mask


def test_inpainting_over_http_is_that_of_the_command(address, model):
    image = noise(48, 64)
    mask = mask_of(image, (0, 1), (2, 3))
    asked = {"prompt": "a star", "seed": 3, "n": 2, "steps": 2, "image": in_base64(image), "mask": in_base64(mask)}
    answer = httpx.post(f"{address}/v1/inpaint", json=asked, timeout=60, trust_env=False).json()
    sampler = model.sampler.model_copy(update={"iterations": 2})
    expected = [inpaint(model, image, mask[..., 0] > 0, "a star", seed, sampler).pasted for seed in (3, 4)]
    assert [each["seed"] for each in answer["data"]] == [3, 4]
    assert [np.array_equal(decoded(each["b64_json"]), image) for each in answer["data"]] == [False, False]
    assert all(
        np.array_equal(decoded(each["b64_json"]), want) for each, want in zip(answer["data"], expected, strict=True)
    )


@pytest.mark.parametrize(
    ("image", "mask", "status", "message"),
    [
        (noise(48, 48), mask_of(noise(48, 48)), 400, "touches 0 of 9 tokens"),
        (noise(48, 48), np.full((48, 48, 3), 255, np.uint8), 400, "touches 9 of 9 tokens"),
        (noise(48, 48), mask_of(noise(32, 48)), 400, "the mask 48 x 32"),
        (noise(40, 48), mask_of(noise(40, 48)), 400, "not made of whole tokens of 16 x 16 px"),
        (noise(112, 96), mask_of(noise(112, 96)), 400, "too many pixels"),
        (noise(512, 512), mask_of(noise(512, 512)), 413, "a request has a Content-Length of at most"),
    ],
    ids=["empty", "full", "sizes", "tokens", "area", "body"],
)
def test_an_image_or_mask_without_sense_is_refused(address, image, mask, status, message):
    asked = {"prompt": "a star", "image": in_base64(image), "mask": in_base64(mask)}
    answer = httpx.post(f"{address}/v1/inpaint", json=asked, timeout=60, trust_env=False)
    assert (answer.status_code, message in answer.json()["error"]["message"]) == (status, True)


def test_what_is_no_image_is_refused_and_named(address):
    for sent, message in (("?", "image: found no base64"), ("AAAA", "image: not a PNG")):
        asked = {"prompt": "a star", "image": sent, "mask": in_base64(noise(48, 48))}
        answer = httpx.post(f"{address}/v1/inpaint", json=asked, timeout=60, trust_env=False)
        assert answer.status_code == 400 and message in answer.json()["error"]["message"]


def test_the_page_refuses_other_names_and_runs_no_foreign_code(address):
    policy = httpx.get(address, trust_env=False).headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; script-src 'self';")
    assert httpx.get(address, headers={"Host": "evil.example"}, trust_env=False).status_code == 400


def open_gallery(page, address: str) -> None:
    page.goto(address)
    page.wait_for_selector("#generate[data-ready]")


def finished(page) -> str:
    """Wait for an answer; return the page's words for it."""
    page.wait_for_selector("#status:is([data-state=done], [data-state=error])")
    return page.locator("#status").inner_text()


def shown(page) -> np.ndarray:
    """Pixels of the image in the editor."""
    return decoded(page.locator("#save").get_attribute("href"))


def brush(page, *points: tuple[float, float]) -> None:
    """Draw a line over points, as shares of the canvas's width and height."""
    box = page.locator("#canvas").bounding_box()
    places = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in points]
    page.mouse.move(*places[0])
    page.mouse.down()
    for place in places[1:]:
        page.mouse.move(*place, steps=8)
    page.mouse.up()


@pytest.fixture(scope="module")
def asked() -> list[str]:
    """Hosts that the page asked for anything."""
    return []


@pytest.fixture(scope="module")
def page(asked, tmp_path_factory):
    with browser_page(tmp_path_factory.mktemp("profile"), asked) as page:
        yield page


@needs_browser
@pytest.mark.browser
def test_a_brush_in_the_browser_redraws_its_tokens_alone(page, address, model, asked):
    open_gallery(page, address)
    page.fill("#prompt", "a blue square")
    page.fill("#seed", "5")
    page.fill("#count", "3")
    page.click("#generate")
    assert finished(page).startswith("3 images in ")
    assert page.locator("#results figcaption").all_inner_texts() == ["seed 5", "seed 6", "seed 7"]
    page.locator("#results button").nth(1).click()
    before = shown(page)
    assert np.array_equal(before, model.sample(["a blue square"], [6]).images[0])
    page.fill("#prompt", "a red star")
    page.fill("#brush", "2")
    page.locator("#canvas").scroll_into_view_if_needed()
    brush(page, (0.1, 0.1), (0.55, 0.1))  # from the first token into the second of the first row
    assert "48 x 48 px; 2 of 9 tokens marked" in page.locator("#size").inner_text()
    page.click("#redraw")
    assert finished(page).startswith("One image in ")
    after, marked = shown(page), mask_of(before, (0, 0), (0, 1))[..., 0] > 0
    assert np.array_equal(after[~marked], before[~marked])
    assert (after[marked] != before[marked]).any(axis=1).sum() > marked.sum() / 2
    assert np.array_equal(after, inpaint(model, before, marked, "a red star", 5).pasted)
    page.click("#undo")
    assert np.array_equal(shown(page), before)
    assert set(asked) <= {"127.0.0.1", ""}


@needs_browser
@pytest.mark.browser
def test_an_own_image_is_continued_beyond_its_edge(page, address, tmp_path):
    own = noise(48, 32)
    Image.fromarray(own).save(tmp_path / "own.png")
    open_gallery(page, address)
    page.set_input_files("#file", tmp_path / "own.png")
    page.wait_for_selector("#desk:not([hidden])")
    page.click("[data-side=left]")
    assert "48 x 48 px; 3 of 9 tokens marked" in page.locator("#size").inner_text()
    page.click("#redraw")
    assert finished(page).startswith("One image in ")
    made = shown(page)
    assert made.shape == (48, 48, 3)
    assert np.array_equal(made[:, SIDE:], own)
    assert made[:, :SIDE].std(axis=1).max() > 0  # not the stretched edge that stood there


@needs_browser
@pytest.mark.browser
def test_a_large_photo_is_cropped_to_whole_tokens(page, address, tmp_path):
    Image.fromarray(noise(300, 700)).save(tmp_path / "photo.png")
    open_gallery(page, address)
    page.set_input_files("#file", tmp_path / "photo.png")
    page.wait_for_selector("#desk:not([hidden])")
    assert "80 x 32 px; 0 of 10 tokens marked" in page.locator("#size").inner_text()
    page.click("#invert")
    page.click("#redraw")
    assert "touches 10 of 10 tokens" in finished(page)


@needs_browser
@pytest.mark.browser
def test_a_page_with_a_key_asks_for_it(page, model):
    with serving(model, key="sesame") as address:
        open_gallery(page, address)
        page.click("#generate")
        wrong = finished(page)
        page.fill("#key", "sesame")
        page.fill("#count", "1")
        page.click("#generate")
        right = finished(page)
    assert wrong.startswith("the API key is missing or wrong")
    assert right.startswith("One image in ")
