"""A vision-language model of transformers: it sees the image, and an answer is of its seed, not of its batch."""

import numpy as np
import pytest

from lightgen_core.images.codec import encode_png
from lightgen_core.vlm.config import RecaptionConfig
from lightgen_core.vlm.hf import HFVlm, VlmError
from tests.factories.tiny_vlm import save_tiny_vlm

RNG = np.random.default_rng(0)
IMAGES = [encode_png(RNG.integers(0, 256, (20 + 9 * n, 30, 3), dtype=np.uint8)) for n in range(5)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_tiny_vlm(tmp_path_factory.mktemp("vlm") / "model")


def loaded(folder, **changes):
    options = {"dtype": "float32", "batch_size": 2, "temperature": 1.0, "max_new_tokens": 12} | changes
    return HFVlm.load(RecaptionConfig(model=str(folder), **options))


def test_answers_follow_from_seed_and_image_in_any_batch(folder):
    texts, seeds = ["write a caption"] * 4 + ["write a long caption of the image"], [1, 2, 3, 1, 1]
    answers = loaded(folder).write(IMAGES, texts, seeds)
    assert loaded(folder, batch_size=5).write(IMAGES, texts, seeds) == answers
    assert loaded(folder).write(IMAGES[3:4], texts[3:4], seeds[3:4]) == answers[3:4]
    assert len({answer.text for answer in answers}) == 5
    assert all("<" not in answer.text for answer in answers)


def test_the_likeliest_answer_depends_on_the_image(folder):
    vlm = loaded(folder, temperature=0.0)
    black, white = (encode_png(np.full((20, 20, 3), level, np.uint8)) for level in (0, 255))
    first, second = vlm.write([black, white], ["write"] * 2, [0, 0])
    assert first.text != second.text


def test_first_tokens_are_those_that_it_writes_in_any_batch(folder):
    """The likeliest is what temperature 0 writes first, at its probability in a forward pass without padding."""
    texts = ["write a caption", "write", "write a long caption of the image", "red", "write"]
    vlm = loaded(folder, temperature=0.0, max_new_tokens=1)
    found = vlm.first_tokens(IMAGES, texts)
    alone = [vlm.first_tokens([image], [text])[0] for image, text in zip(IMAGES, texts, strict=True)]
    for row, single, answer in zip(found, alone, vlm.write(IMAGES, texts, [0] * 5), strict=True):
        values = [value for _, value in row]
        assert [token for token, _ in row] == [token for token, _ in single]
        assert values == pytest.approx([value for _, value in single], abs=1e-4)
        assert values == sorted(values, reverse=True) and sum(np.exp(values)) <= 1 + 1e-6
        assert answer.text in (row[0][0], "")  # an end is written as nothing
    assert len({row[0] for row in found}) > 1, "it sees what it is shown"


def test_a_model_without_a_chat_template_is_refused(tmp_path):
    with pytest.raises(VlmError, match="is a LlavaForConditionalGeneration without a chat template"):
        loaded(save_tiny_vlm(tmp_path / "model", chat=False))
