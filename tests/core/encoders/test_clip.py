"""The CLIP: unit vectors, and images prepared as open_clip itself would, in batches."""

import copy
import json
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from lightgen_core.encoders.clip import Clip, ClipError, resized
from lightgen_core.encoders.model_ref import resolve
from lightgen_core.scene.config import World
from lightgen_core.zoo.training import render_images


@pytest.fixture(scope="module")
def clip() -> Clip:
    return Clip.load("zoo:clip")


def test_embeddings_are_unit_vectors_of_one_width(clip: Clip) -> None:
    images = clip.embed_images(render_images(World(), 5, np.random.default_rng(0)))
    texts = clip.embed_texts(["a red circle", "four stars"])
    assert images.shape == (5, clip.width) and texts.shape == (2, clip.width)
    assert images.dtype == texts.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(np.concatenate([images, texts]), axis=1), 1, atol=1e-5)


def test_embeddings_equal_open_clips_of_single_pil_images(clip: Clip) -> None:
    batch = render_images(World(image_size=96), 4, np.random.default_rng(1))
    model, _, prepare = open_clip.create_model_and_transforms(f"local-dir:{resolve('zoo:clip')}")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{resolve('zoo:clip')}")
    model.eval()
    with torch.no_grad():
        images = [model.encode_image(prepare(Image.fromarray(p))[None], normalize=True)[0].numpy() for p in batch]
        text = model.encode_text(tokenizer(["two crosses"]), normalize=True).numpy()
    np.testing.assert_allclose(clip.embed_images(batch), np.stack(images), atol=0.01)
    np.testing.assert_allclose(clip.embed_texts(["two crosses"]), text, atol=1e-5)


def test_an_embedding_does_not_depend_on_its_batch(clip: Clip) -> None:
    batch = render_images(World(), 7, np.random.default_rng(2))
    alone = np.concatenate([clip.embed_images(batch[i : i + 1]) for i in range(7)])
    np.testing.assert_allclose(clip.embed_images(batch), alone, atol=1e-5)


@pytest.mark.parametrize("mode", ["shortest", "longest", "squash"])
@pytest.mark.parametrize("side", [48, 96, 224])
def test_resizing_in_batches_equals_pil_within_two_levels(mode: str, side: int) -> None:
    coarse = np.random.default_rng(0).integers(0, 256, (10, 16, 3))
    image = np.kron(coarse, np.ones((8, 8, 1))).astype(np.uint8)
    asked = PreprocessCfg(size=side, mean=(0,) * 3, std=(1,) * 3, interpolation="bicubic", resize_mode=mode)
    expected = image_transform_v2(asked, is_train=False)(Image.fromarray(image)).numpy() * 255
    found = resized(torch.from_numpy(image)[None].permute(0, 3, 1, 2), [side, side], asked)[0].numpy()
    assert np.abs(found - expected).max() <= 2.001


def test_images_that_are_not_uint8_are_refused(clip: Clip) -> None:
    with pytest.raises(ClipError, match=r"torch.float32 \(1, 48, 48, 3\), expected uint8"):
        clip.embed_images(np.zeros((1, 48, 48, 3), np.float32))


def test_an_unknown_model_is_refused_with_what_is_expected(tmp_path: Path) -> None:
    with pytest.raises(
        ClipError, match=r"expected zoo:clip, a folder with open_clip_config.json, MODEL/PRETRAINED such as"
    ):
        Clip.load("no-such-model/tag")
    with pytest.raises(ClipError, match="the pretrained tags of ViT-B-32 are openai"):
        Clip.load("ViT-B-32/no-such-tag")
    with pytest.raises(ClipError, match=r"no open_clip_config.json"):
        Clip.load(str(tmp_path))


PLAIN = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "patch_size": 8, "width": 24, "layers": 1, "head_width": 12},
    "text_cfg": {"context_length": 12, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}
CUSTOM = PLAIN | {"custom_text": True}
SIGLIP = {
    "embed_dim": 16,
    "init_logit_bias": -10,
    "custom_text": True,
    "vision_cfg": {"image_size": 32, "patch_size": 8, "width": 16, "layers": 1, "head_width": 8, "pool_type": "avg"},
    "text_cfg": {
        "context_length": 12,
        "vocab_size": 300,
        "hf_tokenizer_name": "lightgen-scene",
        "tokenizer_kwargs": {"clean": "canonicalize"},
        "width": 16,
        "heads": 2,
        "layers": 1,
        "no_causal_mask": True,
        "proj_bias": True,
        "pool_type": "last",
    },
}
CONFIGS = {"plain": PLAIN, "custom": CUSTOM, "siglip": SIGLIP}


@pytest.fixture(scope="module", params=CONFIGS)
def random_folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An open_clip model of random weights, saved as open_clip's push_to_hub lays it out."""
    folder = tmp_path_factory.mktemp(request.param)
    cfg = copy.deepcopy(CONFIGS[request.param])
    torch.manual_seed(0)
    model = (open_clip.CustomTextCLIP if cfg.pop("custom_text", False) else open_clip.CLIP)(**cfg)
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    preprocess = {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic", "resize_mode": "squash"}
    config = {"model_cfg": CONFIGS[request.param], "preprocess_cfg": preprocess}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    AutoTokenizer.from_pretrained(resolve("zoo:t5")).save_pretrained(folder)
    return folder


def test_models_of_several_architectures_embed_as_open_clip_does(random_folder: Path) -> None:
    clip = Clip.load(str(random_folder))
    batch = render_images(World(), 3, np.random.default_rng(0))
    model, _, prepare = open_clip.create_model_and_transforms(f"local-dir:{random_folder}")
    tokens = open_clip.get_tokenizer(f"local-dir:{random_folder}")(["two crosses", "a star"])
    with torch.no_grad():
        images = model.eval().encode_image(torch.stack([prepare(Image.fromarray(p)) for p in batch]), normalize=True)
        texts = model.encode_text(tokens, normalize=True)
    assert clip.width == 16
    np.testing.assert_allclose(clip.embed_images(batch), images.numpy(), atol=0.01)
    np.testing.assert_allclose(clip.embed_texts(["two crosses", "a star"]), texts.numpy(), atol=1e-5)


@pytest.fixture
def listed(tmp_path: Path) -> Path:
    """An architecture that open_clip lists, "lightgen-test", and a file of weights for it."""
    (tmp_path / "lightgen-test.json").write_text(json.dumps(PLAIN))
    open_clip.add_model_config(tmp_path / "lightgen-test.json")
    torch.manual_seed(1)
    save_file(open_clip.CLIP(**copy.deepcopy(PLAIN)).state_dict(), tmp_path / "weights.safetensors")
    return tmp_path


def test_a_listed_architecture_takes_weights_from_a_file(listed: Path) -> None:
    clip = Clip.load(f"lightgen-test/{listed / 'weights.safetensors'}")
    found = clip.model.state_dict()
    for name, weight in load_file(listed / "weights.safetensors").items():
        torch.testing.assert_close(found[name], weight)


def test_a_file_that_could_run_code_is_not_loaded(listed: Path) -> None:
    torch.save({}, listed / "weights.pt")
    with pytest.raises(ClipError, match="not a safetensors file"):
        Clip.load(f"lightgen-test/{listed / 'weights.pt'}")
    (listed / "open_clip_config.json").write_text("{}")
    torch.save({}, listed / "open_clip_pytorch_model.bin")
    (listed / "weights.safetensors").unlink()
    with pytest.raises(ClipError, match="no weights as safetensors"):
        Clip.load(str(listed))


def test_images_of_several_sizes_are_embedded_as_each_alone(clip: Clip) -> None:
    small, large = (render_images(World(image_size=side), 2, np.random.default_rng(0)) for side in (48, 96))
    mixed = [small[0], large[0], small[1], large[1]]
    alone = np.concatenate([clip.embed_images(image[None]) for image in mixed])
    np.testing.assert_allclose(clip.embed_image_list(mixed), alone, atol=1e-5)


def test_bf16_embeddings_are_near_those_in_fp32(clip: Clip) -> None:
    batch = render_images(World(), 3, np.random.default_rng(0))
    rounded = Clip.load("zoo:clip", precision="bf16").embed_images(batch)
    exact = clip.embed_images(batch)
    assert (rounded * exact).sum(axis=1).min() > 0.995 and (rounded != exact).any()
    np.testing.assert_allclose(np.linalg.norm(rounded, axis=1), 1, atol=1e-6)
