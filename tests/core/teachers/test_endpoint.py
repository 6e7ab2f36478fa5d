"""The images endpoint as a teacher, against servers on loopback."""

import base64
import io
import logging
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from PIL import Image

from lightgen_core.endpoint import Endpoint, EndpointError
from lightgen_core.images.codec import decode_image, encode_png
from lightgen_core.rejected import Reason, Rejected
from lightgen_core.teachers.config import ImageEndpointConfig
from lightgen_core.teachers.endpoint import EndpointTeacher
from tasks.config.recipe import Recipe
from tasks.config.settings import Settings
from tasks.synthesis import NoImagesError, synthesis
from tests.support.local_endpoint import Reply, serving, without_waits
from tests.support.run_stage import recipe_of, run_recipe
from tests.support.waiting import PATIENCE

KEY = "sk-do-not-show-me"
PROMPTS = [f"prompt {n}" for n in range(6)]


@pytest.fixture(autouse=True)
def quick_loopback(monkeypatch):
    without_waits(monkeypatch)


def grey(level: int, size: int = 16) -> bytes:
    return encode_png(np.full((size, size, 3), level, np.uint8))


def answer(data: bytes) -> Reply:
    return Reply({"created": 1, "data": [{"b64_json": base64.b64encode(data).decode()}]})


def by_prompt(body) -> Reply:
    return answer(grey(10 * int(body["prompt"].split()[-1])))


def config(**asked) -> ImageEndpointConfig:
    return ImageEndpointConfig(model="painter", **{"request_size": "16x16"} | asked)


def draw(url: str, prompts=PROMPTS, concurrency: int = 3, **asked) -> list[np.ndarray | Rejected]:
    with Endpoint(url, KEY, max_retries=2) as endpoint:
        return list(EndpointTeacher(config(**asked), endpoint, concurrency).generate(prompts, range(len(prompts))))


def test_prompts_get_their_own_images_in_order():
    """Several requests are under way at once."""
    three = threading.Barrier(3)  # none is answered before there are three

    def answer_three(body):
        three.wait(PATIENCE)
        return by_prompt(body)

    with serving(answer_three) as asked:
        drawn = draw(asked.url)
    assert [picture[0, 0, 0] for picture in drawn] == [0, 10, 20, 30, 40, 50]
    assert asked.most_at_once == 3
    assert asked.paths == ["/v1/images/generations"] * 6


def test_a_request_says_what_the_recipe_says():
    with serving(by_prompt) as asked:
        draw(asked.url, PROMPTS[4:5], send_seed=True, arguments={"quality": "hd"}, response_format=None)
    expected = {"model": "painter", "prompt": "prompt 4", "n": 1, "size": "16x16", "quality": "hd", "seed": 0}
    assert asked.bodies == [expected]


def test_a_refusal_is_the_prompts_own_and_quotes_the_server():
    def refuse_two(body):
        if body["prompt"] == "prompt 2":
            return Reply({"error": {"code": "content_policy_violation", "message": "not that"}}, 400)
        return by_prompt(body)

    with serving(refuse_two) as asked:
        drawn = draw(asked.url)
    assert [isinstance(each, Rejected) for each in drawn] == [False, False, True, False, False, False]
    assert (drawn[2].reason, "not that" in drawn[2].detail) == (Reason.REFUSED, True)
    assert len(asked.bodies) == 6  # a refusal is not asked again


def test_passing_trouble_is_retried_and_lasting_trouble_recorded():
    """Lasting trouble counts for the prompt alone."""
    with serving([Reply(status=500), Reply(status=429, headers={"Retry-After": "0.05"}), answer(grey(7))]) as asked:
        assert draw(asked.url, PROMPTS[:1])[0][0, 0, 0] == 7
    with serving([Reply(status=500)]) as asked:
        assert [each.reason for each in draw(asked.url, PROMPTS[:2])] == [Reason.NO_ANSWER] * 2


def test_a_server_that_fails_on_everything_ends_the_run():
    with serving([Reply({"data": []})]) as asked, pytest.raises(EndpointError, match="20 prompts in a row"):
        draw(asked.url, PROMPTS * 10)
    assert len(asked.bodies) < 60


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_wrong_key_or_address_ends_the_run_and_hides_the_key(status, caplog):
    caplog.set_level(logging.DEBUG)
    with serving([Reply({"error": f"wrong key {KEY}"}, status)]) as asked, pytest.raises(EndpointError) as caught:
        draw(asked.url)
    assert KEY not in str(caught.value) + caplog.text


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (Reply({"data": []}), Reason.NO_ANSWER),
        (Reply({"data": [None]}), Reason.NO_ANSWER),
        (Reply({"data": [{"revised_prompt": "a"}]}), Reason.NO_ANSWER),
        (Reply({"data": [{"b64_json": "not base64!"}]}), Reason.NO_ANSWER),
        (Reply({"data": [{"url": "file:///etc/passwd"}]}), Reason.NO_ANSWER),
        (Reply({"data": [{"url": "http://169.254.169.254/latest"}]}), Reason.NO_ANSWER),
        (Reply({"data": [{"url": "http://[broken"}]}), Reason.NO_ANSWER),
        (answer(b"no image"), Reason.NOT_AN_IMAGE),
        (answer(grey(1)[:60]), Reason.IMAGE_TRUNCATED),
        (answer(grey(1, 32)), Reason.OTHER_SIZE),
        (answer(grey(1, 600)), Reason.TOO_MANY_PIXELS),
        (answer(grey(1) + bytes(200_000)), Reason.IMAGE_TOO_LARGE),
    ],
)
def test_an_answer_without_a_good_image_is_quarantined(reply, reason):
    with serving([reply]) as asked:
        assert [each.reason for each in draw(asked.url, PROMPTS[:1], max_pixels=100_000, max_bytes=100_000)] == [reason]


ENCODED = base64.b64encode(grey(0, 16) + b"\xff\xfb\xef").decode()


@pytest.mark.parametrize(
    "first",
    [
        {"b64_json": f"data:image/png;base64,{ENCODED}"},
        {"b64_json": "\n".join(ENCODED[at : at + 76] for at in range(0, len(ENCODED), 76))},
        {"b64_json": base64.b64encode(grey(0, 16) + b"\xff").decode().rstrip("=")},
        {"b64_json": ENCODED.replace("+", "-").replace("/", "_")},
        {"b64_json": ENCODED, "url": None, "revised_prompt": None},
        {"b64_json": None, "url": f"data:image/png;base64,{ENCODED}"},
        {"b64_json": "", "url": f"data:image/png;base64,{ENCODED}"},
    ],
    ids=["data URL", "lines", "unpadded", "URL alphabet", "nulls", "url with data", "empty and url"],
)
def test_servers_may_encode_an_image_in_their_own_way(first):
    with serving([Reply({"data": [first]})]) as asked:
        (image,) = draw(asked.url, PROMPTS[:1])
    assert isinstance(image, np.ndarray) and (image == 0).all()


def test_the_address_of_an_image_may_be_relative():
    """It is then one of the endpoint's own host."""
    png = Reply(grey(70, 16), 200, {"Content-Type": "image/png"})
    with serving(lambda body: Reply({"data": [{"url": "/f/x"}]}) if body else png) as asked:
        (image,) = draw(asked.url, PROMPTS[:1])
    assert (image == 70).all()
    assert asked.paths == ["/v1/images/generations", "/f/x"]


def test_images_before_a_failure_are_not_paid_for_again(tmp_path):
    def until_the_fourth(body):
        return Reply(status=401) if len(asked.bodies) == 4 else by_prompt(body)

    with serving(until_the_fourth) as asked, Endpoint(asked.url, max_retries=0) as endpoint:
        with pytest.raises(EndpointError):
            list(EndpointTeacher(config(), endpoint, 1, tmp_path).generate(PROMPTS, range(6)))
        images = list(EndpointTeacher(config(), endpoint, 1, tmp_path).generate(PROMPTS, range(6)))
    assert [int(image[0, 0, 0]) for image in images] == [0, 10, 20, 30, 40, 50]
    prompts = [body["prompt"] for body in asked.bodies]
    assert sorted(prompts) == sorted([*PROMPTS, PROMPTS[3]])
    assert list(tmp_path.iterdir()) == []


def test_images_are_brought_to_the_size_that_the_recipe_wants():
    with serving([answer(grey(9, 64))]) as asked:
        assert draw(asked.url, PROMPTS[:1], request_size="64x64", size=16)[0].shape == (16, 16, 3)


@contextmanager
def images_at(reply):
    """A server of images: `reply(handler)` answers a GET."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(dict(self.headers))
            reply(self)

        def log_message(self, format, *arguments) -> None:
            """Say nothing."""

    asked = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/a.png", asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def say(handler, status: int, data: bytes = b"", **headers: str) -> None:
    handler.send_response(status)
    for name, value in headers.items():
        handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(data)


def test_an_image_is_fetched_from_its_address_without_the_key():
    with (
        images_at(lambda handler: say(handler, 200, grey(70))) as (url, gets),
        serving([Reply({"data": [{"url": url}]})]) as asked,
    ):
        assert draw(asked.url, PROMPTS[:1], response_format="url")[0][0, 0, 0] == 70
    assert asked.headers[0]["Authorization"] == f"Bearer {KEY}"
    assert [name for name in gets[0] if name.lower() == "authorization"] == []


def endless(handler) -> None:
    handler.send_response(200)
    handler.end_headers()
    try:
        while True:
            handler.wfile.write(bytes(1 << 16))
    except OSError:
        pass  # the reader has had enough


@pytest.mark.parametrize(
    ("reply", "reason", "gets"),
    [
        (lambda handler: say(handler, 404), Reason.NO_ANSWER, 3),
        (lambda handler: say(handler, 302, Location="http://127.0.0.1:1/secret"), Reason.NO_ANSWER, 3),
        (endless, Reason.IMAGE_TOO_LARGE, 1),
    ],
)
def test_an_address_that_gives_no_image_is_quarantined(reply, reason, gets):
    with images_at(reply) as (url, seen), serving([Reply({"data": [{"url": url}]})]) as asked:
        (why,) = draw(asked.url, PROMPTS[:1], max_bytes=1 << 20)
    assert (why.reason, len(seen)) == (reason, gets)


def painted(**asked) -> Recipe:
    endpoint = {"model": "painter", "request_size": "16x16"}
    return recipe_of(teacher="endpoint", count=6, shard_size=4, balance="captions", endpoint=endpoint | asked)


def served(url: str) -> Settings:
    return Settings(device="cpu", threads=1, images_url=url)


def test_address_and_secret_do_not_enter_the_key_of_the_images(monkeypatch):
    before = synthesis.config(painted())
    monkeypatch.setenv("LIGHTGEN_IMAGES_URL", "http://elsewhere/v1")
    monkeypatch.setenv("LIGHTGEN_IMAGES_KEY", KEY)
    assert synthesis.config(painted()) == before
    assert synthesis.config(painted(model="another")) != before


def test_an_address_with_a_secret_is_refused_without_showing_it(tmp_path):
    with pytest.raises(EndpointError, match="holds a user or a query; give secrets as the key") as error:
        run_recipe(tmp_path, PROMPTS, painted(), served("https://me:hush@host/v1"))
    assert "hush" not in str(error.value)


def test_the_stage_keeps_the_images_and_writes_the_key_nowhere(tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("LIGHTGEN_IMAGES_KEY", KEY)

    def one_in_three_is_refused(body):
        return Reply({"error": f"{KEY} may not"}, 400) if int(body["prompt"].split()[-1]) % 3 == 0 else by_prompt(body)

    with serving(one_in_three_is_refused) as asked:
        made = run_recipe(tmp_path, PROMPTS, painted(), served(asked.url))
    assert made.images["id"].to_pylist() == [1, 2, 4, 5]
    assert [decode_image(image["bytes"])[0, 0, 0] for image in made.images["image"].to_pylist()] == [10, 20, 40, 50]
    assert made.quarantine["id"].to_pylist() == [0, 3]
    assert made.manifest.metrics["quarantine"] == {"the endpoint refused the prompt": 2}
    assert asked.headers[0]["Authorization"] == f"Bearer {KEY}"
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert KEY.encode() not in written + caplog.text.encode()
    assert "***" in made.quarantine["detail"][0].as_py()


def test_a_stage_that_failed_in_a_shard_pays_for_the_rest_alone(tmp_path):
    def fails_once(body):
        return Reply(status=402) if len(asked.bodies) == 6 else by_prompt(body)

    with serving(fails_once) as asked:
        settings = served(asked.url).model_copy(update={"endpoint_concurrency": 1})
        with pytest.raises(EndpointError, match="status 402"):
            run_recipe(tmp_path, PROMPTS, painted(), settings)
        made = run_recipe(tmp_path, PROMPTS, painted(), settings)
    assert [decode_image(image["bytes"])[0, 0, 0] for image in made.images["image"].to_pylist()] == [
        10 * int(caption.split()[-1]) for caption in made.images["caption"].to_pylist()
    ]
    prompts = sorted(body["prompt"] for body in asked.bodies)
    assert (len(prompts), set(prompts)) == (7, set(PROMPTS))
    assert sorted(file.name for file in made.manifest.files) == [
        *(f"images-0000{n}.parquet" for n in (0, 1)),
        *(f"quarantine-0000{n}.parquet" for n in (0, 1)),
    ]


def test_a_stage_with_all_prompts_refused_fails_with_the_reason(tmp_path):
    why = "6 in quarantine, most often: the endpoint refused the prompt"
    with serving([Reply({"error": "no"}, 400)]) as asked, pytest.raises(NoImagesError, match=why):
        run_recipe(tmp_path, PROMPTS, painted(), served(asked.url))


def test_an_encoded_image_that_is_no_rgb_is_one_afterwards():
    sink = io.BytesIO()
    Image.new("L", (16, 16), 90).save(sink, "PNG")
    with serving([answer(sink.getvalue())]) as asked:
        (picture,) = draw(asked.url, PROMPTS[:1])
    assert (picture.shape, picture[0, 0].tolist()) == ((16, 16, 3), [90, 90, 90])
