"""The text encoder: ragged T5 states that do not depend on a caption's batch."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    Gemma2Config,
    Gemma2ForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    T5Config,
    T5EncoderModel,
    T5ForConditionalGeneration,
    ViTConfig,
)

from lightgen_core.encoders.model_ref import resolve
from lightgen_core.encoders.text_encoder import TextEncoder, TextEncoderError

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


def test_a_caption_has_a_state_for_each_word_and_for_its_end(encoder: TextEncoder) -> None:
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


def test_a_model_that_encodes_no_text_is_refused_by_name(tmp_path: Path) -> None:
    ViTConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8).save_pretrained(tmp_path)
    with pytest.raises(TextEncoderError, match="type vit; expected a T5 or a causal language model"):
        TextEncoder.load(str(tmp_path))


SIZES = {
    "vocab_size": 300,
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "intermediate_size": 32,
}
DECODERS = {"qwen2": (Qwen2Config, Qwen2ForCausalLM), "llama": (LlamaConfig, LlamaForCausalLM)}
DECODERS |= {"gemma2": (Gemma2Config, Gemma2ForCausalLM)}


@pytest.fixture(scope="module", params=DECODERS)
def decoder_folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A causal language model with random weights, and the zoo's tokenizer without its end token."""
    folder = tmp_path_factory.mktemp(request.param)
    kind, model = DECODERS[request.param]
    torch.manual_seed(0)
    model(kind(**SIZES)).save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(resolve("zoo:t5"))
    tokenizer.backend_tokenizer.post_processor = None
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("layer", [-1, -2, 0, 3])
def test_states_of_a_causal_language_model_are_its_hidden_states(decoder_folder: Path, layer: int) -> None:
    encoder = TextEncoder.load(str(decoder_folder), layer=layer)
    model = AutoModelForCausalLM.from_pretrained(decoder_folder).eval()
    tokens = encoder.tokenizer("two blue stars", return_tensors="pt").input_ids
    with torch.no_grad():
        expected = model(tokens, output_hidden_states=True).hidden_states[layer][0].numpy()
    (states,) = encoder.encode(["two blue stars"])
    assert (encoder.width, len(states)) == (24, tokens.shape[1])
    np.testing.assert_allclose(states, expected, atol=1e-5)


def test_a_caption_of_no_tokens_has_one_state(decoder_folder: Path) -> None:
    assert TextEncoder.load(str(decoder_folder)).encode([""])[0].shape == (1, 24)


def test_a_missing_layer_is_refused_with_the_layers_there_are(decoder_folder: Path) -> None:
    with pytest.raises(TextEncoderError, match="found text layer -5; 3 layers give states -4 to 3"):
        TextEncoder.load(str(decoder_folder), layer=-5)


def test_a_whole_t5_gives_the_states_of_its_encoder(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = T5Config(vocab_size=300, d_model=16, d_kv=4, d_ff=24, num_layers=2, num_heads=2)
    T5ForConditionalGeneration(config).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(resolve("zoo:t5")).save_pretrained(tmp_path)
    encoder = TextEncoder.load(str(tmp_path), layer=-2)
    tokens = encoder.tokenizer("a red circle", return_tensors="pt").input_ids
    whole = T5ForConditionalGeneration.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        expected = whole.encoder(tokens, output_hidden_states=True).hidden_states[-2][0].numpy()
    np.testing.assert_allclose(encoder.encode(["a red circle"])[0], expected, atol=1e-5)


def test_arithmetic_in_bf16_stays_near_that_in_fp32() -> None:
    exact, rounded = (TextEncoder.load("zoo:t5", dtype=dtype) for dtype in (torch.float32, torch.bfloat16))
    assert next(rounded.model.parameters()).dtype == torch.bfloat16
    a, b = exact.encode(["a red circle"])[0], rounded.encode(["a red circle"])[0]
    assert b.dtype == np.float32 and 0 < np.abs(a - b).max() < 0.1 * np.abs(a).max()


def test_pickled_weights_are_never_loaded(tmp_path: Path) -> None:
    model = T5EncoderModel.from_pretrained(resolve("zoo:t5"))
    model.config.save_pretrained(tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(OSError, match="safetensors"):
        TextEncoder.load(str(tmp_path))


def test_captions_longer_than_the_limit_are_counted():
    encoder = TextEncoder.load("zoo:t5", max_length=4)
    captions = ["a red circle", "four red stars there", "a photo of a blue square", ""]
    assert encoder.count_truncated(captions) == 2  # a word is a token, and one marks the end
    assert [len(states) for states in encoder.encode(captions)] == [4, 4, 4, 1]
    assert encoder.count_truncated([]) == 0
