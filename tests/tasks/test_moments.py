"""Mean and standard deviation of latents: what an autoencoder gives, what the tokens stage stores of it."""

import datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from diffusers import AutoencoderKL

from flows.commands.estimate import Rates, estimate
from flows.load import load_recipe
from lightgen_core.data.batches import TokenSource
from lightgen_core.encoders.autoencoder import CodecError, LatentCodec
from lightgen_core.images.codec import encode_png
from storage.artifact import Artifact
from storage.open_store import open_store
from storage.store import Store
from storage.tables import layout_metadata, read_table
from tasks.config.settings import Settings
from tasks.stage import Stage, StageContext, stage
from tasks.tokens import tokens
from tests.factories.made_stages import make_until

PICTURES = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def kl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An AutoencoderKL of stride 8; diffusers clamps its first two channels' log variances, to 20 and to -30."""
    torch.manual_seed(0)
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
    sizes = {"block_out_channels": (8, 8, 8, 16), "latent_channels": 4, "norm_num_groups": 4}
    model = AutoencoderKL(**blocks, **sizes, shift_factor=0.25, scaling_factor=1.5)
    with torch.no_grad():
        model.quant_conv.bias[4:6] = torch.tensor([50.0, -50.0])
    folder = tmp_path_factory.mktemp("kl")
    model.save_pretrained(folder)
    return folder


def of_diffusers(folder: Path, pictures: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of normalised latents, by diffusers' own distribution."""
    values = torch.from_numpy(pictures.copy()).permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.no_grad():
        found = AutoencoderKL.from_pretrained(folder).encode(values).latent_dist
    return ((found.mean - 0.25) * 1.5).numpy(), (found.std * 1.5).numpy()


def test_moments_are_those_of_diffusers_shifted_and_scaled(kl):
    codec = LatentCodec.load(str(kl))
    mean, std = codec.moments(PICTURES)
    expected = of_diffusers(kl, PICTURES)
    np.testing.assert_allclose(mean, expected[0], atol=1e-5)
    np.testing.assert_allclose(std, expected[1], rtol=1e-4)
    np.testing.assert_array_equal(mean, codec.encode(PICTURES))
    assert std[:, 0] == pytest.approx(1.5 * np.exp(10)) and std[:, 1] == pytest.approx(1.5 * np.exp(-15))


def test_an_autoencoder_without_a_distribution_says_so():
    with pytest.raises(CodecError, match="AutoencoderDC gives one latent and no standard deviation"):
        LatentCodec.load("zoo:autoencoder").moments(PICTURES)


def made(what: Stage, store: Store, recipe, *inputs: Artifact) -> Artifact:
    artifact = what.artifact(recipe, store, inputs)
    what.run(recipe, Settings(), inputs, artifact, remake_before=datetime.datetime.now(datetime.UTC))
    return artifact


def encoded(folder: Path, *overrides: str) -> Artifact:
    """The tokens of three images, the second of which may not be mirrored, in two shards."""
    recipe, store = load_recipe("smoke", list(overrides)), open_store(str(folder))
    captions = ["a red circle", "a star to the left of a ring", "two crosses"]

    @stage(version=1, config_sections=())
    def synthesis(ctx: StageContext) -> None:
        for shard, numbers in enumerate(([0, 1], [2])):
            columns = {
                "id": numbers,
                "image": [{"bytes": encode_png(PICTURES[number]), "path": "a.png"} for number in numbers],
                "caption": [captions[number] for number in numbers],
                "caption_id": numbers,
                "sha256": [f"{number:064x}" for number in numbers],
                "topic": ["all"] * len(numbers),
            }
            ctx.write_table(f"images-{shard:05d}.parquet", pa.table(columns))

    return made(tokens, store, recipe, made(synthesis, store, recipe))


def test_the_stage_stores_both_moments_of_images_and_mirrors(tmp_path, kl):
    options = (f"tokens.codec={kl}", "tokens.flip=true", "tokens.dtype=bfloat16", "tokens.batch_size=2")
    found = encoded(tmp_path, *options, "tokens.latents=moments")
    table = read_table(found, "^tokens")
    assert layout_metadata(table.schema)["moments"] is True and len(table) == 5
    for row in table.to_pylist():
        image = PICTURES[row["id"]][:, ::-1] if row["flipped"] else PICTURES[row["id"]]
        for column, expected in zip(("latents", "std"), of_diffusers(kl, image[None]), strict=True):
            stored = torch.frombuffer(bytearray(row[column]), dtype=torch.bfloat16).float().view(4, 4, 4)
            np.testing.assert_allclose(stored.numpy(), expected[0], rtol=0.01, atol=1e-8)
    files, texts = (
        [found.store.local_path(f"{found.path}/{name}") for name in found.names(pattern)]
        for pattern in ("^tokens", "^text")
    )
    source = TokenSource(files, patch=2, batch_size=5, seed=0, texts=texts)
    assert (
        source.moments and len(files) == 2 and source.batch(0).std.shape == source.batch(0).tokens.shape == (5, 4, 16)
    )

    plain = read_table(encoded(tmp_path, *options), "^tokens")
    assert plain.column_names == ["id", "caption_id", "caption", "topic", "sha256", "flipped", "latents"]
    assert "moments" not in layout_metadata(plain.schema) and plain.equals(table.drop_columns("std"))


def test_moments_of_an_autoencoder_without_any_are_refused(tmp_path, monkeypatch):
    """Before an image is encoded."""
    monkeypatch.setattr("lightgen_core.encoders.autoencoder.LatentCodec.encode", None)
    with pytest.raises(ValueError, match=r"tokens\.latents=moments: zoo:autoencoder is an AutoencoderDC"):
        encoded(tmp_path, "tokens.latents=moments")


def test_moments_take_twice_the_disk_of_the_mean(kl):
    mean, moments = (
        estimate(load_recipe("smoke", [f"tokens.codec={kl}", f"tokens.latents={kind}"]), Rates())["stages"]
        for kind in ("mean", "moments")
    )
    more = {row["stage"]: row["bytes"] - plain["bytes"] for row, plain in zip(moments, mean, strict=True)}
    assert more == dict.fromkeys(more, 0) | {"tokens": 480 * 2 * 4 * 6 * 6}


def test_a_student_trains_on_moments_and_tunes_on_pairs_of_means(tmp_path, kl):
    recipe = load_recipe(
        "smoke",
        [
            f"tokens.codec={kl}",
            "tokens.latents=moments",
            "pretrain.steps=2",
            "captions.count=30",
            "synthesis.count=40",
            "pairs.count=4",
            "pairs.kind=teacher",
            "dpo.steps=2",
        ],
    )
    store = open_store(str(tmp_path))
    places = make_until(store, recipe, "dpo")
    images, pairs = read_table(places["tokens"], "^tokens"), read_table(places["pairs"], "^pairs")
    assert layout_metadata(images.schema)["moments"] is True and "moments" not in layout_metadata(pairs.schema)
    means = dict(zip(images["id"].to_pylist(), images["latents"].to_pylist(), strict=True))
    teachers = [row for row in pairs.to_pylist() if row["kind"] == "teacher"]
    assert len(teachers) == 4 and all(row["winner"] == means[row["id"]] for row in teachers)
    assert places["dpo"].manifest().counts["steps"] == 2
