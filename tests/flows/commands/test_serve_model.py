"""`lightgen serve-model`: OpenAI's interface, limits, the key, the end; our own endpoint teacher as a client."""

import base64
import io
import os
import re
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import httpx
import numpy as np
import pytest
import uvicorn
from PIL import Image

import lightgen
from flows.commands.serve_model import serve_model
from flows.commands.web_server import is_loopback
from flows.errors import UserError
from lightgen_core.endpoint import Endpoint
from lightgen_core.serving.app import batch_sampler, create_app
from lightgen_core.serving.batcher import Batcher
from lightgen_core.teachers.config import ImageEndpointConfig
from lightgen_core.teachers.endpoint import EndpointTeacher
from tests.factories.finished_run import finished_run
from tests.support.local_endpoint import without_waits
from tests.support.paths import ROOT
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.slow(rank=16), pytest.mark.usefixtures("one_thread")]


@pytest.fixture(scope="module")
def student():
    return lightgen.Student.from_pretrained(finished_run().student)


@contextmanager
def serving(student, key: str = "", sample=None, **limits):
    """Serve a student on a free port of loopback; yield a client and the batcher."""
    batcher = Batcher(sample or batch_sampler(student.model), **limits)
    app = create_app(student.model, batcher, "tiny", key, () if key else ("127.0.0.1",))
    config = uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning")
    socket, server = config.bind_socket(), uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [socket]})
    thread.start()
    try:
        wait_until(lambda: server.started)
        address = f"http://127.0.0.1:{socket.getsockname()[1]}"
        with httpx.Client(base_url=address, timeout=60, trust_env=False) as client:
            yield client, batcher
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def client(student):
    with serving(student) as (client, _):
        yield client


def pixels(answer: dict) -> list[np.ndarray]:
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(each["b64_json"])))) for each in answer["data"]]


def test_images_are_those_of_sample(client, student):
    answer = client.post("/v1/images/generations", json={"prompt": "a red circle", "seed": 3, "n": 2}).json()
    expected = student.sample(["a red circle"], 3, 2)
    assert [each["seed"] for each in answer["data"]] == [3, 4]
    assert np.abs(np.stack(pixels(answer)).astype(int) - expected).max() == 0


def test_size_steps_and_guidance_are_the_requests(client, student):
    asked = {"prompt": "a star", "seed": 1, "size": "32x48", "steps": 2, "guidance_scale": 3}
    (image,) = pixels(client.post("/v1/images/generations", json=asked).json())
    changes = {"iterations": 2, "guidance_scale": 3}
    assert np.array_equal(image, student.sample(["a star"], 1, changes=changes, height=48, width=32)[0])


def test_without_a_seed_two_answers_differ(client):
    asked = {"prompt": "a star", "model": "tiny"}
    first, second = (client.post("/v1/images/generations", json=asked).json()["data"][0] for _ in range(2))
    assert first["seed"] != second["seed"] and first["b64_json"] != second["b64_json"]


@pytest.mark.parametrize(
    ("asked", "status", "message"),
    [
        ({}, 400, "prompt: Field required"),
        ({"prompt": "  "}, 400, "prompt: String should match"),
        ({"prompt": "a", "n": 11}, 400, "n: Input should be less than or equal to 10"),
        ({"prompt": "a", "size": "50x48"}, 400, "give multiples of 16 px"),
        ({"prompt": "a", "size": "4096x4096"}, 400, "at most 4 times the area of 48x48"),
        ({"prompt": "a", "size": "big"}, 400, "size: String should match"),
        ({"prompt": "a", "response_format": "url"}, 400, "response_format: Input should be 'b64_json'"),
        ({"prompt": "a", "negative_prompt": "b"}, 400, "negative_prompt: Extra inputs are not permitted"),
        ({"prompt": "a", "model": "dall-e-3"}, 404, "there is no model 'dall-e-3'; this server has 'tiny'"),
        ({"prompt": "a" * 70_000}, 413, "at most 65536 bytes"),
    ],
)
def test_a_wrong_request_is_answered_with_its_fault(client, asked, status, message):
    answer = client.post("/v1/images/generations", json=asked)
    assert answer.status_code == status and message in answer.json()["error"]["message"]


def test_what_is_no_json_is_an_error_of_the_same_form(client):
    answer = client.post("/v1/images/generations", content=b"{", headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_request")


def test_models_and_health_say_what_is_served(client):
    assert [entry["id"] for entry in client.get("/v1/models").json()["data"]] == ["tiny"]
    health = client.get("/health").json()
    assert (health["status"], health["waiting"], health["failed"]) == ("ok", 0, 0) and health["served"] > 0


def test_requests_that_nothing_can_be_made_of_are_counted(client):
    def rejected() -> int:
        return client.get("/health").json()["rejected"]

    before = rejected()
    client.post("/v1/images/generations", json={"prompt": "a red circle", "n": 99})
    client.post("/v1/images/generations", content=b"not json", headers={"Content-Type": "application/json"})
    client.post("/v1/images/generations", json={"prompt": "a red circle", "model": "other"})
    client.get("/v1/nothing")
    client.get("/v1/models")
    assert rejected() - before == 4


def test_pages_of_other_names_reach_no_server_without_a_key(client):
    assert client.get("/v1/models", headers={"Host": "evil.example"}).status_code == 400


def test_a_key_is_wanted_for_images_and_not_for_health(student):
    with serving(student, key="sésame") as (client, _):
        statuses = [client.get("/v1/models").status_code, client.get("/health").status_code]
        wrong = client.get("/v1/models", headers={"Authorization": "Bearer other"}).status_code
        right = client.get("/v1/models", headers={"Authorization": "Bearer sésame".encode()}).status_code
    assert (statuses, wrong, right) == ([401, 200], 401, 200)


def test_a_full_queue_answers_429_and_says_when_to_ask_again(student):
    go = threading.Event()

    def slowly(requests):
        assert go.wait(60)
        return batch_sampler(student.model)(requests)

    limits = {"max_batch": 1, "max_queue": 2, "max_wait": 0}
    with ThreadPoolExecutor(3) as threads, serving(student, sample=slowly, **limits) as (client, batcher):
        asked = []
        for number in (1, 2, 3):
            asked.append(threads.submit(client.post, "/v1/images/generations", json={"prompt": "a star"}))
            wait_until(lambda: batcher.counts.accepted == number and batcher.waiting == number - 1)  # noqa: B023
        refused = client.post("/v1/images/generations", json={"prompt": "a star"})
        go.set()
        served = [each.result().status_code for each in asked]
    assert (refused.status_code, refused.headers["Retry-After"]) == (429, "1")
    assert (served, batcher.counts.refused) == ([200] * 3, 1)


def test_our_endpoint_teacher_reads_our_student(student, monkeypatch):
    """Eight at once, in batches: the images of `lightgen sample`, but for a rounding of one in 255."""
    without_waits(monkeypatch)
    config = ImageEndpointConfig(model="tiny", send_seed=True, request_size=None, size=48)
    prompts, seeds = [f"{count} stars" for count in ("two", "three", "four") for _ in range(4)], list(range(12))
    with serving(student) as (client, batcher), Endpoint(f"{str(client.base_url).rstrip('/')}/v1") as endpoint:
        images = list(EndpointTeacher(config, endpoint, concurrency=8).generate(prompts, seeds))
        batches = batcher.counts.batches
    assert [image for image in images if isinstance(image, Exception)] == []
    expected = student.model.sample(prompts, seeds).images
    assert np.abs(np.stack(images).astype(int) - expected).max() <= 1
    assert batches < 12


def test_sigterm_loses_nothing_that_was_accepted(tmp_path):
    """The process then ends with status 0."""
    made = finished_run()
    command = [sys.executable, "-m", "flows", "serve-model", str(made.student), "--port", "0", "--max-batch", "2"]
    environment = os.environ | {"LIGHTGEN_THREADS": "1"}
    log = tmp_path / "log"
    with log.open("w") as file:
        server = subprocess.Popen(command, cwd=ROOT, stderr=file, env=environment)
    address = wait_until(lambda: re.search(r"http://[\d.:]+", log.read_text()), said=log.read_text)[0]
    with httpx.Client(base_url=address, timeout=120, trust_env=False) as client, ThreadPoolExecutor(24) as threads:
        asked = {"prompt": "a red circle", "steps": 9}
        answers = [threads.submit(client.post, "/v1/images/generations", json=asked) for _ in range(24)]
        wait_until(lambda: client.get("/health").json()["accepted"] == 24)
        server.send_signal(signal.SIGTERM)
        assert [answer.result().status_code for answer in answers] == [200] * 24
        assert server.wait(60) == 0
        with pytest.raises(httpx.ConnectError):
            client.get("/health")
    assert "ended: 24 images served, 0 refused, 0 failed" in log.read_text()


def test_beyond_this_machine_a_key_is_needed(monkeypatch):
    monkeypatch.delenv("LIGHTGEN_SERVE_KEY", raising=False)
    with pytest.raises(UserError, match="set LIGHTGEN_SERVE_KEY"):
        serve_model("demo", "0.0.0.0", 0, None, 1, 1, None)
    assert [is_loopback(host) for host in ("127.0.0.1", "::1", "localhost", "0.0.0.0", "::", "10.1.2.3")] == [
        True, True, True, False, False, False,
    ]  # fmt: skip
