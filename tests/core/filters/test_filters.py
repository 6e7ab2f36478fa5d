"""Filters of images: what is measured, what a head computes, and which reason a drop has."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter
from safetensors.numpy import save_file

from lightgen_core.filters.config import HeadFilter, ImageFilters
from lightgen_core.filters.embedding_head import EmbeddingHead, HeadError
from lightgen_core.filters.pixels import measure_pixels
from lightgen_core.filters.verdicts import Verdicts, apply_pixel_filters, apply_text_image_score

NOISE = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)


def head(path, tensors, **options):
    save_file(tensors, path)
    return EmbeddingHead.load(HeadFilter(name="aesthetic", weights=str(path), **{"min": 0.0} | options))


def test_a_blurred_image_is_less_sharp_and_of_the_images_size():
    blurred = np.asarray(Image.fromarray(NOISE).filter(ImageFilter.GaussianBlur(2)))
    sharp, soft = measure_pixels(NOISE), measure_pixels(blurred)
    assert sharp[:2] == (60, 40)
    assert sharp.sharpness > 100 * soft.sharpness > 0


def test_the_laplacian_is_that_of_the_formula():
    image = np.zeros((5, 5, 3), np.uint8)
    image[2, 2] = 8
    laplacian = [[0, 8, 0], [8, -32, 8], [0, 8, 0]]
    assert measure_pixels(image).sharpness == np.var(laplacian)


def test_entropy_is_one_bit_for_two_levels_and_none_for_one():
    image = np.zeros((4, 4, 3), np.uint8)
    assert measure_pixels(image).entropy == 0
    image[:2] = 255
    assert measure_pixels(image).entropy == 1


def test_a_head_computes_what_torch_does(tmp_path):
    torch.manual_seed(0)
    layers = [torch.nn.Linear(8, 12), torch.nn.Linear(12, 3), torch.nn.Linear(3, 1)]
    names = ("layers.2", "layers.10", "layers.11")  # by number, not by letter
    tensors = {
        f"{name}.{part}": getattr(layer, part).detach().numpy()
        for name, layer in zip(names, layers, strict=True)
        for part in ("weight", "bias")
    }
    rows = np.random.default_rng(0).normal(size=(5, 8)).astype(np.float32)
    for name, function in {"none": torch.nn.Identity(), "relu": torch.nn.ReLU(), "gelu": torch.nn.GELU()}.items():
        model = torch.nn.Sequential(layers[0], function, layers[1], function, layers[2], torch.nn.Sigmoid())
        expected = model(torch.from_numpy(rows))[:, 0].detach().numpy()
        actual = head(tmp_path / "head.safetensors", tensors, activation=name, output="sigmoid").scores(rows)
        np.testing.assert_allclose(actual, expected, atol=1e-6)


def test_a_single_linear_layer_needs_no_name(tmp_path):
    tensors = {"weight": np.ones((1, 4), np.float16), "bias": np.ones(1, np.float16)}
    scores = head(tmp_path / "head.safetensors", tensors).scores(np.eye(4, dtype=np.float32))
    assert scores.tolist() == [2, 2, 2, 2]


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"a.weight": np.ones((2, 4), np.float32), "a.bias": np.ones(2, np.float32)}, "gives 2 values; expected one"),
        ({"a.weight": np.ones((1, 4), np.float32)}, "a has no weight"),
        ({"conv": np.ones((1, 4), np.float32)}, "found conv; expected weights and biases"),
        (
            {
                "0.weight": np.ones((2, 4), np.float32),
                "0.bias": np.ones(2, np.float32),
                "1.weight": np.ones((1, 3), np.float32),
                "1.bias": np.ones(1, np.float32),
            },
            "1 takes 3 values, the layer before gives 2",
        ),
    ],
)
def test_a_file_that_is_no_head_is_refused(tmp_path, tensors, message):
    with pytest.raises(HeadError, match=message):
        head(tmp_path / "head.safetensors", tensors)


def test_a_head_for_another_clip_names_both_widths(tmp_path):
    tensors = {"weight": np.ones((1, 4), np.float32), "bias": np.ones(1, np.float32)}
    with pytest.raises(HeadError, match=r"embeddings of 4 values, the CLIP gives 6"):
        head(tmp_path / "head.safetensors", tensors).scores(np.ones((1, 6), np.float32))


def test_the_first_filter_that_an_image_fails_is_its_reason():
    measures = {
        "width": np.array([10, 100, 100, 100]),
        "height": np.array([100, 30, 100, 100]),
        "sharpness": np.array([1, 1, 1, 99.0]),
        "entropy": np.array([0, 0, 0, 8.0]),
    }
    verdicts = Verdicts(4)
    apply_pixel_filters(verdicts, ImageFilters(min_side=20, max_aspect=3, min_sharpness=5, min_entropy=1), measures)
    assert verdicts.reason.tolist() == ["small", "elongated", "blurred", None]
    assert verdicts.value[:3].tolist() == [10, np.float32(100 / 30), 1]
    assert verdicts.threshold[:3].tolist() == [20, 3, 5]
    assert np.isnan([verdicts.value[3], verdicts.threshold[3]]).all()


def test_the_lowest_share_has_the_lowest_score_kept_as_threshold():
    scores, verdicts = np.array([0.1, 0.2, 0.3, 0.4], np.float32), Verdicts(4)
    apply_text_image_score(verdicts, scores, np.array([False, False, True, True]), least=0.15)
    assert verdicts.reason.tolist() == ["low text-image score"] * 2 + [None] * 2
    assert verdicts.threshold[:2].tolist() == pytest.approx([0.15, 0.3])
