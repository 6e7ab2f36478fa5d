"""Facts about teachers: their FLOPs counted again by torch on models of their sizes, and passes as the pipelines do."""

import pytest
import torch

from benchmarks import teacher_flops as counted
from flows.known_models import known_model
from flows.known_teachers import KNOWN_TEACHERS, known_teacher
from lightgen_core.teachers.config import DiffusersConfig

SIZES = ((64, 128), (1024, 256))


@pytest.mark.parametrize("name", KNOWN_TEACHERS)
def test_a_teachers_flops_are_what_torch_counts(name):
    """On a model of its size without weights, attention included, to the last product."""
    model, teacher = counted.build(name), KNOWN_TEACHERS[name]
    assert sum(weight.numel() for weight in model.parameters()) == teacher.parameters
    assert [counted.count(name, model, *size) for size in SIZES] == [teacher.flops.count(*size) for size in SIZES]


@pytest.mark.parametrize(
    ("name", "ratio"),
    [
        ("black-forest-labs/FLUX.1-dev", 1.72),
        ("black-forest-labs/FLUX.2-klein-4B", 1.19),
        ("black-forest-labs/FLUX.2-klein-9B", 1.24),
        ("Tongyi-MAI/Z-Image-Turbo", 1.03),
        ("Qwen/Qwen-Image", 2.81),
        ("Efficient-Large-Model/Sana_Sprint_1.6B_1024px_diffusers", 1.40),
    ],
)
def test_two_flops_a_parameter_and_token_are_too_many(name, ratio):
    """By how much, at 1,024 image and 256 text tokens: docs/estimate.md says so."""
    teacher = KNOWN_TEACHERS[name]
    assert 2 * teacher.parameters * (1024 + 256) / teacher.flops.count(1024, 256) == pytest.approx(ratio, abs=0.005)


def test_a_polynomial_is_found_from_six_counts():
    assert counted.solve([sum(counted.terms(*size)) for size in counted.SIZES]) == [1] * 6
    coefficients = (5, 4, 3, 0, 2, 1)
    counts = [sum(a * b for a, b in zip(coefficients, counted.terms(*size), strict=True)) for size in counted.SIZES]
    assert counted.solve(counts) == list(coefficients)


def test_decoders_and_text_encoders_are_those_counted():
    flux = KNOWN_TEACHERS["black-forest-labs/FLUX.1-dev"]
    assert flux.decoder == pytest.approx(counted.decoder_flops("FLUX.1, Z-Image"), rel=0.01)
    assert flux.decoder == known_model("stabilityai/stable-diffusion-3.5-large/vae").decoder_flops
    with torch.device("meta"):
        weights = {name: counted.token_weights(make()) for name, make in counted.TEXT_ENCODERS.items()}
    assert list(weights.values()) == [teacher.text_encoder for teacher in KNOWN_TEACHERS.values()]


@pytest.mark.parametrize(
    ("name", "fields", "passes"),
    [
        ("black-forest-labs/FLUX.1-dev", {"guidance_scale": 3.5}, 1),
        ("black-forest-labs/FLUX.1-dev", {"negative_prompt": "blurry"}, 1),
        ("black-forest-labs/FLUX.1-dev", {"negative_prompt": "blurry", "arguments": {"true_cfg_scale": 4.0}}, 2),
        ("black-forest-labs/FLUX.2-klein-4B", {"guidance_scale": 4.0}, 1),
        ("Tongyi-MAI/Z-Image-Turbo", {}, 2),
        ("Tongyi-MAI/Z-Image-Turbo", {"guidance_scale": 0.0}, 1),
        ("Qwen/Qwen-Image", {}, 1),
        ("Qwen/Qwen-Image", {"negative_prompt": " "}, 2),
        ("Qwen/Qwen-Image", {"negative_prompt": " ", "arguments": {"true_cfg_scale": 1.0}}, 1),
        ("Efficient-Large-Model/Sana_Sprint_1.6B_1024px_diffusers", {"guidance_scale": 4.5}, 1),
    ],
)
def test_passes_follow_from_the_recipes_guidance(name, fields, passes):
    """The pipelines themselves are counted in tests/core/teachers/test_newer_pipelines.py."""
    assert known_teacher(f"{name}@main").passes(DiffusersConfig(model=name, **fields)) == passes


def test_padded_texts_are_as_long_as_asked_others_as_they_are():
    flux, z_image = KNOWN_TEACHERS["black-forest-labs/FLUX.1-dev"], KNOWN_TEACHERS["Tongyi-MAI/Z-Image-Turbo"]
    assert [flux.text_tokens(40, length) for length in (None, 256)] == [512, 256]
    assert [z_image.text_tokens(caption, 256) for caption in (40, 64, 1000)] == [64, 64, 256]
    assert [teacher.image_tokens(512, 520) for teacher in (flux, z_image)] == [1024, 1024]
    assert z_image.image_tokens(240, 240) == 256  # of 225, rounded up to a multiple of 32


def test_an_unknown_teacher_is_none():
    assert known_teacher("nobody/nothing") is None
