"""A CLIP of two packaged towers under heads of its own."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from lightgen_core.encoders.clip import Clip
from lightgen_core.encoders.packaged import EFFICIENTNETS, MINILM, PackageMissing
from lightgen_core.encoders.two_towers import CONFIG, HEADS, TwoTowers, TwoTowersConfig

TOWER = "tf_efficientnet_lite1"

try:
    MINILM.file(), EFFICIENTNETS[TOWER].file()
except PackageMissing as error:
    pytest.skip(f"towers: {error}", allow_module_level=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a folder with heads that were never trained."""
    config = TwoTowersConfig(
        image_tower=TOWER,
        image_sha256=EFFICIENTNETS[TOWER].sha256,
        text_sha256=MINILM.sha256,
        image_size=64,
        width=32,
        hidden=48,
        max_text_tokens=12,
    )
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("clip")
    save_file({name: value.half() for name, value in TwoTowers(config).heads().state_dict().items()}, path / HEADS)
    (path / CONFIG).write_text(json.dumps(config.model_dump()))
    return path


def test_vectors_are_units_and_do_not_depend_on_the_batch(folder):
    clip = Clip.load(str(folder), batch_size=4, fill_batches=True)
    images = list(np.random.default_rng(0).integers(0, 256, (5, 50, 70, 3), dtype=np.uint8))
    vectors, captions = clip.embed_image_list(images), ["a cat", "two red apples on a table", "a cat", "x " * 100]
    assert (clip.width, vectors.shape) == (32, (5, 32))
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert (clip.embed_image_list(images[3:])[0] == vectors[3]).all()
    texts = clip.embed_texts(captions)
    assert (texts[0] == texts[2]).all()
    assert not np.allclose(texts[0], texts[1])
    assert np.isfinite(texts).all(), "a caption beyond the longest is cut"


def test_padding_does_not_change_a_caption(folder):
    """The mean is over the caption's own tokens."""
    clip = Clip.load(str(folder))
    tokens = clip.tokenizer(["a cat"])
    short = tokens[:, : int((tokens != 0).sum())]
    with torch.inference_mode():
        assert torch.allclose(clip.model.encode_text(short), clip.model.encode_text(tokens), atol=1e-5)


def test_heads_of_another_tower_are_refused(folder, tmp_path):
    config = json.loads((folder / CONFIG).read_text()) | {"text_sha256": "0" * 64}
    (tmp_path / CONFIG).write_text(json.dumps(config))
    with pytest.raises(PackageMissing, match="trained on another text tower"):
        Clip.load(str(tmp_path))
