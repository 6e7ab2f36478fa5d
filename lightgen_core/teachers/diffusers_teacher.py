"""Text-to-image pipelines of diffusers as teachers."""

import contextlib
import importlib.util
import inspect
import logging
from collections.abc import Iterator, Sequence
from typing import Any, Literal, Self

import numpy as np
import torch
from diffusers import AutoPipelineForText2Image, DiffusionPipeline
from diffusers.pipelines.auto_pipeline import AUTO_TEXT2IMAGE_PIPELINES_MAPPING, _get_task_class
from huggingface_hub.errors import LocalEntryNotFoundError

from lightgen_core.encoders.model_ref import ModelRef, parse_model_ref
from lightgen_core.rejected import Reason, Rejected
from lightgen_core.teachers.base import TeacherError
from lightgen_core.teachers.config import DiffusersConfig
from lightgen_core.teachers.quantization import quantization_options
from lightgen_core.teachers.step_cache import StepCache, find_denoiser

log = logging.getLogger("lightgen")

Offload = Literal["none", "model", "sequential"]
_NO_MEMORY = ("out of memory", "can't allocate memory")
_PROMPT_ERRORS = (ValueError, TypeError, LookupError, RuntimeError)
"""Errors of a pipeline on an unsuitable prompt; a failed batch is retried prompt by prompt."""


@contextlib.contextmanager
def _explained(ref: ModelRef) -> Iterator[None]:
    """Raise OSError that says so where the hub cannot be asked; diffusers says that the repository lacks a file."""
    try:
        yield
    except OSError as error:
        if not isinstance(error.__cause__ or error.__context__, LocalEntryNotFoundError):
            raise
        raise OSError(
            f"{ref.text} is no folder of this machine and not in the hub's cache, and the hub cannot be reached. "
            f"Correct the path or the name, or on a machine with access: hf download {ref.repository}"
        ) from error


class DiffusersTeacher:
    """Generate images with a pipeline, batch by batch.

    Each image has its own generator on the CPU, so its first latents are the same bits in any batch and on any device.
    Another batch size then changes rounding, and more if prompts are padded to the longest of the batch.
    """

    def __init__(self, pipeline: DiffusionPipeline, config: DiffusersConfig) -> None:
        self.pipeline = pipeline
        self._batch_size = config.batch_size
        self._parameters = inspect.signature(pipeline.__call__).parameters
        self._arguments = self._call_arguments(config)
        self._cache = config.step_cache and StepCache(pipeline, config.step_cache, config.steps)
        self._negative = config.negative_prompt if "negative_prompt" in self._parameters else None
        if config.negative_prompt is not None and self._negative is None:
            log.warning("%s takes no negative prompt; it is left out", type(pipeline).__name__)

    @classmethod
    def load(
        cls, config: DiffusersConfig, device: torch.device | str, offload: Offload = "none", compile: bool = False
    ) -> Self:
        """Load a folder or a hub id at its revision: safetensors only, and only code of diffusers.

        Args:
            offload: keep weights in main memory and move one model, or one layer, at a time to the device.
            compile: compile the denoiser's blocks, which changes rounding alone.

        Raises:
            ModelNotFound: nothing at the path.
            TeacherError: no text-to-image pipeline, an unknown argument, a cache that it does not take, or a package
                for its quantization that is missing.
            OSError: no such pipeline, or its weights are not safetensors.
        """
        no_accelerate = importlib.util.find_spec("accelerate") is None  # then weights are loaded at once, and stay
        if no_accelerate and offload != "none":
            raise TeacherError(f"LIGHTGEN_OFFLOAD={offload} needs the package accelerate: pip install accelerate")
        ref = parse_model_ref(config.model)
        kwargs = ref.options | {"variant": config.variant, "use_safetensors": True}
        kwargs |= {"torch_dtype": getattr(torch, config.dtype), "low_cpu_mem_usage": not no_accelerate}
        with _explained(ref):
            if config.quantization is not None:
                saved = DiffusionPipeline.load_config(ref.source, **ref.options)
                kwargs["quantization_config"] = quantization_options(config.quantization, saved, kwargs["torch_dtype"])
            try:
                pipeline = AutoPipelineForText2Image.from_pretrained(ref.source, **kwargs)
            except ValueError:  # AutoPipeline does not know this class: it may draw from text all the same
                pipeline = DiffusionPipeline.from_pretrained(ref.source, **kwargs)
        pipeline.set_progress_bar_config(disable=True)
        if offload == "none":
            pipeline.to(device)
        elif offload == "model":
            pipeline.enable_model_cpu_offload(device=device)
        else:
            pipeline.enable_sequential_cpu_offload(device=device)
        if compile:
            _compile(pipeline, below_a_cache=config.step_cache is not None)
        return cls(pipeline, config)

    @staticmethod
    def name_of(config: DiffusersConfig) -> str:
        """Return the pipeline's class name without loading weights (ModelNotFound, OSError)."""
        ref = parse_model_ref(config.model)
        with _explained(ref):
            saved = DiffusionPipeline.load_config(ref.source, **ref.options)["_class_name"]
        from_text = _get_task_class(AUTO_TEXT2IMAGE_PIPELINES_MAPPING, saved, throw_error_if_not_exist=False)
        return from_text.__name__ if from_text else saved

    def _call_arguments(self, config: DiffusersConfig) -> dict[str, Any]:
        """Return the arguments of every call."""
        named = {"num_inference_steps": config.steps, "guidance_scale": config.guidance_scale}
        named |= {"height": config.height, "width": config.width, "max_sequence_length": config.max_sequence_length}
        arguments = {name: value for name, value in named.items() if value is not None} | dict(config.arguments)
        name = type(self.pipeline).__name__
        if missing := [name for name in ("prompt", "generator") if name not in self._parameters]:
            raise TeacherError(f"{name} takes no {' and no '.join(missing)}; give a text-to-image pipeline")
        if unknown := sorted(arguments.keys() - self._parameters.keys()):
            raise TeacherError(f"{name} takes no {', '.join(unknown)}; it takes {', '.join(self._parameters)}")
        return arguments | ({"output_type": "np"} if "output_type" in self._parameters else {})

    def generate(self, prompts: Sequence[str], seeds: Sequence[int]) -> Iterator[np.ndarray | Rejected]:
        """Yield a uint8 image (height, width, 3) or an error per prompt, in order."""
        start = 0
        while start < len(prompts):
            stop = min(start + self._batch_size, len(prompts))
            images = self._attempt(prompts[start:stop], seeds[start:stop])
            if isinstance(images, Rejected) and stop - start > 1:
                if images.reason is Reason.OUT_OF_MEMORY:
                    torch.cuda.empty_cache()  # does nothing where there is no GPU
                    self._batch_size = (stop - start) // 2
                    log.warning("out of memory at batch size %d; continuing with %d", stop - start, self._batch_size)
                    continue
                alone = (self._attempt(prompts[n : n + 1], seeds[n : n + 1]) for n in range(start, stop))
                images = [result if isinstance(result, Rejected) else result[0] for result in alone]
            yield from [images] if isinstance(images, Rejected) else images
            start = stop

    @torch.inference_mode()
    def _attempt(self, prompts: Sequence[str], seeds: Sequence[int]) -> list[np.ndarray | Rejected] | Rejected:
        if self._cache:
            self._cache.reset()
        try:
            output = self._call(prompts, seeds)
        except _PROMPT_ERRORS as error:
            if isinstance(error, RuntimeError) and any(words in str(error) for words in _NO_MEMORY):
                return Rejected(Reason.OUT_OF_MEMORY, _format_error(error))
            if isinstance(error, torch.AcceleratorError):
                raise  # the device is lost, not the prompt
            self._raise_for_recipe(error, prompts, seeds)
            return Rejected(Reason.PROMPT_FAILED, _format_error(error))
        flagged = getattr(output, "nsfw_content_detected", None) or [False] * len(prompts)
        return [_to_uint8(image, is_flagged) for image, is_flagged in zip(output.images, flagged, strict=True)]

    def _call(self, prompts: Sequence[str], seeds: Sequence[int]) -> Any:
        generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
        negative = {} if self._negative is None else {"negative_prompt": [self._negative] * len(prompts)}
        return self.pipeline(prompt=list(prompts), generator=generators, **self._arguments, **negative)

    def _raise_for_recipe(self, error: Exception, prompts: Sequence[str], seeds: Sequence[int]) -> None:
        """Raise TeacherError where a field of the recipe fails, not the prompt: it would reject every prompt."""
        if "max_sequence_length" in self._arguments and "max_sequence_length" in str(error):
            raise TeacherError(f"{type(self.pipeline).__name__}: {error}") from error
        if self._cache:
            self._cache.disable()
            with contextlib.suppress(*_PROMPT_ERRORS):
                self._call(prompts, seeds)
                raise self._cache.error(error) from error
            self._cache.enable()


def _compile(pipeline: DiffusionPipeline, below_a_cache: bool) -> None:
    """Compile the blocks that a denoiser repeats, or all of it where it does not name them.

    below_a_cache: compile what a cache's hooks will call; MagCache's keep a block with its hooks from being compiled.
    """
    denoiser: Any = find_denoiser(pipeline)
    if denoiser is None:
        raise TeacherError(f"{type(pipeline).__name__} has no transformer and no unet to compile")
    repeated = getattr(denoiser, "_repeated_blocks", None) or ()
    if not repeated:
        denoiser.compile()
    elif not below_a_cache:
        denoiser.compile_repeated_blocks()
    for block in denoiser.modules() if below_a_cache else ():
        if type(block).__name__ in repeated:
            block.forward = torch.compile(block.forward)


def _to_uint8(image: Any, flagged: bool) -> np.ndarray | Rejected:
    """Convert a pipeline's output, PIL or float (height, width, 3) in [0, 1], to uint8."""
    if flagged:
        return Rejected(Reason.UNSAFE_CONTENT, "the pipeline's safety checker made the image black")
    if not isinstance(image, np.ndarray):
        return np.asarray(image.convert("RGB"))
    if not np.isfinite(image).all():
        return Rejected(Reason.NOT_A_NUMBER, "the decoder overflowed; try bfloat16 or float32")
    return (image * 255).round().astype(np.uint8)


def _format_error(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:500]
