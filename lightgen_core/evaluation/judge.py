"""Judges of whether an image shows what its prompt asks for."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np

from lightgen_core.evaluation.benchmarks import Benchmark
from lightgen_core.evaluation.prompt import Prompt
from lightgen_core.evaluation.scene import judge_scenes

if TYPE_CHECKING:
    import torch

JUDGES: dict[Benchmark, str] = {"scene": "the scene detector", "geneval": "GenEval-HF"}
"""Display name of each benchmark's judge; other benchmarks have none."""


class Judge(Protocol):
    """Callable that judges images against their prompts."""

    def __call__(self, images: Sequence[np.ndarray], prompts: Sequence[Prompt]) -> np.ndarray:
        """Return, for each image uint8 (height, width, 3), whether it is right: (n,) bool."""
        ...


def load_judge(benchmark: Benchmark, detector: str, color_model: str, device: "torch.device") -> Judge | None:
    """Return the judge of a benchmark's images, None if there is none.

    Args:
        benchmark: by name.
        detector: "geneval": a Mask2Former of COCO's classes.
        color_model: "geneval": the CLIP that names colours.
        device: "geneval": where the two work.

    Raises:
        DetectorError, ClipError, OSError: "geneval": a model that is not there, or not of that kind.
    """
    if benchmark == "geneval":
        from lightgen_core.evaluation.geneval import GenEvalJudge

        return GenEvalJudge.load(detector, color_model, device)
    return _scene_judge if benchmark == "scene" else None


def _scene_judge(images: Sequence[np.ndarray], prompts: Sequence[Prompt]) -> np.ndarray:
    return judge_scenes(images, [prompt.meaning for prompt in prompts])
