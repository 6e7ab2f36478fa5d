"""Scorers of images and their captions: one, or several by a weighted sum."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, UInt8

from lightgen_core.captioning.parse import Answer
from lightgen_core.evaluation.scene import judge_scenes
from lightgen_core.evaluation.scorer_config import ScorerConfig
from lightgen_core.vlm.config import QuestionConfig, VlmConfig, VqaConfig

if TYPE_CHECKING:
    import torch

    from lightgen_core.vlm.vlm import Vlm

Image = UInt8[np.ndarray, "_ _ 3"]
Scores = Float[np.ndarray, " images"]
Score = Callable[[Sequence[Image], Sequence[str]], Scores]
"""Images and their captions to scores, higher for better."""


class ScorerError(ValueError):
    """A scorer that cannot be used on these images."""


@dataclass(frozen=True)
class Part:
    """A scorer, its weight in the sum, and the lead that a winner needs in it alone."""

    score: Score
    weight: float = 1.0
    margin: float | None = None


@dataclass(frozen=True)
class Scorers:
    """Scorers by name."""

    parts: Mapping[str, Part]

    def __call__(self, images: Sequence[Image], captions: Sequence[str]) -> dict[str, Scores]:
        """Return each scorer's scores of images with their captions."""
        return {name: np.asarray(part.score(images, captions), float) for name, part in self.parts.items()}

    def total(self, scores: Mapping[str, Scores]) -> Scores:
        """Return the weighted sum of each image's scores."""
        return np.sum([part.weight * scores[name] for name, part in self.parts.items()], axis=0)

    @property
    def margins(self) -> dict[str, float]:
        """The leads that winners need in single scores, by scorer."""
        return {name: part.margin for name, part in self.parts.items() if part.margin is not None}


def load_scorers(
    configs: Sequence[ScorerConfig],
    model: str,
    device: "torch.device",
    vlm: Callable[[VlmConfig], "Vlm"] | None = None,
) -> Scorers:
    """Load scorers; a name that two of them have gets a number.

    Args:
        model: the CLIP of those that name none.
        vlm: loads the model of a judge, or opens the connection to it.

    Raises:
        OcrMissing: tesseract is not installed.
        ClipError, HeadError, ModelNotFound: a model that is not there, or not of that kind.
    """
    parts: dict[str, Part] = {}
    for config in configs:
        number = sum(name.split("-")[0] == config.name for name in parts)
        name = f"{config.name}-{number + 1}" if number else config.name
        parts[name] = Part(_load(config, model, device, vlm), config.weight, config.margin)
    return Scorers(parts)


def _load(
    config: ScorerConfig,
    model: str,
    device: "torch.device",
    vlm: Callable[[VlmConfig], "Vlm"] | None,
) -> Score:
    """Return a scorer. The detector raises CaptionError for a caption outside the scene grammar."""
    if config.kind == "detector":
        return lambda images, captions: judge_scenes(images, captions).astype(float)
    if config.kind == "geneval":
        return _geneval(str(config.model), config.color_model or model, device)
    if config.kind == "ocr":
        return _ocr(config.language or "eng")
    if config.kind == "judge":
        assert vlm is not None and config.judge is not None, "the configuration names a judge"
        return _judge(vlm(config.judge), config.judge)
    if config.kind == "vqascore":
        assert vlm is not None and config.vqa is not None, "the configuration names a model"
        return _vqascore(vlm(config.vqa), config.vqa)
    if config.kind == "pickscore":
        from lightgen_core.encoders.clip_model import ClipModel

        assert config.model is not None, "the configuration names a model"
        return ClipModel.load(config.model, processor=config.processor, device=device).scores
    from lightgen_core.encoders.clip import Clip

    clip = Clip.load(config.model or model, device=device)
    if config.head is None:
        return clip.scores
    from lightgen_core.filters.embedding_head import EmbeddingHead

    head = EmbeddingHead.load(config.head)
    return lambda images, captions: head.scores(clip.embed_image_list(images))


def _geneval(detector: str, color_model: str, device: "torch.device") -> Score:
    """Return a scorer by GenEval's rules, 1 for right and 0 for wrong."""
    from lightgen_core.evaluation.geneval_captions import read_caption
    from lightgen_core.evaluation.judge import load_judge

    judge = load_judge("geneval", detector, color_model, device)
    assert judge is not None, "the benchmark has a judge"

    def score(images: Sequence[Image], captions: Sequence[str]) -> Scores:
        prompts = [read_caption(caption) for caption in captions]
        if other := [caption for caption, prompt in zip(captions, prompts, strict=True) if prompt is None]:
            raise ScorerError(
                f"{len(other)} of {len(captions)} captions are not of GenEval's form, the first: {other[0]!r}; "
                "expected such as 'a photo of two clocks'. Take another scorer"
            )
        return judge(images, [prompt for prompt in prompts if prompt]).astype(float)

    return score


def _ocr(language: str) -> Score:
    """Return a scorer by the text that is read in an image, beside the text that its caption quotes."""
    from lightgen_core.evaluation.ocr import Tesseract, captions_without_text, quoted_text, text_score

    reader = Tesseract.load(language)

    def score(images: Sequence[Image], captions: Sequence[str]) -> Scores:
        if other := captions_without_text(captions):
            raise ScorerError(
                f"{len(other)} of {len(captions)} captions quote no text, the first: {other[0]!r}; expected such as "
                "'a sign that says \"OPEN\"'. Take another scorer"
            )
        wanted = [quoted_text(caption) or "" for caption in captions]
        return np.array([text_score(reader.read(image), text) for image, text in zip(images, wanted, strict=True)])

    return score


def _judge(model: "Vlm", judge: QuestionConfig) -> Score:
    """Return a scorer that asks a vision-language model; its answers are scaled to 0..1."""
    from lightgen_core.images.codec import encode_png
    from lightgen_core.vlm.judge import judge_prompt, parse_score

    def score(images: Sequence[Image], captions: Sequence[str]) -> Scores:
        texts = [judge_prompt(judge, caption) for caption in captions]
        answers = model.write([encode_png(image) for image in images], texts, [0] * len(texts))
        scores = [parse_score(answer, judge) for answer in answers]
        if missing := [row for row, value in enumerate(scores) if value is None]:
            first = answers[missing[0]]
            raise ScorerError(
                f"{len(missing)} of {len(scores)} answers of {judge.model} hold no number from {judge.lowest:g} to "
                f"{judge.highest:g}; the first: {first.error or first.text!r}; change the judge's prompt"
            )
        return (np.array(scores, float) - judge.lowest) / (judge.highest - judge.lowest)

    return score


def _vqascore(model: "Vlm", question: VqaConfig) -> Score:
    """Return a scorer by the probability that an image's caption is said to be shown (Lin et al. 2024)."""
    from lightgen_core.evaluation.vqa import answer_probability
    from lightgen_core.images.codec import encode_png

    def score(images: Sequence[Image], captions: Sequence[str]) -> Scores:
        texts = [question.prompt.format(caption=caption) for caption in captions]
        answers = model.first_tokens([encode_png(image) for image in images], texts)
        if failed := [answer for answer in answers if isinstance(answer, Answer)]:
            raise ScorerError(f"{len(failed)} of {len(answers)} requests to {question.model} failed: {failed[0].error}")
        return np.array([answer_probability(answer, "yes") for answer in answers if not isinstance(answer, Answer)])

    return score
