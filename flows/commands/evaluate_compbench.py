"""T2I-CompBench: one file of its authors' prompts, and the judges that its category needs."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from flows.commands.evaluate_asked_model import AskedModel, judging
from flows.commands.evaluate_compbench_parts import JudgeParts, PartJudge, open_parser
from flows.commands.evaluate_options import EvaluationOptions
from flows.errors import UserError
from lightgen_core.captioning.parse import Answer
from lightgen_core.evaluation.compbench import PARTS, Part, category_of, parts_of, read_compbench
from lightgen_core.evaluation.compbench_ratings import describe_question, rated, rating, rating_questions
from lightgen_core.evaluation.prompt import Prompt
from lightgen_core.images.codec import encode_png
from lightgen_core.intervals import bootstrap_mean
from tasks.config.recipe import Recipe

if TYPE_CHECKING:
    import torch

    from lightgen_core.vlm.vlm import Vlm

_NOT_KEPT = {
    "numeracy": "counts with UniDet",
    "3d_spatial": "places with UniDet and MiDaS's depth",
}
_DESCRIPTION_TOKENS = 160

JudgeImages = Callable[[Sequence[np.ndarray], Sequence[Prompt]], list[dict[str, Any]]]


class CompBenchmark:
    """The authors' rules: yes for every noun phrase, boxes for relations of space, CLIP for actions.

    Complex prompts have the mean of those that they hold ("3-in-1"). The numbers are the paper's only where the judges
    are: `docs/evaluation.md` says which are others.
    """

    name = "t2i-compbench"
    withheld: dict[str, Any] = {"score": 0.0, "parts": {}}  # noqa: RUF012 (a constant; nothing was judged)

    def __init__(self, recipe: Recipe, options: EvaluationOptions, source: object) -> None:
        """Look for what the category needs, without torch. Raises UserError, PromptFileError."""
        assert options.questions is not None  # checked with the options
        self._category = category_of(options.questions)
        if self._category in _NOT_KEPT:
            raise UserError(
                f"T2I-CompBench {_NOT_KEPT[self._category]}, whose code needs detectron2 and is not kept, and "
                f"{self._category} has no judge here that would give its numbers. --benchmark t2i-compbench-mllm "
                "--judge MODEL takes the paper's other way, ratings by a vision-language model"
            )
        self.prompts: Sequence[Prompt] = read_compbench(options.questions, options.per_category)
        wanted: Sequence[Part] = PARTS.get(self._category, ("attributes", "spatial", "action"))
        self._judges = JudgeParts(wanted, self._category, options)
        self.judge: str | None = "; ".join(self._judges.names())

    def identity(self) -> Mapping[str, Any]:
        """Return the models of each part, and the parser."""
        return {"judge": self.judge, **self._judges.identity()}

    def metadata(self, prompt: Prompt) -> dict[str, Any]:
        """Return what is scored in the prompt's images."""
        return {"scored": list(parts_of(prompt))}

    def load(self, device: "torch.device") -> JudgeImages:
        """Return the judge. Raises UserError for a model that cannot be used."""
        judges = self._judges.load(device)

        def judge(images: Sequence[np.ndarray], prompts: Sequence[Prompt]) -> list[dict[str, Any]]:
            with judging("--benchmark t2i-compbench-mllm needs none"):
                return [_verdict(judges, *each) for each in zip(images, prompts, strict=True)]

        return judge

    def scores(self, verdicts: Sequence[Sequence[Mapping[str, Any]]], seed: int, resamples: int) -> dict[str, Any]:
        """Return the category's mean score, and of complex prompts also that of each part."""
        return _scores(self._category, self.prompts, verdicts, seed, resamples)


class RatedCompBenchmark:
    """The paper's other way: a vision-language model describes an image, then rates it."""

    name = "t2i-compbench-mllm"
    withheld: dict[str, Any] = {"score": 0.0}  # noqa: RUF012 (a constant; nothing was judged)

    def __init__(self, recipe: Recipe, options: EvaluationOptions, source: object) -> None:
        """Look for the model and the parser. Raises UserError, PromptFileError."""
        assert options.questions is not None  # checked with the options
        if options.judge is None:
            raise UserError(
                "t2i-compbench-mllm needs --judge MODEL: transformers:MODEL, or the name of one behind LIGHTGEN_VLM_URL"
            )
        self._category = category_of(options.questions)
        self.prompts: Sequence[Prompt] = read_compbench(options.questions, options.per_category)
        self._model = AskedModel(options.judge, _DESCRIPTION_TOKENS)
        self._parser = open_parser(options.parser) if PARTS.get(self._category) == ("attributes",) else None
        self.judge: str | None = f"{options.judge}, T2I-CompBench's ratings"

    def identity(self) -> Mapping[str, Any]:
        """Return the model, and the parser of attributes."""
        parser = {"parser": self._parser.name} if self._parser else {}
        return {"judge": self.judge, **self._model.identity(), **parser}

    def metadata(self, prompt: Prompt) -> dict[str, Any]:
        """Return nothing."""
        return {}

    def load(self, device: "torch.device") -> JudgeImages:
        """Return the judge. Raises UserError for a model that cannot be used."""
        vlm = self._model.open(device)

        def judge(images: Sequence[np.ndarray], prompts: Sequence[Prompt]) -> list[dict[str, Any]]:
            with judging("take another server"):
                return [self._rate(vlm, *each) for each in zip(images, prompts, strict=True)]

        return judge

    def scores(self, verdicts: Sequence[Sequence[Mapping[str, Any]]], seed: int, resamples: int) -> dict[str, Any]:
        """Return the category's mean score."""
        return _scores(self._category, self.prompts, verdicts, seed, resamples)

    def _rate(self, vlm: "Vlm", image: np.ndarray, prompt: Prompt) -> dict[str, Any]:
        encoded, phrases = encode_png(image), self._parser.phrases(prompt.caption) if self._parser else []
        if self._parser and not phrases:
            raise UserError(f"{self._parser.name} finds no noun phrase in {prompt.caption!r}; give another --parser")
        (described,) = vlm.write([encoded], [describe_question(prompt.category)], [0])
        if described.error or not described.text.strip():
            raise UserError(f"{self._model.name} described no image of {prompt.caption!r}: {described.error}")
        description = described.text.strip()
        asked = rating_questions(prompt.category, prompt.caption, phrases, description)
        answers = vlm.write([encoded] * len(asked), asked, [0] * len(asked))
        ratings = [self._level(answer, prompt) for answer in answers]
        return {"score": rated(ratings), "answers": ratings, "description": description}

    def _level(self, answer: Answer, prompt: Prompt) -> float:
        level = rating(answer, prompt.category)
        if level is None:
            raise UserError(
                f"{self._model.name} gave no level for {prompt.caption!r}: {answer.error or answer.text[:80]!r}; "
                "expected a number of those asked for. The same command asks again"
            )
        return level


def _verdict(judges: Mapping[Part, PartJudge], image: np.ndarray, prompt: Prompt) -> dict[str, Any]:
    parts = {part: judges[part](image, prompt) for part in parts_of(prompt)}
    return {"score": float(np.mean(list(parts.values()))), "parts": parts}


def _scores(
    category: str,
    prompts: Sequence[Prompt],
    verdicts: Sequence[Sequence[Mapping[str, Any]]],
    seed: int,
    resamples: int,
) -> dict[str, Any]:
    groups: dict[str, tuple[list[float], list[str]]] = {category: ([], [])}

    def add(name: str, value: float, caption: str) -> None:
        values, captions = groups.setdefault(name, ([], []))
        values.append(value)
        captions.append(caption)

    for prompt, row in zip(prompts, verdicts, strict=True):
        for verdict in row:
            add(category, float(verdict["score"]), prompt.caption)
            for part in parts_of(prompt) if category == "complex" and "parts" in verdict else ():
                add(part, float(verdict["parts"].get(part, 0.0)), prompt.caption)
    return {
        name: bootstrap_mean(values, captions, seed, resamples=resamples).as_dict()
        for name, (values, captions) in groups.items()
    }
