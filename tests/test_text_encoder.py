"""The text encoder: ragged T5 states that do not depend on a caption's batch."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertModel, T5EncoderModel

from lightgen_core.text_encoder import TextEncoder, TextEncoderError
from lightgen_core.zoo.paths import resolve

CAPTIONS = [
    "a red circle",
    "four stars",
    "a photo of a blue square to the left of a green cross on a plain background",
    "a red circle",
    "exactly three crosses",
]


@pytest.fixture(scope="module")
def encoder() -> TextEncoder:
    return TextEncoder.load("zoo:t5")


def test_each_caption_has_one_state_for_each_word_and_one_for_its_end(encoder: TextEncoder) -> None:
    states = encoder.encode(CAPTIONS)
    assert [s.shape for s in states] == [(len(c.split()) + 1, encoder.width) for c in CAPTIONS]
    assert {s.dtype for s in states} == {np.dtype(np.float32)}


def test_states_are_those_of_the_caption_alone(encoder: TextEncoder) -> None:
    for caption, states in zip(CAPTIONS, encoder.encode(CAPTIONS), strict=True):
        np.testing.assert_allclose(states, encoder.encode([caption])[0], atol=1e-5)


def test_states_are_transformers_own_with_padding_masked(encoder: TextEncoder) -> None:
    batch = encoder.tokenizer(CAPTIONS, padding=True, return_tensors="pt")
    with torch.no_grad():
        padded = encoder.model(**batch).last_hidden_state.numpy()
    for row, states in enumerate(encoder.encode(CAPTIONS)):
        np.testing.assert_allclose(states, padded[row, : len(states)], atol=1e-4)


def test_equal_captions_are_encoded_once(encoder: TextEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = 0
    forward = encoder.model.forward

    def counted(input_ids: torch.Tensor, **rest: object) -> object:
        nonlocal rows
        rows += len(input_ids)
        return forward(input_ids=input_ids, **rest)

    monkeypatch.setattr(encoder.model, "forward", counted)
    first, second = encoder.encode(["a star"] * 5 + ["a ring"])[:2]
    assert rows == 2
    np.testing.assert_array_equal(first, second)


def test_a_long_caption_is_cut_at_max_length_with_its_end_kept() -> None:
    short = TextEncoder.load("zoo:t5", max_length=6)
    assert short.encode(["a red circle and a blue square next to nothing"])[0].shape == (6, short.width)
    kept = short.tokenizer("a red circle and a blue square", truncation=True, max_length=6).input_ids
    assert kept[-1] == short.tokenizer.eos_token_id


def test_words_outside_the_vocabulary_are_spelt_not_refused(encoder: TextEncoder) -> None:
    states = encoder.encode(["Zebra!", "漢字", ""])
    assert [len(s) for s in states] == [7, 3, 1]
    assert all(np.isfinite(s).all() for s in states)


def test_no_captions_give_no_states(encoder: TextEncoder) -> None:
    assert encoder.encode([]) == []


def test_a_model_of_another_type_is_refused_by_name(tmp_path: Path) -> None:
    config = BertConfig(vocab_size=16, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)
    BertModel(config).save_pretrained(tmp_path)
    with pytest.raises(TextEncoderError, match="type bert, expected t5"):
        TextEncoder.load(str(tmp_path))


def test_pickled_weights_are_never_loaded(tmp_path: Path) -> None:
    model = T5EncoderModel.from_pretrained(resolve("zoo:t5"))
    model.config.save_pretrained(tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(OSError, match="safetensors"):
        TextEncoder.load(str(tmp_path))
