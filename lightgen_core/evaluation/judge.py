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


def load_judge(benchmark: Benchmark, detector: str, color_model: str, device: "torch.device") -> Judge | None:
    """Return the judge of a benchmark's images, None if there is none.

    Args:
        detector, color_model: "geneval": a Mask2Former of COCO's classes, and the CLIP that names colours.

    Raises:
        DetectorError, ClipError, OSError: "geneval": a model that is not there, or not of that kind.
    """
    if benchmark == "geneval":
        from lightgen_core.encoders.clip import Clip
        from lightgen_core.evaluation.geneval import ColorNamer, Detector, GenEvalJudge

        return GenEvalJudge(Detector.load(detector, device=device), ColorNamer(Clip.load(color_model, device=device)))
    if benchmark == "scene":
        return lambda images, prompts: judge_scenes(images, [prompt.meaning for prompt in prompts])
    return None
