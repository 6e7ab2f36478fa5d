"""Benchmarks of `lightgen eval` by name: prompts, a judge, and the scores over its verdicts.

Another benchmark is a class with the members of `Benchmark` and a line in `BENCHMARKS`.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from flows.commands.evaluate_asking import AskingBenchmark
from flows.commands.evaluate_compbench import CompBenchmark, RatedCompBenchmark
from flows.commands.evaluate_images import ImageSource
from flows.commands.evaluate_options import EvaluationOptions
from flows.commands.evaluate_sources import Source
from flows.errors import UserError
from lightgen_core.evaluation.geneval_prompts import Requirement, metadata_prompt
from lightgen_core.evaluation.judge import JUDGES, load_judge
from lightgen_core.evaluation.prompt import Prompt, limit_per_category
from lightgen_core.evaluation.scores import score_table
from tasks.config.recipe import Recipe
from tasks.evaluation_prompts import evaluation_prompts

if TYPE_CHECKING:
    import torch

Verdict = dict[str, Any]
"""A judge's verdict on one image, as a line of results holds it: `correct`, or `score` with its answers."""

JudgeImages = Callable[[Sequence[np.ndarray], Sequence[Prompt]], list[Verdict]]
"""Images uint8 (height, width, 3) and the prompt of each to verdicts."""


class Benchmark(Protocol):
    """A benchmark of `lightgen eval`."""

    name: str
    judge: str | None
    """The judge in words; None if nobody judges."""
    prompts: Sequence[Prompt]
    withheld: Verdict
    """Verdict on an image that the source withheld for its content."""

    def identity(self) -> Mapping[str, Any]:
        """Return what decides the verdicts, as JSON."""

    def load(self, device: "torch.device") -> JudgeImages:
        """Load the judge. Raises UserError if it is not there."""

    def metadata(self, prompt: Prompt) -> dict[str, Any]:
        """Return what a prompt's `metadata.jsonl` says beside its category and text."""

    def scores(self, verdicts: Sequence[Sequence[Verdict]], seed: int, resamples: int) -> dict[str, Any] | None:
        """Return the scores over the verdicts (prompts, images) with intervals; None if nobody judges."""


class DetectorBenchmark:
    """Scene or GenEval: a detector finds each image right or wrong."""

    withheld: Verdict = {"correct": False}  # noqa: RUF012 (a constant of the protocol)

    def __init__(self, recipe: Recipe, options: EvaluationOptions, source: Source) -> None:
        self._config = recipe.evaluation
        self.name: str = self._config.benchmark
        self.judge: str | None = JUDGES[self._config.benchmark]
        self.prompts: Sequence[Prompt] = _prompts_of_images(source, recipe) or evaluation_prompts(recipe)

    def identity(self) -> Mapping[str, Any]:
        """Return the judge's name, and GenEval's models."""
        models = {"detector": self._config.detector, "color_model": self._config.color_model}
        return {"judge": self.judge} | (models if self.name == "geneval" else {})

    def load(self, device: "torch.device") -> JudgeImages:
        """Load the detector. Raises UserError if GenEval's models are not there."""
        config = self._config
        try:
            judge = load_judge(config.benchmark, config.detector, config.color_model, device)
        except (OSError, ValueError) as error:
            raise UserError(
                f"{error}\nGenEval's judge is {config.detector} and, for colours, {config.color_model}. Download them "
                "first, or give a --recipe with evaluation.detector and evaluation.color_model."
            ) from error
        assert judge is not None
        return lambda images, prompts: [{"correct": bool(right)} for right in judge(images, prompts)]

    def metadata(self, prompt: Prompt) -> dict[str, Any]:
        """Return what GenEval requires of an image."""
        return Requirement.model_validate_json(prompt.meaning).as_metadata() if self.name == "geneval" else {}

    def scores(self, verdicts: Sequence[Sequence[Verdict]], seed: int, resamples: int) -> dict[str, Any]:
        """Return the share of right images in each category, and their mean."""
        correct = np.array([[verdict["correct"] for verdict in row] for row in verdicts], dtype=bool)
        return score_table(correct, self.prompts, seed, resamples)


class PromptsBenchmark:
    """Prompts of a file, or of the images themselves: nobody judges them, metrics may be measured."""

    name = "prompts"
    judge: str | None = None
    withheld: Verdict = {}  # noqa: RUF012 (a constant of the protocol)

    def __init__(self, recipe: Recipe, options: EvaluationOptions, source: Source) -> None:
        config = recipe.evaluation
        if config.prompts is None and isinstance(source, ImageSource):
            self.prompts: Sequence[Prompt] = limit_per_category(source.prompts, config.per_category)
        else:
            self.prompts = evaluation_prompts(recipe)

    def identity(self) -> Mapping[str, Any]:
        """Return nothing: nobody judges."""
        return {}

    def load(self, device: "torch.device") -> JudgeImages:
        """Return the judge that has no verdict."""
        return lambda images, prompts: [{} for _ in images]

    def metadata(self, prompt: Prompt) -> dict[str, Any]:
        """Return nothing."""
        return {}

    def scores(self, verdicts: Sequence[Sequence[Verdict]], seed: int, resamples: int) -> None:
        """Return None: nobody judges."""


BENCHMARKS: Mapping[str, Callable[[Recipe, EvaluationOptions, Source], Benchmark]] = {
    "scene": DetectorBenchmark,
    "geneval": DetectorBenchmark,
    "prompts": PromptsBenchmark,
    "dpg": AskingBenchmark,
    "geneval2": AskingBenchmark,
    "geneval2-tifa": AskingBenchmark,
    "t2i-compbench": CompBenchmark,
    "t2i-compbench-mllm": RatedCompBenchmark,
}
"""Benchmarks by the name that --benchmark takes."""


def prompts_digest(prompts: Sequence[Prompt]) -> str:
    """Return the sha256 of prompts in their order."""
    rows = [[prompt.category, prompt.caption, prompt.meaning] for prompt in prompts]
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def _prompts_of_images(source: Source, recipe: Recipe) -> list[Prompt]:
    """Return the prompts that images of GenEval's layout carry, unless a file names others."""
    config = recipe.evaluation
    if config.benchmark != "geneval" or config.prompts or not isinstance(source, ImageSource):
        return []
    rows = [metadata_prompt(json.dumps(row), source.location) for row in source.metadata]
    return limit_per_category(rows, config.per_category)
