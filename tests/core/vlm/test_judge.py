"""A judge behind an endpoint: what it is sent, and which numbers in its answers are scores."""

import base64

import numpy as np
import pytest
from pydantic import ValidationError

from lightgen_core.captioning.parse import Answer
from lightgen_core.endpoint import Endpoint, EndpointError
from lightgen_core.images.codec import decode_image, encode_png
from lightgen_core.vlm.config import JudgeConfig
from lightgen_core.vlm.endpoint import EndpointVlm
from lightgen_core.vlm.judge import judge_prompt, parse_score
from tests.support.local_endpoint import Reply, serving, without_waits

JUDGE = JudgeConfig(model="judge", min_score=5, max_image_side=32)
IMAGE = encode_png(np.full((40, 60, 3), 90, np.uint8))


@pytest.fixture(autouse=True)
def quick_loopback(monkeypatch):
    without_waits(monkeypatch)


def said(text):
    return Reply({"choices": [{"message": {"content": text}, "finish_reason": "stop"}]})


@pytest.mark.parametrize(
    ("answer", "score"),
    [
        ("7", 7),
        ("Score: 7.5/10", 7.5),
        ('{"score": 3}', 3),
        ("<think>not 9</think> 4", 4),
        ("<think>9", None),
        ("eleven", None),
        ("11", None),
        ("-1", None),
        ("10", 10),
    ],
)
def test_the_first_number_on_the_scale_is_the_score(answer, score):
    assert parse_score(Answer(answer), JUDGE) == score


def test_an_error_is_no_score():
    assert parse_score(Answer("", error="refused: 7"), JUDGE) is None


def test_the_image_is_sent_at_the_longest_side_with_the_prompt():
    with serving([said("8")]) as asked, Endpoint(asked.url) as endpoint:
        answers = EndpointVlm(endpoint, JUDGE, 1).write([IMAGE], [judge_prompt(JUDGE, "a grey wall")], [3])
    image, text = asked.bodies[0]["messages"][0]["content"]
    sent = base64.b64decode(image["image_url"]["url"].removeprefix("data:image/jpeg;base64,"))
    assert (answers, decode_image(sent).shape) == ([Answer("8")], (21, 32, 3))
    assert text["text"].endswith("from 0 (not at all) to 10 (perfectly), and nothing else.\nCaption: a grey wall")
    assert (asked.bodies[0]["model"], asked.bodies[0]["seed"], asked.bodies[0]["max_tokens"]) == ("judge", 3, 16)


def test_answers_are_kept_until_their_batch_is_complete(tmp_path):
    replies = [said("8"), Reply({"error": "no key"}, 401), said("2")]
    with serving(replies) as asked, Endpoint(asked.url) as endpoint:
        vlm = EndpointVlm(endpoint, JUDGE, 1, tmp_path)
        with pytest.raises(EndpointError, match="401"):
            vlm.write([IMAGE] * 2, ["one", "two"], [1, 1])
        assert vlm.write([IMAGE] * 2, ["one", "two"], [1, 1]) == [Answer("8"), Answer("2")]
        assert len(asked.bodies) == 3
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_answers_nothing_stops_the_run():
    nothing = "all 8 requests failed, the first one: no chat completion"
    with serving([Reply({"choices": []})]) as asked, Endpoint(asked.url) as endpoint:
        vlm = EndpointVlm(endpoint, JUDGE, 8)
        with pytest.raises(EndpointError, match=nothing):
            vlm.write([IMAGE] * 8, list("abcdefgh"), [0] * 8)


def test_a_threshold_beyond_the_scale_is_refused():
    with pytest.raises(ValidationError, match="min_score 11 drops all images or none: the scale goes from 0 to 10"):
        JudgeConfig(model="judge", min_score=11)
