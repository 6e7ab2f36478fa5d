"""BLIP that answers questions: the probability of yes, whatever else is asked in the batch."""

import numpy as np
import pytest
import torch
from transformers import BlipConfig, BlipForConditionalGeneration

from lightgen_core.vlm.blip import BlipError, BlipVqa
from tests.factories.tiny_compbench import BERT, ENCODER, save_tiny_blip

RNG = np.random.default_rng(0)
IMAGE, OTHER = RNG.integers(0, 256, (2, 40, 56, 3), dtype=np.uint8)
QUESTIONS = ["a green bench?", "a blue bowl?", "a bench a bowl a green bench?"]


@pytest.fixture(scope="module")
def blip(tmp_path_factory):
    return BlipVqa.load(save_tiny_blip(tmp_path_factory.mktemp("blip") / "model"))


def test_yes_is_weighed_against_no_alone(tmp_path):
    """Yes with bias ln 3 beside no with 0 is three in four, however likely another word is."""
    folder = save_tiny_blip(tmp_path / "model", answer={"yes": float(np.log(3)), "bench": 50.0})
    assert BlipVqa.load(folder).yes(IMAGE, QUESTIONS) == pytest.approx([0.75] * 3)


def test_an_answer_follows_from_image_and_question_alone(blip):
    found = blip.yes(IMAGE, QUESTIONS)
    assert len(set(found)) == 3 and all(0 < value < 1 for value in found)
    assert blip.yes(IMAGE, QUESTIONS[:1]) == pytest.approx(found[:1], abs=1e-5)  # whatever else is asked
    assert blip.yes(IMAGE, ["A Green Bench?"]) == pytest.approx(found[:1], abs=1e-5)
    assert abs(blip.yes(OTHER, QUESTIONS[:1])[0] - found[0]) > 1e-3


def test_a_question_begins_with_the_encoder_s_token(tmp_path):
    blip = BlipVqa.load(save_tiny_blip(tmp_path / "model"))
    before, words = blip.yes(IMAGE, QUESTIONS), blip.model.text_encoder.embeddings.word_embeddings.weight
    words[BERT.index("[CLS]")] = 3.0
    assert blip.yes(IMAGE, QUESTIONS) == before
    words[ENCODER] = torch.linspace(-3, 3, words.shape[1])
    assert blip.yes(IMAGE, QUESTIONS) != before


def test_a_blip_that_writes_captions_is_refused(tmp_path):
    small = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    vision = {**small, "image_size": 32, "patch_size": 16}
    config = BlipConfig(text_config={**small, "vocab_size": 16}, vision_config=vision, projection_dim=8)
    BlipForConditionalGeneration(config).save_pretrained(tmp_path)
    with pytest.raises(BlipError, match="is a BlipForConditionalGeneration; expected a BlipForQuestionAnswering"):
        BlipVqa.load(str(tmp_path))
