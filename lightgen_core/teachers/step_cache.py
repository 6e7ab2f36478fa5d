"""Caches of diffusers that reuse a denoising step's blocks in the next."""

import inspect
from typing import Any

import diffusers
import torch
from diffusers import DiffusionPipeline
from diffusers.hooks import HookRegistry

from lightgen_core.teachers.base import TeacherError
from lightgen_core.teachers.config import StepCacheConfig

MAG_SKIPPED_STEPS, MAG_RETENTION = 3, 0.2
"""MagCache: most steps skipped in a row, and the share of first steps that are computed; diffusers' defaults."""
TAYLOR_FIRST_STEPS, TAYLOR_ORDER = 3, 1
"""TaylorSeer: first steps that are computed, and the order of the prediction; diffusers' defaults."""


def find_denoiser(pipeline: DiffusionPipeline) -> torch.nn.Module | None:
    """Return the network that a pipeline evaluates at each step; None if it has no one transformer or U-Net."""
    found = [getattr(pipeline, name, None) for name in ("transformer", "unet")]
    return next((each for each in found if isinstance(each, torch.nn.Module)), None)


class StepCache:
    """A cache in a pipeline's denoiser, switched on."""

    def __init__(self, pipeline: DiffusionPipeline, config: StepCacheConfig, steps: int | None) -> None:
        """Switch the cache on.

        Raises:
            TeacherError: the pipeline takes no such cache.
        """
        self._name, self._method = type(pipeline).__name__, config.method
        denoiser = find_denoiser(pipeline)
        call = inspect.unwrap(type(pipeline).__call__)
        if not hasattr(denoiser, "enable_cache") or "cache_context" not in getattr(call, "__code__", call).co_names:
            raise TeacherError(
                f"{self._name} takes no step cache in diffusers {diffusers.__version__}; leave step_cache out"
            )
        self._denoiser: Any = denoiser
        self._config = self._build(config, steps)
        try:
            self.enable()
        except (ValueError, LookupError) as error:  # unknown blocks, or too few
            raise TeacherError(f"{self._name} takes no step cache {self._method}: {error}; try another") from error
        if not any(registry.hooks for registry in self._registries()):
            raise TeacherError(f"{self._name} has no block that step cache {self._method} knows; try another")

    def _build(self, config: StepCacheConfig, steps: int | None) -> Any:
        """Return diffusers' own configuration."""
        classes = {
            "first_block": "FirstBlockCacheConfig",
            "mag": "MagCacheConfig",
            "taylorseer": "TaylorSeerCacheConfig",
        }
        if (kind := getattr(diffusers, classes[config.method], None)) is None:
            raise TeacherError(
                f"diffusers {diffusers.__version__} has no {classes[config.method]}: pip install -U diffusers"
            )
        if config.method == "first_block":
            return kind(threshold=config.threshold)
        if config.method == "taylorseer":
            return kind(
                cache_interval=config.interval,
                disable_cache_before_step=TAYLOR_FIRST_STEPS,
                max_order=TAYLOR_ORDER,
                taylor_factors_dtype=self._denoiser.dtype,
            )
        return kind(
            threshold=config.threshold,
            max_skip_steps=MAG_SKIPPED_STEPS,
            retention_ratio=MAG_RETENTION,
            num_inference_steps=steps,
            mag_ratios=list(config.magnitude_ratios) or self._flux_ratios(),
        )

    def _flux_ratios(self) -> torch.Tensor:
        from diffusers.hooks.mag_cache import FLUX_MAG_RATIOS

        if type(self._denoiser).__name__ != "FluxTransformer2DModel":
            raise TeacherError(
                f"step_cache.magnitude_ratios is missing: they are of a model, and those of {self._name} are not "
                "known. MagCacheConfig(calibrate=True) of diffusers prints them"
            )
        return FLUX_MAG_RATIOS

    def _registries(self) -> list[HookRegistry]:
        modules = self._denoiser.modules()
        return [module._diffusers_hook for module in modules if hasattr(module, "_diffusers_hook")]

    def enable(self) -> None:
        """Switch the cache on."""
        self._denoiser.enable_cache(self._config)

    def disable(self) -> None:
        """Switch the cache off."""
        self._denoiser.disable_cache()

    def reset(self) -> None:
        """Forget the last images; pipelines do so at their end, but not where they fail."""
        HookRegistry.check_if_exists_or_initialize(self._denoiser).reset_stateful_hooks()

    def error(self, cause: Exception) -> TeacherError:
        """Return the error of a pipeline that works without the cache and fails with it."""
        return TeacherError(
            f"{self._name} fails with step cache {self._method} and works without: {type(cause).__name__}: {cause}. "
            "Try another method, or leave step_cache out"
        )
