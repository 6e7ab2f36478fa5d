"""Benchmarks that ask a vision-language model about each image: DPG-Bench, GenEval 2."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from flows.commands.evaluate_asked_model import AskedModel, judging
from flows.commands.evaluate_options import EvaluationOptions
from flows.errors import UserError
from lightgen_core.captioning.parse import Answer
from lightgen_core.evaluation.prompt import Prompt, limit_per_category
from lightgen_core.evaluation.vqa import (
    Question,
    answer_probability,
    asked,
    dpg_score,
    geometric_mean,
    is_right,
    questions_of,
    read_dpg,
    read_geneval2,
    vqa_scores,
)
from lightgen_core.images.codec import encode_png
from tasks.config.recipe import Recipe

if TYPE_CHECKING:
    import torch

    from lightgen_core.vlm.vlm import FirstTokens, Vlm

_RULES = {
    "dpg": "DPG-Bench's rule",
    "geneval2": "Soft-TIFA GM",
    "geneval2-tifa": "TIFA",
}


class AskingBenchmark:
    """Questions about each image, which a vision-language model answers.

    dpg: an answer that is no "yes" counts 0, and so does each question that presupposes it. geneval2: the probability
    of the right answer, geometric mean of an image. geneval2-tifa: the share of right answers.
    """

    withheld: dict[str, Any] = {"score": 0.0, "answers": []}  # noqa: RUF012 (a constant; no question was answered)

    def __init__(self, recipe: Recipe, options: EvaluationOptions, source: object) -> None:
        assert options.benchmark and options.questions and options.judge  # checked with the options
        self.name, self._model = options.benchmark, AskedModel(options.judge)
        self.judge: str | None = f"{options.judge}, {_RULES[self.name]}"
        read = read_dpg if self.name == "dpg" else read_geneval2
        per_category = options.per_category  # the recipe's is of another benchmark
        self.prompts: Sequence[Prompt] = limit_per_category(read(options.questions), per_category)

    def identity(self) -> Mapping[str, Any]:
        """Return the model, the rule, and the address or the digest of its weights."""
        return {"judge": self.judge, **self._model.identity()}

    def metadata(self, prompt: Prompt) -> dict[str, Any]:
        """Return the prompt's questions."""
        return {"questions": [question.text for question in questions_of(prompt)]}

    def load(self, device: "torch.device") -> Any:
        """Return the judge. Raises UserError for an address, a key or a model that cannot be used."""
        vlm = self._model.open(device)

        def judge(images: Sequence[np.ndarray], prompts: Sequence[Prompt]) -> list[dict[str, Any]]:
            with judging("Soft-TIFA needs them, --benchmark geneval2-tifa does not"):
                return [self._verdict(vlm, image, prompt) for image, prompt in zip(images, prompts, strict=True)]

        return judge

    def scores(self, verdicts: Sequence[Sequence[Mapping[str, Any]]], seed: int, resamples: int) -> dict[str, Any]:
        """Return the mean score of images, by category where there are several, and of answers by skill."""
        return vqa_scores(self.prompts, verdicts, seed, resamples)

    def _verdict(self, vlm: "Vlm", image: np.ndarray, prompt: Prompt) -> dict[str, Any]:
        questions, encoded = questions_of(prompt), encode_png(image)
        texts = [asked(question) for question in questions]
        images, seeds = [encoded] * len(texts), [0] * len(texts)
        if self.name == "geneval2":
            soft = [self._soft(*each) for each in zip(vlm.first_tokens(images, texts), questions, strict=True)]
            return {"score": geometric_mean(soft), "answers": soft}
        right = [self._hard(*each) for each in zip(vlm.write(images, texts, seeds), questions, strict=True)]
        return {"score": dpg_score(right, questions) if self.name == "dpg" else float(np.mean(right)), "answers": right}

    def _hard(self, answer: Answer, question: Question) -> bool:
        right = is_right(answer, question)
        if right is None:
            raise UserError(
                f"{self._model.name} gave no usable answer to {question.text!r}: {answer.error or answer.text[:80]!r}; "
                "expected one that begins with the word asked for. The same command asks again"
            )
        return right

    def _soft(self, tokens: "FirstTokens | Answer", question: Question) -> float:
        if isinstance(tokens, Answer):
            raise UserError(f"{self._model.name} gave no answer to {question.text!r}: {tokens.error}")
        return answer_probability(tokens, question.answer)
