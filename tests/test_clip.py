"""The CLIP: unit vectors, and pictures prepared as open_clip itself would, in batches."""

from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image

from lightgen_core.clip import Clip, ClipError, resized
from lightgen_core.config import World
from lightgen_core.zoo.paths import resolve
from lightgen_core.zoo.teaching import pictures


@pytest.fixture(scope="module")
def clip() -> Clip:
    return Clip.load("zoo:clip")


def test_embeddings_are_unit_vectors_of_one_width(clip: Clip) -> None:
    images = clip.embed_images(pictures(World(), 5, np.random.default_rng(0)))
    texts = clip.embed_texts(["a red circle", "four stars"])
    assert images.shape == (5, clip.width) and texts.shape == (2, clip.width)
    assert images.dtype == texts.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(np.concatenate([images, texts]), axis=1), 1, atol=1e-5)


def test_embeddings_equal_those_of_open_clip_on_single_pil_images(clip: Clip) -> None:
    batch = pictures(World(image_size=96), 4, np.random.default_rng(1))
    model, _, prepare = open_clip.create_model_and_transforms(f"local-dir:{resolve('zoo:clip')}")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{resolve('zoo:clip')}")
    model.eval()
    with torch.no_grad():
        images = [model.encode_image(prepare(Image.fromarray(p))[None], normalize=True)[0].numpy() for p in batch]
        text = model.encode_text(tokenizer(["two crosses"]), normalize=True).numpy()
    np.testing.assert_allclose(clip.embed_images(batch), np.stack(images), atol=0.01)
    np.testing.assert_allclose(clip.embed_texts(["two crosses"]), text, atol=1e-5)


def test_an_embedding_does_not_depend_on_its_batch(clip: Clip) -> None:
    batch = pictures(World(), 7, np.random.default_rng(2))
    alone = np.concatenate([clip.embed_images(batch[i : i + 1]) for i in range(7)])
    np.testing.assert_allclose(clip.embed_images(batch), alone, atol=1e-5)


@pytest.mark.parametrize("mode", ["shortest", "longest", "squash"])
@pytest.mark.parametrize("side", [48, 96, 224])
def test_resizing_in_batches_equals_pil_within_two_levels(mode: str, side: int) -> None:
    coarse = np.random.default_rng(0).integers(0, 256, (10, 16, 3))
    picture = np.kron(coarse, np.ones((8, 8, 1))).astype(np.uint8)
    asked = PreprocessCfg(size=side, mean=(0,) * 3, std=(1,) * 3, interpolation="bicubic", resize_mode=mode)
    expected = image_transform_v2(asked, is_train=False)(Image.fromarray(picture)).numpy() * 255
    found = resized(torch.from_numpy(picture)[None].permute(0, 3, 1, 2), [side, side], asked)[0].numpy()
    assert np.abs(found - expected).max() <= 2.001


def test_pictures_that_are_not_uint8_are_refused(clip: Clip) -> None:
    with pytest.raises(ClipError, match=r"torch.float32 \(1, 48, 48, 3\), expected uint8"):
        clip.embed_images(np.zeros((1, 48, 48, 3), np.float32))


def test_an_unknown_model_is_refused_with_what_is_expected(tmp_path: Path) -> None:
    with pytest.raises(ClipError, match=r"expected zoo:clip, a folder with open_clip_config.json, or MODEL/PRETRAINED"):
        Clip.load("no-such-model/tag")
    with pytest.raises(ClipError, match="the pretrained tags of ViT-B-32 are openai"):
        Clip.load("ViT-B-32/no-such-tag")
    with pytest.raises(ClipError, match=r"no open_clip_config.json"):
        Clip.load(str(tmp_path))
