"""The stages embeddings, dedup and tokens with components, images and captions other than the zoo's."""

import datetime
import json
import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from diffusers import AutoencoderKL
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from flows.load import load_recipe
from lightgen_core.data.batches import DataError, TokenSource
from lightgen_core.dedup.score_filter import clip_score_mask
from lightgen_core.encoders.autoencoder import LatentCodec
from lightgen_core.encoders.model_ref import resolve
from lightgen_core.encoders.text_encoder import TextEncoder
from lightgen_core.images.codec import encode_png
from lightgen_core.images.flip import is_flip_safe
from lightgen_core.sampling.text_to_image import TextToImage
from lightgen_core.scene.config import World
from lightgen_core.scene.grammar import phrasings
from lightgen_core.scene.split import split
from storage.artifact import Artifact
from storage.open_store import open_store
from storage.store import Store
from storage.tables import layout_metadata, read_table, schema, to_parquet
from tasks.config.settings import Settings
from tasks.context.context import StageContext
from tasks.dedup import dedup
from tasks.embeddings import embeddings
from tasks.stage import Stage, stage
from tasks.synthesis import FIELDS
from tasks.tokens import tokens
from tests.factories.made_stages import make_until

CAPTIONS = ["a red circle", "a star to the left of a ring", "a red circle", 'a sign that says "stop"', "two crosses"]


def image(seed: int, height: int = 32, width: int = 32) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def rows_of(captions: list[str], pictures: list[np.ndarray], first: int = 0) -> pa.Table:
    ids = list(range(first, first + len(captions)))
    columns = {
        "id": ids,
        "image": [
            {"bytes": encode_png(each), "path": f"{number}.png"} for number, each in zip(ids, pictures, strict=True)
        ],
        "caption": captions,
        "topic": ["all"] * len(ids),
        "meaning": captions,
        "caption_id": ids,
        "seed": ids,
        "source": ["test"] * len(ids),
        "sha256": [f"{number:064x}" for number in ids],
    }
    return pa.table(columns, schema(FIELDS))


def made(what: Stage, store: Store, recipe, *inputs: Artifact) -> Artifact:
    artifact = what.artifact(recipe, store, inputs)
    what.run(recipe, Settings(), inputs, artifact, remake_before=datetime.datetime.now(datetime.UTC))
    return artifact


def drawn(store: Store, recipe, *shards: pa.Table) -> Artifact:
    """A synthesis artifact of these shards."""

    @stage(version=1, config_sections=())
    def synthesis(ctx: StageContext) -> None:
        for number, shard in enumerate(shards):
            ctx.write_table(f"images-{number:05d}.parquet", shard)

    return made(synthesis, store, recipe)


@pytest.fixture
def store(tmp_path):
    return open_store(str(tmp_path / "store"))


def test_scene_captions_are_mirrored_unless_they_name_a_side():
    """Left or right."""
    for meaning in split(World())[0]:
        for caption in phrasings(meaning):
            sided = bool(re.search(r"\b(left|right)\b", caption))
            assert is_flip_safe(caption) is not sided
            assert sided or meaning.relation not in ("left of", "right of")


@pytest.mark.parametrize(
    "caption", ["A clock on the wall", "Left-handed guitar", "a sign", "“hello” on a cup", "EAST gate"]
)
def test_captions_whose_image_is_wrong_in_a_mirror_stay(caption):
    assert not is_flip_safe(caption)


@pytest.mark.parametrize("caption", ["a bright copyright-free cat", "swords and a wordless crowd", "leftovers"])
def test_words_that_only_contain_such_a_word_are_mirrored(caption):
    assert is_flip_safe(caption)


def test_a_mirrored_row_has_the_latents_of_the_mirrored_image(store):
    recipe = load_recipe("smoke", ["tokens.flip=true", "tokens.batch_size=2"])
    pictures = [image(seed) for seed in range(5)]
    found = made(tokens, store, recipe, drawn(store, recipe, rows_of(CAPTIONS, pictures)))
    rows = read_table(found, "^tokens").to_pylist()
    assert [(row["id"], row["flipped"]) for row in rows] == [
        *((number, False) for number in range(5)),
        *((number, True) for number in (0, 2, 4)),
    ]
    codec = LatentCodec.load("zoo:autoencoder")
    for row in rows:
        shown = pictures[row["id"]][:, ::-1] if row["flipped"] else pictures[row["id"]]
        stored = np.frombuffer(row["latents"], np.float16).reshape(16, 4, 4)
        np.testing.assert_allclose(stored, codec.encode(shown[None].copy())[0], atol=2e-3)
    texts = read_table(found, "^text").to_pylist()
    assert [(text["id"], text["caption"]) for text in texts] == list(enumerate(CAPTIONS))
    assert {row["id"]: row["caption_id"] for row in rows} == {text["id"]: text["id"] for text in texts}
    assert found.manifest().counts == {"rows": 8, "captions_encoded": 5, "captions_truncated": 0}


@pytest.mark.parametrize(("length", "truncated"), [(64, 0), (4, 2)])
def test_captions_cut_at_the_limit_are_counted(store, caplog, length, truncated):
    recipe = load_recipe("smoke", [f"tokens.max_text_tokens={length}"])
    pictures = [image(seed) for seed in range(5)]
    caplog.set_level("INFO")
    found = made(tokens, store, recipe, drawn(store, recipe, rows_of(CAPTIONS, pictures)))
    assert found.manifest().counts["captions_truncated"] == truncated
    line = f"tokens: {truncated} captions cut at {length} text tokens; see tokens.max_text_tokens"
    assert caplog.messages.count(line) == (truncated > 0)


def test_images_of_two_sizes_are_refused_naming_the_odd_one(store):
    recipe = load_recipe("smoke")
    pictures = [image(0), image(1), image(2, 32, 48), image(3), image(4)]
    with pytest.raises(ValueError, match="image 2 has 32 x 48 px, those before it 32 x 32 px"):
        made(tokens, store, recipe, drawn(store, recipe, rows_of(CAPTIONS, pictures)))


def test_the_lowest_scores_go_and_of_equal_ones_the_largest_id():
    score, ids = np.array([0.3, 0.1, 0.1, 0.2], np.float32), np.array([7, 5, 6, 4])
    assert clip_score_mask(score, ids, None, 0.0).tolist() == [True] * 4
    assert clip_score_mask(score, ids, None, 0.25).tolist() == [True, True, False, True]
    assert clip_score_mask(score, ids, 0.15, 0.0).tolist() == [True, False, False, True]
    with pytest.raises(ValueError, match=r"scores lie between 0.100 and 0.300, and dedup.min_clip_score is 0.9"):
        clip_score_mask(score, ids, 0.9, 0.0)


def test_an_image_with_a_low_score_goes_and_hides_no_other(store):
    """Image 1 is a copy of 0 with the lower score of the two; 2 shows its caption least and is nobody's copy."""

    @stage(version=1, config_sections=())
    def embeddings(ctx: StageContext) -> None:
        vectors = pa.FixedSizeListArray.from_arrays(np.eye(4, dtype=np.float32)[[0, 0, 1, 2, 3]].ravel(), 4)
        score = np.array([0.3, 0.2, 0.1, 0.4, 0.4], np.float32)
        columns = {"id": list(range(5)), "image": vectors, "score": score, "pixels": list("abcde")}
        ctx.write_table("embeddings-00000.parquet", pa.table(columns))

    recipe = load_recipe("smoke", ["dedup.drop_lowest_fraction=0.2"])
    captions = ["a", "a", "b", "c", "d"]
    given = drawn(store, recipe, rows_of(captions, [image(k) for k in range(5)]))
    found = made(dedup, store, recipe, given, made(embeddings, store, recipe))
    rows = read_table(found, "^keep").to_pylist()
    assert [row["reason"] for row in rows] == [None, "near duplicate", "low text-image score", None, None]
    assert [row["duplicate_of"] for row in rows] == [None, 0, None, None, None]
    assert found.manifest().metrics["reasons"] == {"near duplicate": 1, "low text-image score": 1}
    assert found.manifest().counts == {"rows": 5, "kept": 3, "dropped": 2}


@pytest.mark.parametrize(("compare", "kept"), [("all", [0, 2]), ("meaning", [0, 1, 2])])
def test_copies_under_other_captions_go(store, compare, kept):
    """The files' own checksums differ; where a meaning is certain, the recipe may leave other meanings alone."""
    recipe = load_recipe("smoke", [f"dedup.compare={compare}"])
    given = drawn(store, recipe, rows_of(["a boat", "a drum", "a lemon"], [image(0), image(0), image(1)]))
    found = made(dedup, store, recipe, given, made(embeddings, store, recipe, given))
    rows = read_table(found, "^keep").to_pylist()
    assert sum(row["kept"] for row in rows) == len(kept) and rows[2]["kept"]
    assert found.manifest().metrics["reasons"] == ({"exact copy": 1} if compare == "all" else {})


def test_embeddings_hold_the_cosine_of_image_and_caption(store):
    """The images may have any size."""
    recipe = load_recipe("smoke")
    given = drawn(store, recipe, rows_of(CAPTIONS, [image(k, 32 + 16 * (k % 2), 40) for k in range(5)]))
    rows = read_table(made(embeddings, store, recipe, given), "^embeddings").to_pylist()
    for row in rows:
        assert row["score"] == pytest.approx(np.dot(row["image"], row["text"]), abs=1e-6)
    assert rows[0]["text"] == rows[2]["text"] and rows[0]["image"] != rows[2]["image"]


@pytest.fixture(scope="module")
def components(tmp_path_factory):
    """An AutoencoderKL with shift and scale, and a small Llama: random weights."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("components")
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
    sizes = {"block_out_channels": (8, 8, 8, 16), "latent_channels": 4, "norm_num_groups": 4}
    AutoencoderKL(**blocks, **sizes, shift_factor=0.0609, scaling_factor=1.5305).save_pretrained(folder / "vae")
    config = LlamaConfig(
        vocab_size=300, hidden_size=24, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32
    )
    LlamaForCausalLM(config).save_pretrained(folder / "llama")
    AutoTokenizer.from_pretrained(resolve("zoo:t5")).save_pretrained(folder / "llama")
    return folder


def test_a_student_of_kl_and_llama_components_trains_and_samples(store, components):
    recipe = load_recipe(
        "smoke",
        [
            f"tokens.codec={components / 'vae'}",
            "tokens.codec_precision=bf16",
            f"tokens.text_encoder={components / 'llama'}",
            "tokens.text_layer=-2",
            "tokens.dtype=bfloat16",
            "pretrain.steps=2",
            "captions.count=30",
            "synthesis.count=40",
        ],
    )
    places = make_until(store, recipe, "pretrain")
    table = read_table(places["tokens"], "^tokens")
    assert layout_metadata(table.schema) == {
        "dtype": "bfloat16",
        "channels": 4,
        "height": 6,
        "width": 6,
    }
    texts = read_table(places["tokens"], "^text")
    assert layout_metadata(texts.schema) == {"dtype": "bfloat16", "text_width": 24}
    row = texts.slice(0, 1).to_pylist()[0]
    (states,) = TextEncoder.load(str(components / "llama"), layer=-2).encode([row["caption"]])
    stored = torch.frombuffer(bytearray(row["text"]), dtype=torch.bfloat16).float().view(-1, 24)
    np.testing.assert_allclose(stored.numpy(), states, rtol=0.01, atol=1e-3)
    folder = store.local_path(f"{places['pretrain'].path}/student")
    info = json.loads((folder / "config.json").read_text())["info"]
    assert (info["text_layer"], info["codec_precision"], info["text_precision"]) == (-2, "bf16", "fp32")
    student = TextToImage.load(folder, torch.device("cpu"))
    assert (student.text_encoder.layer, student.codec.model.dtype) == (-2, torch.bfloat16)
    assert student.sample(["a red circle"], [0], sampler=recipe.sampler).images.shape == (1, 48, 48, 3)


def test_training_reads_the_rows_that_dedup_keeps(store):
    """A shard of which nothing stays, and text of a file of its own."""
    recipe = load_recipe("smoke")
    shards = [
        rows_of(CAPTIONS[:2], [image(0), image(1)]),
        rows_of(CAPTIONS[2:], [image(k) for k in (2, 3, 4)], 2),
    ]
    found = made(tokens, store, recipe, drawn(store, recipe, *shards))
    files, texts = ([store.local_path(f"{found.path}/{name}") for name in found.names(p)] for p in ("^tokens", "^text"))
    options = {"patch": 2, "batch_size": 3, "seed": 0, "texts": texts}
    source = TokenSource(files, keep=np.array([2, 3, 4]), **options)
    assert source.rows == 3
    batch = source.batch(0)
    assert sorted(batch.ids) == [2, 3, 4]
    lengths = dict(enumerate(read_table(found, "^text")["text_length"].to_pylist()))
    assert batch.text_mask.sum(dim=1).tolist() == [lengths[number] for number in batch.ids.tolist()]
    for keep, message in (([2, 9], "image 9 is to be kept and is in no token file"), ([], "dedup stage dropped")):
        with pytest.raises(DataError, match=message):
            TokenSource(files, keep=np.array(keep, np.int64), **options)
    with pytest.raises(DataError, match="the text of caption 0 is in no file of texts"):
        TokenSource(files, **(options | {"texts": texts_without_the_first(texts[0])}))


def texts_without_the_first(file):
    """The file of text states, without its first row."""
    table = pq.read_table(file)
    shorter = file.with_name("shorter.parquet")
    shorter.write_bytes(to_parquet(table.slice(1)))
    return [shorter]
