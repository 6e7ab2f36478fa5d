"""The JSON endpoint: what is tried again and how soon, what stops a run, and that the key never shows."""

import logging
import socket
import threading
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from lightgen_core.endpoint import (
    AnswerCache,
    Endpoint,
    EndpointError,
    EndpointUnreachable,
    RequestFailed,
    RequestRefused,
)
from tests.support.local_endpoint import Reply, serving, without_waits
from tests.support.waiting import PATIENCE

KEY = "sk-do-not-show-me"
FINE = Reply({"ok": 1})


@pytest.fixture(autouse=True)
def quick_loopback(monkeypatch):
    without_waits(monkeypatch)


def post_all(endpoint, count, concurrency):
    with ThreadPoolExecutor(concurrency) as pool:
        return list(pool.map(lambda number: endpoint.post("x", {"n": number}), range(count)))


def ask(asked, key=None, body=None, max_retries=3, **options):
    with Endpoint(asked.url, key, max_retries=max_retries, **options) as endpoint:
        return endpoint.post("chat/completions", body or {"n": 1})


def test_the_key_travels_as_a_bearer_token_and_the_body_as_json():
    with serving([FINE]) as asked:
        assert ask(asked, key=f" {KEY}\n", body={"seed": 7}) == {"ok": 1}
    assert asked.headers[0]["Authorization"] == f"Bearer {KEY}"
    assert (asked.paths, asked.bodies) == (["/v1/chat/completions"], [{"seed": 7}])


@pytest.mark.parametrize(
    "trouble",
    [
        Reply({"error": "busy"}, 429),
        Reply({"error": "oops"}, 500),
        Reply(b"<html>bad gateway</html>", 502),
        Reply(b'{"cut": ', 200),
        Reply(b"\xff\xfe", 200),
        Reply([1, 2], 200),
        Reply({}, 200, {"Content-Encoding": "gzip"}),
        Reply({"error": {"message": "upstream overloaded", "code": 503}}),
        Reply({"error": {"message": "slow down", "code": "429"}}),
        Reply({"error": "oops", "data": None}),
    ],
)
def test_passing_trouble_is_tried_again(trouble):
    with serving([trouble, trouble, FINE]) as asked:
        assert ask(asked, max_retries=2) == {"ok": 1}
    assert len(asked.bodies) == 3


@pytest.mark.parametrize("silent", [Reply({}, delay=1.0), Reply({}, 200, {"Content-Length": "500"})])
def test_a_server_that_is_silent_is_tried_again(silent):
    with serving([silent, silent, FINE]) as asked:
        assert ask(asked, max_retries=99, timeout=0.3) == {"ok": 1}
    assert len(asked.bodies) >= 3  # more where this machine was as slow


def test_waits_double_up_to_the_longest(monkeypatch):
    waits = []
    monkeypatch.undo()  # the waits of openai itself
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(time, "sleep", waits.append)
    with serving([Reply(status=500)] * 7 + [FINE]) as asked:
        ask(asked, max_retries=7)
    # The server in this process sleeps too, for no time; each wait is shortened by a quarter at most.
    for wait, expected in zip([wait for wait in waits if wait], [0.5, 1, 2, 4, 8, 8, 8], strict=True):
        assert 0.75 * expected <= wait <= expected


def test_retry_after_holds_back_every_thread():
    busy = Reply(status=429, headers={"Retry-After": "0.4"})
    with serving([busy, FINE]) as asked, Endpoint(asked.url, max_retries=0) as endpoint:
        with pytest.raises(EndpointError):  # it has no second attempt: the wait is for the requests of others
            endpoint.post("x", {})
        endpoint.post("x", {})
    assert asked.times[1] - asked.times[0] >= 0.4


def test_a_date_in_retry_after_is_understood():
    date = format_datetime(datetime.now(UTC) + timedelta(hours=1), usegmt=True)
    late = Reply(status=503, headers={"Retry-After": date})
    with serving([late]) as asked, pytest.raises(EndpointError, match=r"asks to wait 3[56]\d\d s"):
        ask(asked)


def test_an_unreadable_retry_after_is_ignored():
    with serving([Reply(status=503, headers={"Retry-After": "soon"}), FINE]) as asked:
        assert ask(asked) == {"ok": 1}


def test_a_server_that_wants_a_long_wait_stops_the_run_at_once():
    spent = Reply({"error": "quota"}, 429, {"Retry-After": "3600"})
    words = r"asks to wait 3600 s: status 429: .*quota.*; run again then"
    with serving([spent]) as asked, pytest.raises(EndpointError, match=words):
        ask(asked)
    assert len(asked.bodies) == 1


@pytest.mark.parametrize(
    ("reply", "error", "requests"),
    [
        (Reply({"error": "content policy"}, 400), RequestFailed, 1),
        (Reply({"error": "too long"}, 422), RequestFailed, 1),
        (Reply({"error": "oops"}, 500), RequestFailed, 4),
        (Reply(b"nonsense"), RequestFailed, 4),
        (Reply({"error": "busy"}, 429), EndpointError, 4),
        (Reply({"error": "starting"}, 503), EndpointError, 4),
        (Reply({"error": "who are you"}, 401), EndpointError, 1),
        (Reply({"error": "no such model"}, 404), EndpointError, 1),
        (Reply({"error": {"message": "your key may not use this model"}}, 403), EndpointError, 1),
        (Reply({"error": {"message": "moderation: your input was flagged"}}, 403), RequestRefused, 1),
        (Reply({"error": {"message": "content policy", "code": 400}}), RequestRefused, 1),
        (Reply({"error": {"message": "rejected", "code": "content_policy_violation"}}), RequestRefused, 1),
        (Reply({"error": "the prompt was flagged"}), RequestRefused, 1),
        (Reply({"error": {"message": "moderation is busy", "code": 503}}), EndpointUnreachable, 4),
        (Reply({"error": {"message": "no credit", "code": "insufficient_quota"}}, 429), EndpointError, 1),
        (Reply({"error": {"message": "overloaded", "code": 503}}), EndpointUnreachable, 4),
        (Reply({"error": {"message": "who are you", "code": 401}}), EndpointError, 1),
        (Reply(status=302, headers={"Location": "http://127.0.0.1:1/"}), EndpointError, 1),
    ],
)
def test_failures_of_one_request_differ_from_those_of_all(reply, error, requests):
    with serving([reply]) as asked, pytest.raises(error) as raised:
        ask(asked)
    assert len(asked.bodies) == requests
    assert isinstance(reply.body, bytes) or not reply.body or "error" in str(raised.value)


def test_a_missing_endpoint_stops_the_run_and_is_named():
    with socket.socket() as taken:  # bound and not listening: connections are refused
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
        with (
            Endpoint(url, max_retries=3) as endpoint,
            pytest.raises(EndpointUnreachable, match=f"{url}/x failed 4 times"),
        ):
            endpoint.post("x", {})


def test_several_threads_get_their_own_answers():
    with (
        serving(lambda body: Reply({"n": body["n"]}, delay=0.05 * (body["n"] == 0))) as asked,
        Endpoint(asked.url) as endpoint,
    ):
        assert [answer["n"] for answer in post_all(endpoint, 12, concurrency=4)] == list(range(12))


def test_no_more_requests_than_allowed_are_under_way():
    three = threading.Barrier(3)  # none is answered before there are three

    def answer(body):
        three.wait(PATIENCE)
        return FINE

    with serving(answer) as asked, Endpoint(asked.url) as endpoint:
        post_all(endpoint, 12, concurrency=3)
    assert asked.most_at_once == 3


def test_requests_are_spaced_by_the_rate_limit():
    with serving([FINE]) as asked, Endpoint(asked.url, requests_per_minute=1200) as endpoint:
        started = time.monotonic()
        post_all(endpoint, 6, concurrency=6)
    assert time.monotonic() - started >= 5 * 60 / 1200


def test_retries_keep_to_the_rate_limit():
    with serving([Reply(status=500)] * 3 + [FINE]) as asked:
        ask(asked, requests_per_minute=600)
    assert asked.times[3] - asked.times[0] >= 3 * 60 / 600 - 0.05


def test_an_account_of_the_environment_stays_with_its_server(monkeypatch):
    for name in ("API_KEY", "ADMIN_KEY", "ORG_ID", "PROJECT_ID"):
        monkeypatch.setenv(f"OPENAI_{name}", KEY)
    with serving([FINE]) as asked:
        ask(asked)
    assert KEY not in str(asked.headers) and "authorization" not in {name.lower() for name in asked.headers[0]}


@pytest.mark.parametrize("status", [400, 401, 500])
def test_the_key_is_in_no_error_or_log_even_if_the_server_echoes(status, caplog):
    caplog.set_level(logging.DEBUG)
    echo = Reply({"error": f"wrong key {KEY}"}, status)
    with serving([echo]) as asked, pytest.raises((EndpointError, RequestFailed)) as failed:
        ask(asked, key=KEY)
    shown = "".join(traceback.format_exception(failed.value))
    assert KEY not in shown and "***" in shown
    assert KEY not in caplog.text


@pytest.mark.parametrize("key", [f"{KEY}\nX-Other: 1", f"{KEY}\u2026"])
def test_a_key_that_cannot_be_sent_is_refused_and_not_shown(key):
    with pytest.raises(EndpointError, match="was it copied whole") as failed:
        Endpoint("http://127.0.0.1/v1", key)
    assert KEY not in "".join(traceback.format_exception(failed.value))


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("localhost:8000/v1", "expected an address such as http://localhost:8000/v1"),
        ("", "expected an address"),
        ("http://me:hunter2@host/v1", "at host holds a user or a query"),
        ("http://host/v1?api-key=hunter2", "at host holds a user or a query"),
        ("http://host:port", "cannot be read"),
    ],
)
def test_an_unusable_address_is_refused_without_showing_secrets(url, message):
    with pytest.raises(EndpointError, match=message) as failed:
        Endpoint(url)
    assert "hunter2" not in "".join(traceback.format_exception(failed.value))


def test_an_answer_is_asked_for_once_until_its_batch_is_complete(tmp_path):
    cache, asked = AnswerCache(tmp_path), []

    def request():
        asked.append(1)
        return b"answer %d" % len(asked)

    assert [cache.get(key, request) for key in (("a", 1), ("a", 2), ("a", 1))] == [
        b"answer 1",
        b"answer 2",
        b"answer 1",
    ]
    assert AnswerCache(tmp_path).get(("a", 2), request) == b"answer 2"
    cache.clear([("a", 1), ("b", 7)])
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"answer 2"]
    assert [AnswerCache().get(("a", 2), request) for _ in range(2)] == [b"answer 3", b"answer 4"]
