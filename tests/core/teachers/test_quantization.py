"""Quantized teachers: what is asked of diffusers, what is missing, and torchao's weights where it is installed."""

import importlib.util
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from lightgen_core.teachers.base import TeacherError
from lightgen_core.teachers.config import DiffusersConfig, QuantizationConfig
from lightgen_core.teachers.diffusers_teacher import DiffusersTeacher
from lightgen_core.teachers.quantization import quantization_options
from tests.factories import tiny_pipelines

pytestmark = pytest.mark.usefixtures("one_thread")

HAVE_TORCHAO = all(importlib.util.find_spec(name) for name in ("torchao", "accelerate"))
needs_torchao = pytest.mark.skipif(not HAVE_TORCHAO, reason="needs lightgen[quantization]: torchao and accelerate")
SAVED = {
    "_class_name": "FluxPipeline",
    "transformer": ["diffusers", "FluxTransformer2DModel"],
    "text_encoder_2": ["transformers", "T5EncoderModel"],
    "image_encoder": [None, None],
}


@pytest.fixture(scope="module")
def flux(tmp_path_factory) -> Path:
    return tiny_pipelines.save_flux(tmp_path_factory.mktemp("quantized") / "flux", (2, 2))


def load(folder: Path, **fields) -> DiffusersTeacher:
    plain = {"dtype": "bfloat16", "steps": 2, "height": 48, "width": 48, "batch_size": 2}
    return DiffusersTeacher.load(DiffusersConfig(model=str(folder), **plain | fields), "cpu")


def without(monkeypatch, *names: str) -> None:
    """Let packages be missing."""
    found = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name in names else found(name))


@pytest.mark.parametrize(
    ("backend", "format", "hint"),
    [
        ("torchao", "int8", r"torchao and accelerate: pip install 'lightgen\[quantization\]'"),
        ("bitsandbytes", "nf4", r"bitsandbytes and accelerate: pip install bitsandbytes accelerate"),
    ],
)
def test_a_missing_backend_is_named_with_its_command(flux, monkeypatch, backend, format, hint):
    without(monkeypatch, backend, "accelerate")
    with pytest.raises(TeacherError, match=f"quantization by {backend} needs {hint}"):
        load(flux, quantization={"backend": backend, "format": format})


def test_bitsandbytes_without_a_gpu_is_refused(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    config = QuantizationConfig(backend="bitsandbytes", format="nf4")
    with pytest.raises(TeacherError, match="bitsandbytes needs a GPU; torchao's int8 and float8 need none"):
        quantization_options(config, SAVED, torch.bfloat16)


@pytest.mark.parametrize("format", ["nf4", "int8"])
def test_bitsandbytes_is_asked_for_the_format(monkeypatch, format):
    """Each component in the class of its own library; the weights themselves need a GPU."""
    import diffusers
    import transformers

    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for module in (diffusers, transformers):
        monkeypatch.setattr(module, "BitsAndBytesConfig", lambda library=module.__name__, **named: (library, named))
    monkeypatch.setattr(diffusers, "PipelineQuantizationConfig", SimpleNamespace)
    both = ("transformer", "text_encoder_2")
    config = QuantizationConfig(backend="bitsandbytes", format=format, components=both)
    nf4 = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": torch.float16}
    expected = {"int8": {"load_in_8bit": True}, "nf4": nf4}[format]
    mapping = quantization_options(config, SAVED, torch.float16).quant_mapping
    assert mapping == dict(zip(both, [("diffusers", expected), ("transformers", expected)], strict=True))


@pytest.mark.parametrize(
    ("backend", "format"), [("torchao", "nf4"), ("bitsandbytes", "float8"), ("bitsandbytes", "float8_dynamic")]
)
def test_a_format_that_a_backend_lacks_is_refused(backend, format):
    with pytest.raises(ValidationError, match=f"{backend} has no format {format}; it has "):
        QuantizationConfig(backend=backend, format=format)


def test_a_component_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    config = QuantizationConfig(backend="torchao", format="int8", components=("unet", "image_encoder"))
    with pytest.raises(
        TeacherError, match="FluxPipeline has no component image_encoder, unet to quantize; it has text"
    ):
        quantization_options(config, SAVED, torch.bfloat16)


@needs_torchao
@pytest.mark.parametrize(("format", "weights"), [("int8", "Int8Tensor"), ("float8", "Float8Tensor")])
@pytest.mark.parametrize("component", ["transformer", "text_encoder_2"])
def test_torchao_quantizes_the_named_component_alone(flux, format, weights, component):
    plain = load(flux)
    teacher = load(flux, quantization={"backend": "torchao", "format": format, "components": [component]})
    for name in ("transformer", "text_encoder_2", "text_encoder", "vae"):
        linear = [each for each in getattr(teacher.pipeline, name).modules() if isinstance(each, torch.nn.Linear)]
        kinds = {type(each.weight).__name__ for each in linear}
        assert kinds == {weights if name == component else "Parameter"}, name
    images, exact = (np.stack(list(each.generate(["a dog", "a cat"], [1, 2]))).astype(int) for each in (teacher, plain))
    assert 0 < np.abs(images - exact).mean() < 3


@needs_torchao
def test_a_quantized_teacher_takes_a_step_cache(flux):
    quantization = {"backend": "torchao", "format": "int8"}
    cache = {"method": "mag", "threshold": 0.0, "magnitude_ratios": [1.0, 1.1]}
    plain, cached = (load(flux, quantization=quantization, step_cache=each) for each in (None, cache))
    a, b = (np.stack(list(each.generate(["a dog"], [1]))) for each in (plain, cached))
    assert np.array_equal(a, b)
