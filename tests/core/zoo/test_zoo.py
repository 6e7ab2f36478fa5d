"""The zoo: how good its trained models are, how they are found, and that the commands that made them still work."""

import json
import re
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from open_clip.push_to_hf_hub import save_for_hf
from torch.nn import functional

from lightgen_core.encoders.autoencoder import LatentCodec
from lightgen_core.encoders.clip import Clip
from lightgen_core.encoders.model_ref import MODELS, ModelNotFound, resolve
from lightgen_core.encoders.text_encoder import TextEncoder
from lightgen_core.scene.config import World
from lightgen_core.scene.grammar import meanings, parse, phrasings
from lightgen_core.scene.split import split
from lightgen_core.scene.vocabulary import CATEGORIES, COLORS, SHAPES
from lightgen_core.zoo import train_autoencoder, train_clip, train_t5
from lightgen_core.zoo.captioned import Captioned, make_dataset
from lightgen_core.zoo.quality import WORLDS, latent_spread, probe, reconstruction, retrieval_accuracy
from lightgen_core.zoo.tokenizer import make_tokenizer, unknown_words
from lightgen_core.zoo.training import full_world, mirrored, seen_meanings

FOLDERS = [Path(resolve(f"zoo:{name}")) for name in MODELS]


@pytest.fixture(scope="module")
def codec() -> LatentCodec:
    return LatentCodec.load("zoo:autoencoder")


@pytest.mark.parametrize("name", ["default", "every word", "free", "64 px"])
def test_reconstructions_score_at_least_098(codec: LatentCodec, name: str) -> None:
    scores = reconstruction(codec, WORLDS[name], 180, np.random.default_rng(1))
    assert set(scores) == {*CATEGORIES, "overall"}
    assert scores["overall"] >= 0.98


def test_reconstructions_survive_noise_of_a_third_deviation(codec: LatentCodec) -> None:
    """A third of the latents' standard deviation."""
    assert reconstruction(codec, World(), 120, np.random.default_rng(2), noise=0.33)["overall"] >= 0.98


def test_latents_have_mean_zero_and_deviation_one(codec: LatentCodec) -> None:
    spread = latent_spread(codec, World(), 200, np.random.default_rng(3))
    assert abs(spread["mean"]) < 0.1 and abs(spread["deviation"] - 1) < 0.1


def test_a_48_px_image_is_nine_tokens_of_64_values(codec: LatentCodec) -> None:
    latents = codec.encode(np.full((1, 48, 48, 3), 200, np.uint8))
    assert latents.shape == (1, 16, 6, 6) and latents.size == 9 * 64


def test_clip_picks_the_caption_of_nine_in_ten_held_out_images() -> None:
    """It picks one caption of 50."""
    assert retrieval_accuracy(Clip.load("zoo:clip"), World(), 180, np.random.default_rng(4)) >= 0.9


@pytest.mark.parametrize(("category", "least"), [("position", 0.95), ("color_attr", 0.98)])
def test_frozen_text_states_encode_relation_and_binding(category: str, least: float) -> None:
    """Probed on held-out captions."""
    assert probe(TextEncoder.load("zoo:t5"), World(), category, np.random.default_rng(5), steps=400) > least


def test_every_word_of_the_grammar_is_one_token() -> None:
    tokenizer = make_tokenizer()
    captions = [caption for meaning in meanings(full_world())[::37] for caption in phrasings(meaning)[::11]]
    assert all(len(tokenizer(caption).input_ids) == len(caption.split()) + 1 for caption in captions)


@pytest.mark.parametrize(
    ("caption", "unknown"),
    [
        ("a red circle above a blue square", []),
        ("A photo of a CAT, two zebras, and a cat.", ["cat", "zebras"]),
        ("ein roter Kreis", ["ein", "roter", "kreis"]),
        ("two 3 x", []),  # a character alone is a token of its own
        ("赤い circle", ["赤い"]),
    ],
)
def test_words_outside_the_grammar_are_found(caption: str, unknown: list[str]) -> None:
    assert unknown_words(make_tokenizer(), caption) == unknown


def test_shipped_tokenizers_are_the_one_that_is_built() -> None:
    built = make_tokenizer()
    for name in ("t5", "clip"):
        shipped = json.loads((Path(resolve(f"zoo:{name}")) / "tokenizer.json").read_text())
        assert shipped["model"]["vocab"] == built.get_vocab()


def test_no_text_encoder_sees_what_a_world_holds_out() -> None:
    """This holds for any world of the vocabulary's first words."""
    seen = set(seen_meanings())
    for colors, shapes in ((6, 5), (10, 7), (4, 3), (3, 4)):
        hidden = split(World(colors=tuple(COLORS)[:colors], shapes=SHAPES[:shapes]))[1]
        assert not seen & set(hidden)
    assert {meaning.category for meaning in seen} == set(CATEGORIES)


def test_the_mirror_of_a_meaning_exchanges_sides_or_colours() -> None:
    mirrors = {
        "a star left of a cross": "a cross left of a star",
        "a red star and a blue cross": "a blue star and a red cross",
        "a star and a cross": "a star and a cross",
        "three stars": "three stars",
    }
    assert {caption: mirrored(parse(caption)) for caption in mirrors} == {c: parse(m) for c, m in mirrors.items()}


def test_the_zoo_takes_at_most_twelve_megabytes() -> None:
    assert sum(path.stat().st_size for folder in FOLDERS for path in folder.rglob("*")) <= 12e6


def test_saved_configurations_hold_no_path_of_a_machine() -> None:
    for path in (path for folder in FOLDERS for path in folder.glob("*.json")):
        assert not re.search(r'"/\w|/home/|/tmp/|[A-Z]:\\\\', path.read_text()), path


def test_weights_are_safetensors_alone() -> None:
    endings = {path.suffix for folder in FOLDERS for path in folder.iterdir()}
    assert endings == {".json", ".safetensors"}


def test_an_unknown_zoo_model_is_refused() -> None:
    with pytest.raises(
        ModelNotFound, match=r"'zoo:vae'; the zoo has zoo:autoencoder, zoo:autoencoder-general, zoo:clip, "
    ):
        resolve("zoo:vae")


def test_training_the_autoencoder_is_repeatable(tmp_path: Path) -> None:
    """It saves a model that the codec loads."""
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (4, 3, 32, 32), dtype=np.uint8))
    biases = []
    for _ in range(2):
        torch.manual_seed(0)
        model = train_autoencoder.make_model()
        center = train_autoencoder.train(model, [train_autoencoder.Pool(images, 1.0)], steps=2, seed=0)
        train_autoencoder.fold(model.eval(), center, images)
        biases.append(model.encoder.conv_out.bias.detach().clone())
    assert torch.equal(*biases)
    model.half().save_pretrained(tmp_path)
    latents = LatentCodec.load(str(tmp_path)).encode(images.permute(0, 2, 3, 1))
    assert abs(np.sqrt((latents**2).mean()) - 1) < 0.01


@pytest.fixture(scope="module")
def dataset() -> Captioned:
    few = [meaning for i, meaning in enumerate(seen_meanings()) if meaning.category != "color_attr" or i % 20 == 0]
    return make_dataset(make_tokenizer(), few, seed=0, scale=0.01, phrasings=2)


def test_every_image_of_a_lesson_shows_its_caption(dataset: Captioned) -> None:
    assert dataset.truth[torch.arange(len(dataset.meaning_ids)), dataset.meaning_ids].all()
    assert 1 < dataset.truth.float().sum(1).mean() < 10


def test_training_clip_moves_every_weight(dataset: Captioned, tmp_path: Path) -> None:
    """It saves a model that open_clip loads."""
    tokenizer = make_tokenizer()
    torch.manual_seed(0)
    model = train_clip.make_model(len(tokenizer))
    before = {name: value.clone() for name, value in model.named_parameters()}
    train_clip.train(model, dataset, steps=1, seed=0)
    assert [name for name, value in model.named_parameters() if torch.equal(before[name], value)] == []
    save_for_hf(model, tokenizer, train_clip.model_config(len(tokenizer)), str(tmp_path), safe_serialization=True)
    assert Clip.load(str(tmp_path)).width == train_clip.EMBEDDING


def test_training_t5_moves_every_weight(dataset: Captioned, tmp_path: Path) -> None:
    """It saves a model that transformers loads."""
    tokenizer = make_tokenizer()
    torch.manual_seed(0)
    towers = train_t5.Towers(len(tokenizer), embedding=8)
    before = {name: value.clone() for name, value in towers.named_parameters()}
    locked = functional.normalize(torch.randn(len(dataset.images), 8), dim=-1)
    seen, rng = frozenset(seen_meanings()), np.random.default_rng(0)
    compounds = partial(train_t5.sample_compounds, make_tokenizer(), seen, rng)
    train_t5.train(towers, dataset, compounds, locked, torch.tensor(10.0), steps=1, seed=0)
    assert [name for name, value in towers.named_parameters() if torch.equal(before[name], value)] == []
    towers.t5.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    assert TextEncoder.load(str(tmp_path)).encode(["a star"])[0].shape == (3, train_t5.WIDTH)


def test_t5s_heads_start_out_looking_at_neighbours_and_sides() -> None:
    attention = train_t5.Towers(8, embedding=4).t5.encoder.block[0].layer[0].SelfAttention
    bias = attention.compute_bias(5, 5)[0]  # (heads, queries, keys)
    assert bias[:, 2].argmax(1).tolist()[:2] == [1, 3]
    assert (bias[2, 2] >= -0.1).tolist() == [True, True, False, False, False]
    assert (bias[3, 2] >= -0.1).tolist() == [False, False, False, True, True]


def test_true_pairs_are_not_held_against_each_other() -> None:
    """Two images, three captions; image 0 has two true ones. By hand: softplus(false score - true score)."""
    images = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    texts = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    truth = torch.tensor([[True, True, False], [False, False, True]])
    one = np.log1p(np.exp(-1.0))
    by_image = (one + np.log1p(2 * np.exp(-1.0))) / 2
    loss = train_clip.contrastive(images, texts, truth, torch.tensor(1.0))
    assert loss.item() == pytest.approx((by_image + one) / 2, abs=1e-6)
