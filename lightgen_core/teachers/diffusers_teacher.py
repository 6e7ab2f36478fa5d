"""Any text-to-image pipeline of diffusers as a teacher."""

import importlib.util
import inspect
import logging
from collections.abc import Iterator, Sequence
from typing import Any, Literal, Self

import numpy as np
import torch
from diffusers import AutoPipelineForText2Image, DiffusionPipeline
from diffusers.pipelines.auto_pipeline import AUTO_TEXT2IMAGE_PIPELINES_MAPPING, _get_task_class

from lightgen_core.encoders.model_ref import parse_model_ref
from lightgen_core.rejected import Reason, Rejected
from lightgen_core.teachers.base import TeacherError
from lightgen_core.teachers.config import DiffusersConfig

log = logging.getLogger("lightgen")

Offload = Literal["none", "model", "sequential"]
_NO_MEMORY = ("out of memory", "can't allocate memory")
_PROMPT_FAULTS = (ValueError, TypeError, LookupError, RuntimeError)
"""What a pipeline raises on a prompt it cannot take. One that is raised for a batch is looked for prompt by prompt."""


class PipelineTeacher:
    """Draws with a pipeline, a batch at a time.

    Each picture has a generator of its own on the CPU, so its first latents are the same bits in any batch and on any
    device. Pictures then differ by the rounding of matrix products of another batch size, as far as the pipeline
    treats the rows of a batch apart (those that pad prompts to the longest of the batch may not).
    """

    def __init__(self, pipeline: DiffusionPipeline, config: DiffusersConfig) -> None:
        self.pipeline = pipeline
        self._batch = config.batch_size
        self._takes = inspect.signature(pipeline.__call__).parameters
        self._arguments = self._checked(config)
        self._negative = config.negative_prompt if "negative_prompt" in self._takes else None
        if config.negative_prompt is not None and self._negative is None:
            log.warning("%s takes no negative prompt; it is left out", type(pipeline).__name__)

    @classmethod
    def load(cls, config: DiffusersConfig, device: torch.device | str, offload: Offload = "none") -> Self:
        """Load a folder, or a hub id at its revision; safetensors only, and no code but that of diffusers.

        Args:
            offload: keep weights in main memory and bring to the device one model, or one layer, at a time.

        Raises:
            ModelNotFound: nothing is at the path.
            TeacherError: it is no text-to-image pipeline, or does not know an argument.
            OSError: there is no such pipeline, or its weights are not safetensors.
        """
        bare = importlib.util.find_spec("accelerate") is None  # then weights are loaded at once, and stay
        if bare and offload != "none":
            raise TeacherError(f"LIGHTGEN_OFFLOAD={offload} needs the package accelerate: pip install accelerate")
        reference = parse_model_ref(config.model)
        wanted = reference.options | {"variant": config.variant, "use_safetensors": True}
        wanted |= {"torch_dtype": getattr(torch, config.dtype), "low_cpu_mem_usage": not bare}
        try:
            pipeline = AutoPipelineForText2Image.from_pretrained(reference.source, **wanted)
        except ValueError:  # AutoPipeline does not know this class: it may draw from text all the same
            pipeline = DiffusionPipeline.from_pretrained(reference.source, **wanted)
        pipeline.set_progress_bar_config(disable=True)
        if offload == "none":
            pipeline.to(device)
        elif offload == "model":
            pipeline.enable_model_cpu_offload(device=device)
        else:
            pipeline.enable_sequential_cpu_offload(device=device)
        return cls(pipeline, config)

    @staticmethod
    def name_of(config: DiffusersConfig) -> str:
        """Return the name of the pipeline's class, without loading any weights. Raises ModelNotFound, OSError."""
        reference = parse_model_ref(config.model)
        saved = DiffusionPipeline.load_config(reference.source, **reference.options)["_class_name"]
        from_text = _get_task_class(AUTO_TEXT2IMAGE_PIPELINES_MAPPING, saved, throw_error_if_not_exist=False)
        return from_text.__name__ if from_text else saved

    def _checked(self, config: DiffusersConfig) -> dict[str, Any]:
        """Return the arguments of every call."""
        named = {
            "num_inference_steps": config.steps,
            "guidance_scale": config.guidance_scale,
            "height": config.height,
            "width": config.width,
        }
        given = {name: value for name, value in named.items() if value is not None} | dict(config.arguments)
        name = type(self.pipeline).__name__
        if lacking := [each for each in ("prompt", "generator") if each not in self._takes]:
            raise TeacherError(f"{name} takes no {' and no '.join(lacking)}; give a text-to-image pipeline")
        if unknown := sorted(given.keys() - self._takes.keys()):
            raise TeacherError(f"{name} takes no {', '.join(unknown)}; it takes {', '.join(self._takes)}")
        return given | ({"output_type": "np"} if "output_type" in self._takes else {})

    def draw(self, prompts: Sequence[str], seeds: Sequence[int]) -> Iterator[np.ndarray | Rejected]:
        """Yield, in order, a uint8 picture (height, width, 3) of each prompt, or why there is none."""
        start = 0
        while start < len(prompts):
            stop = min(start + self._batch, len(prompts))
            drawn = self._attempt(prompts[start:stop], seeds[start:stop])
            if isinstance(drawn, Rejected) and stop - start > 1:
                if drawn.reason is Reason.OUT_OF_MEMORY:
                    torch.cuda.empty_cache()  # does nothing where there is no GPU
                    self._batch = (stop - start) // 2
                    log.warning("out of memory with %d pictures at once; going on with %d", stop - start, self._batch)
                    continue
                alone = (self._attempt(prompts[n : n + 1], seeds[n : n + 1]) for n in range(start, stop))
                drawn = [each if isinstance(each, Rejected) else each[0] for each in alone]
            yield from [drawn] if isinstance(drawn, Rejected) else drawn
            start = stop

    @torch.inference_mode()
    def _attempt(self, prompts: Sequence[str], seeds: Sequence[int]) -> list[np.ndarray | Rejected] | Rejected:
        generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
        negative = {} if self._negative is None else {"negative_prompt": [self._negative] * len(prompts)}
        try:
            made = self.pipeline(prompt=list(prompts), generator=generators, **self._arguments, **negative)
        except _PROMPT_FAULTS as error:
            if isinstance(error, RuntimeError) and any(words in str(error) for words in _NO_MEMORY):
                return Rejected(Reason.OUT_OF_MEMORY, _said(error))
            if isinstance(error, torch.AcceleratorError):
                raise  # the device is lost, not the prompt
            return Rejected(Reason.PROMPT_FAILED, _said(error))
        flagged = getattr(made, "nsfw_content_detected", None) or [False] * len(prompts)
        return [_picture(image, bad) for image, bad in zip(made.images, flagged, strict=True)]


def _picture(image: Any, flagged: bool) -> np.ndarray | Rejected:
    """Turn what a pipeline gives, float (height, width, 3) in 0 to 1 or a PIL image, into a uint8 picture."""
    if flagged:
        return Rejected(Reason.UNSAFE_CONTENT, "the pipeline's safety checker made the picture black")
    if not isinstance(image, np.ndarray):
        return np.asarray(image.convert("RGB"))
    if not np.isfinite(image).all():
        return Rejected(Reason.NOT_A_NUMBER, "the decoder overflowed; try bfloat16 or float32")
    return (image * 255).round().astype(np.uint8)


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:500]
