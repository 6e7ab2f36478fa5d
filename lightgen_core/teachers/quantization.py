"""Quantized weights of a pipeline, by the libraries that diffusers knows."""

import importlib
import importlib.util
from collections.abc import Mapping
from typing import Any

import torch

from lightgen_core.teachers.base import TeacherError
from lightgen_core.teachers.config import QuantizationConfig

INSTALL = {"torchao": "'lightgen[quantization]'", "bitsandbytes": "bitsandbytes accelerate"}


def quantization_options(config: QuantizationConfig, saved: Mapping[str, Any], dtype: torch.dtype) -> Any:
    """Return diffusers' PipelineQuantizationConfig.

    Args:
        saved: the pipeline's own configuration: of each component its library and class.
        dtype: of what is not quantized, and of products.

    Raises:
        TeacherError: a package or a GPU is missing, or the pipeline has no such component.
    """
    from diffusers import PipelineQuantizationConfig

    lacking = [name for name in (config.backend, "accelerate") if importlib.util.find_spec(name) is None]
    if lacking:
        raise TeacherError(
            f"quantization by {config.backend} needs {' and '.join(lacking)}: pip install {INSTALL[config.backend]}"
        )
    if config.backend == "bitsandbytes" and not torch.cuda.is_available():
        raise TeacherError("quantization by bitsandbytes needs a GPU; torchao's int8 and float8 need none")
    components = {name: value[0] for name, value in saved.items() if isinstance(value, list | tuple) and value[0]}
    if unknown := sorted(set(config.components) - components.keys()):
        raise TeacherError(
            f"{saved['_class_name']} has no component {', '.join(unknown)} to quantize; "
            f"it has {', '.join(sorted(components))}"
        )
    mapping = {name: _component_config(config, components[name], dtype) for name in config.components}
    return PipelineQuantizationConfig(quant_mapping=mapping)


def _component_config(config: QuantizationConfig, library: str, dtype: torch.dtype) -> Any:
    """Return the quantization of a model of diffusers or transformers, each in its library's own class."""
    classes = importlib.import_module("transformers" if library == "transformers" else "diffusers")
    if config.backend == "torchao":
        return classes.TorchAoConfig(_torchao_config(config.format))
    if config.format == "int8":
        return classes.BitsAndBytesConfig(load_in_8bit=True)
    return classes.BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype)


def _torchao_config(name: str) -> Any:
    from torchao import quantization

    if name == "float8_dynamic":  # a scale for each token: one for a whole batch would tie its images together
        return quantization.Float8DynamicActivationFloat8WeightConfig(granularity=quantization.PerRow())
    return {"int8": quantization.Int8WeightOnlyConfig, "float8": quantization.Float8WeightOnlyConfig}[name]()
