"""`lightgen estimate`: disk, FLOPs, device-hours and cost of a recipe.

Loads no model and no torch. `docs/estimate.md` defines each quantity and works one recipe out by hand.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from flows.commands.known_models import known
from flows.commands.sizes import Size, embedding_width, picture_size, token_sizes
from flows.did_you_mean import did_you_mean
from flows.distill import NAMES
from flows.errors import UserError
from lightgen_core.config import LoopConfig
from lightgen_core.encoders.model_ref import parse_model_ref
from lightgen_core.model.flops import (
    expected_training_flops,
    forward_flops,
    num_masked_probabilities,
    sampling_flops,
    student_parameters,
)
from lightgen_core.scene.vocabulary import CATEGORIES
from tasks.config.recipe import Recipe

CAPTION = 200
"""Bytes of a caption with its topic, meaning and ids."""
PHOTO = 1.6
"""PNG bytes per pixel of a photograph; 0.17 for a flat scene (measured over the demo's 12,000)."""
SCENE = 0.17
CHECKPOINT = 16
"""Bytes per parameter of a checkpoint: weights, their average, two moments of the optimizer, all fp32."""
STUDENT = 8
"""Bytes per parameter of a finished student: raw and averaged weights."""


@dataclass(frozen=True)
class Rates:
    """Speed and price of the device.

    throughput: measured items per second of a stage, used instead of its FLOPs; tflops: peak of the device in the
    recipe's precision, TFLOP/s; mfu: model FLOPs utilization, 0 to 1; price: of a device-hour.
    """

    throughput: Mapping[str, float] = field(default_factory=dict)
    tflops: float = 989.0
    mfu: float = 0.4
    price: float | None = None


@dataclass(frozen=True)
class Work:
    """Cost of a stage. items: counted by its throughput; flops None: unknown; scratch: bytes of disk while it runs."""

    items: float
    unit: str
    bytes: float
    flops: float | None = 0.0
    scratch: float = 0.0
    note: str = ""


@dataclass(frozen=True)
class Estimator:
    """Cost model of a recipe. words: text tokens of a caption, padding to the batch's longest included."""

    recipe: Recipe
    words: int

    @property
    def rows(self) -> int:
        """Upper bound on token rows: nothing dropped by dedup, every image flipped."""
        return self.recipe.synthesis.count * (2 if self.recipe.tokens.flip else 1)

    @property
    def parameters(self) -> int:
        """Parameters of the student."""
        return student_parameters(self.recipe.pretrain.model, self.recipe.pretrain.head)

    @property
    def sizes(self) -> dict[int | None, Size]:
        """Image sizes that are tokenized, by the recipe's name."""
        return token_sizes(self.recipe)

    @property
    def _last(self) -> Size:
        return self.sizes[self.recipe.phases[-1][0]]

    @property
    def _text_bytes(self) -> int:
        return 2 * self.words * self.recipe.pretrain.model.text_width

    @property
    def _picture_bytes(self) -> float:
        height, width = picture_size(self.recipe)
        return height * width * (SCENE if self.recipe.synthesis.teacher == "scene" else PHOTO)

    def captions(self) -> Work:
        """Estimate the captions; those of the scene grammar cost nothing."""
        own = self.recipe.captions.source == "scene"
        return Work(
            self.recipe.captions.count,
            "captions",
            self.recipe.captions.count * CAPTION,
            0.0 if own else None,
            note="" if own else "the language model's work depends on its answers",
        )

    def synthesis(self) -> Work:
        """Estimate the teacher's images."""
        count = self.recipe.synthesis.count
        flops, note = self._teacher()
        return Work(count, "images", count * (self._picture_bytes + CAPTION), flops, note=note)

    def _teacher(self) -> tuple[float | None, str]:
        """Return the FLOPs of all images (None if unknown) and a note."""
        asked = self.recipe.synthesis
        if asked.teacher == "scene":
            return 0.0, "drawn on the CPU"
        teacher = asked.diffusers
        if asked.teacher != "diffusers" or teacher is None:
            return 0.0, "nothing is drawn here; the pictures' size is a guess where the recipe does not say it"
        about = known(parse_model_ref(teacher.model))
        if about is None or teacher.steps is None:
            return None, "the teacher's FLOPs are not known; give --throughput synthesis=IMAGES_PER_SECOND"
        height, width = picture_size(self.recipe)
        passes = asked.count * teacher.steps * (height // 16 * (width // 16) + 512)
        return (
            2 * about.parameters * passes,
            "2 x parameters x tokens x steps of the teacher; its text encoder is left out",
        )

    def embeddings(self) -> Work:
        """Estimate one float32 vector per image and per caption."""
        width = embedding_width(self.recipe.embeddings.model)
        count = self.recipe.synthesis.count
        note = "" if width else "width of the embeddings taken as 1024"
        return Work(count, "images", count * (8 * (width or 1024) + 12), None, note=note)

    def dedup(self) -> Work:
        """Estimate one verdict per image."""
        return Work(self.recipe.synthesis.count, "images", self.recipe.synthesis.count * 20, note="on the CPU")

    def tokens(self) -> Work:
        """Estimate latents of each size and text states, each caption encoded once."""
        asked = self.recipe.tokens
        stored = 2 if asked.latents == "moments" else 1
        disk = self.rows * sum(stored * size.latent_bytes + self._text_bytes + CAPTION for size in self.sizes.values())
        codec, text = known(parse_model_ref(asked.codec)), known(parse_model_ref(asked.text_encoder))
        if codec is None or codec.encoder_flops is None or text is None:
            return Work(self.rows, "rows", disk, None, note="FLOPs of codec or text encoder are not known")
        pixels = self.rows * sum(size.height * size.width for size in self.sizes.values())
        reading = 2 * text.parameters * self.words * self.recipe.captions.count
        return Work(self.rows, "rows", disk, codec.encoder_flops * pixels + reading)

    def pretrain(self) -> Work:
        """Estimate all phases of training."""
        phases = [(self.sizes[size].tokens, config) for size, config in self.recipe.phases]
        images = sum(config.steps * config.batch_size for _, config in phases)
        flops = sum(config.steps * config.batch_size * self._training(tokens, config) for tokens, config in phases)
        keep = max(config.keep_checkpoints for _, config in phases)
        return Work(images, "images", self.parameters * STUDENT, flops, self.parameters * CHECKPOINT * keep)

    def _training(self, tokens: int, config: LoopConfig) -> float:
        """Return FLOPs of one image, forward and backward, averaged over masks."""
        model, head = self.recipe.pretrain.model, self.recipe.pretrain.head
        return expected_training_flops(
            model,
            head,
            config.mask,
            tokens=tokens,
            text_tokens=self.words,
            noise_samples=config.noise_samples_per_token,
        )

    def pairs(self) -> Work:
        """Estimate the samples and the winner and loser that are stored."""
        asked = self.recipe.pairs
        row = 2 * self._last.latent_bytes + self._text_bytes + 2 * self._picture_bytes + CAPTION
        samples = asked.count * asked.samples
        return Work(samples, "samples", asked.count * row, samples * self._sampling())

    def _sampling(self) -> float:
        """Return FLOPs of sampling one image, with its decoder if known."""
        model, head, sampler = self.recipe.pretrain.model, self.recipe.pretrain.head, self.recipe.sampler
        flops = sampling_flops(model, head, sampler, tokens=self._last.tokens, text_tokens=self.words)
        about = known(parse_model_ref(self.recipe.tokens.codec))
        return flops + self._last.height * self._last.width * ((about and about.decoder_flops) or 0.0)

    def dpo(self) -> Work:
        """Estimate policy forward and backward and reference forward, per pair."""
        config, model, head = self.recipe.dpo, self.recipe.pretrain.model, self.recipe.pretrain.head
        tokens, noise_samples = self._last.tokens, config.noise_samples_per_token
        reference = sum(
            share
            * sum(
                forward_flops(
                    model, head, tokens=tokens, masked=n, text_tokens=self.words, noise_samples=noise_samples
                ).values()
            )
            for n, share in num_masked_probabilities(tokens, config.mask).items()
        )
        images = 2 * config.steps * config.batch_size
        flops = images * (self._training(tokens, config) + reference)
        scratch = self.parameters * CHECKPOINT * config.keep_checkpoints
        return Work(
            images, "images", self.parameters * STUDENT, flops, scratch, "winner and loser, policy and reference"
        )

    def evaluation(self) -> Work:
        """Estimate the samples of both students."""
        asked = self.recipe.evaluation
        samples = 2 * len(CATEGORIES) * asked.per_category * asked.images
        return Work(samples, "samples", samples * self._picture_bytes, samples * self._sampling())

    def report(self) -> Work:
        """Estimate the page and the exported student."""
        return Work(1, "pages", self.parameters * STUDENT + 1e6, note="the tuned student, exported")


def parse_throughput(given: Sequence[str]) -> dict[str, float]:
    """Parse "STAGE=ITEMS_PER_SECOND".

    Raises:
        UserError: another form, an unknown stage, or a number that is not above 0.
    """
    rates: dict[str, float] = {}
    for text in given:
        stage, _, number = text.partition("=")
        try:
            rates[stage] = float(number)
        except ValueError:
            rates[stage] = 0.0
        if stage not in NAMES or not rates[stage] > 0:
            raise UserError(
                f"--throughput {text!r} is not of the form STAGE=ITEMS_PER_SECOND, for example pretrain=420."
                f"{'' if stage in NAMES else did_you_mean(stage, NAMES)} Stages: {', '.join(NAMES)}."
            )
    return rates


def estimate(recipe: Recipe, rates: Rates, words: int | None = None) -> dict[str, Any]:
    """Estimate a recipe: a row for each stage, and the totals.

    Args:
        words: text tokens of a caption on average; default: the maximum, `tokens.max_text_tokens`.

    Raises:
        UnknownModelSize: the size of a component is unknown until it is downloaded.
    """
    estimator = Estimator(recipe, min(words or recipe.tokens.max_text_tokens, recipe.tokens.max_text_tokens))
    rows = [_row(name, getattr(estimator, name)(), rates) for name in NAMES]
    hours = [row["device_hours"] for row in rows]
    untold = [row["stage"] for row in rows if row["device_hours"] is None]
    total = sum(hour for hour in hours if hour is not None)
    return {
        "recipe": recipe.name,
        "images": recipe.synthesis.count,
        "parameters": estimator.parameters,
        "tokens_per_image": {str(name or "as they are"): size.tokens for name, size in estimator.sizes.items()},
        "words_per_caption": estimator.words,
        "stages": rows,
        "total": {
            "bytes": sum(row["bytes"] for row in rows),
            "largest_scratch_bytes": max(row["scratch_bytes"] for row in rows),
            "flops": sum(row["flops"] or 0 for row in rows),
            "device_hours": total,
            "money": None if rates.price is None else total * rates.price,
            "not_counted": untold,
        },
        "assumed": {
            "tflops": rates.tflops,
            "mfu": rates.mfu,
            "throughput": dict(rates.throughput),
            "price": rates.price,
        },
    }


def _row(stage: str, work: Work, rates: Rates) -> dict[str, Any]:
    seconds: float | None = None
    if stage in rates.throughput:
        seconds = work.items / rates.throughput[stage]
    elif work.flops is not None:
        seconds = work.flops / (rates.tflops * 1e12 * rates.mfu)
    return {
        "stage": stage,
        "items": work.items,
        "unit": work.unit,
        "bytes": round(work.bytes),
        "scratch_bytes": round(work.scratch),
        "flops": work.flops,
        "device_hours": None if seconds is None else seconds / 3600,
        "money": None if seconds is None or rates.price is None else seconds / 3600 * rates.price,
        "note": work.note,
    }
