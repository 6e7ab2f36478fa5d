"""`lightgen estimate`: disk, FLOPs, device-hours and cost of a recipe.

Loads no model and no torch. `docs/estimate.md` defines each quantity and works one recipe out by hand.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from flows.commands.student_work import StudentWork
from flows.commands.teacher_work import teacher_flops
from flows.did_you_mean import did_you_mean
from flows.distill import ALL_NAMES
from flows.errors import UserError
from flows.known_models import known_model
from flows.sizes import (
    check_sizes,
    embedding_width,
    feature_channels,
    image_size,
    projector_config,
    student_config,
    text_width,
    token_sizes,
)
from lightgen_core.images.location import ZOO
from lightgen_core.model.flops import few_step_parameters, projector_parameters, student_parameters
from lightgen_core.scene.vocabulary import CATEGORIES
from tasks.config.distil_head import DistilHead
from tasks.config.recipe import Recipe
from tasks.evaluation_prompts import evaluation_prompts

if TYPE_CHECKING:
    from flows.commands.measured_here import Measured

CAPTION_BYTES = 200
"""Bytes of a caption with its topic, meaning and ids."""
PHOTO_BYTES, SCENE_BYTES = 1.6, 0.19
"""PNG bytes per pixel of a photograph, where lossless WebP has less, and of a flat scene (measured on the demo's)."""
LOSSY_BYTES = 0.4
"""Bytes per pixel of a JPEG or lossy WebP of quality 95 or less (`python -m benchmarks.ingest`)."""
CHECKPOINT_BYTES = 16
"""Bytes per parameter of a checkpoint: weights, their average, two moments of the optimizer, all fp32."""
STUDENT_BYTES = 8
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
class StageCost:
    """Cost of a stage.

    items: counted by its throughput; flops None: unknown; scratch: bytes of disk while it runs; shard: items of a
    shard, which a kill can lose, 0 for a stage without shards.
    """

    items: float
    unit: str
    bytes: float
    flops: float | None = 0.0
    scratch: float = 0.0
    note: str = ""
    shard: float = 0.0


def _data_costs(recipe: Recipe, text_tokens: int) -> dict[str, StageCost]:
    """Return the costs of all stages before training, if dedup drops no image."""
    captions, images, tokens = recipe.captions.count, recipe.synthesis.count, recipe.tokens
    shard = min(recipe.synthesis.shard_size, images)
    written, width = _has_written_captions(recipe), embedding_width(recipe.embeddings.model)
    writing = "the language model's work depends on its answers" if written else ""
    drawing, how = teacher_flops(recipe, text_tokens)
    row_bytes = _image_bytes(recipe) + CAPTION_BYTES
    if recipe.synthesis.recaption is not None:
        row_bytes, how = row_bytes + 2 * CAPTION_BYTES, f"{how}; without the work of recaptioning"
    rows, sizes = images * (2 if tokens.flip else 1), token_sizes(recipe).values()
    latents = 2 if tokens.latents == "moments" else 1
    text_bytes = 2 * text_tokens * text_width(tokens.text_encoder, recipe.pretrain.model.text_width)
    texts = min(captions, images) + (0 if recipe.synthesis.recaption is None else 2 * images)
    token_bytes = texts * (text_bytes + CAPTION_BYTES)
    features = 2 * feature_channels(recipe)
    token_bytes += rows * sum(latents * size.latent_bytes + features * size.tokens + CAPTION_BYTES for size in sizes)
    codec, text = known_model(tokens.codec), known_model(tokens.text_encoder)
    encoding, lacking = None, "FLOPs of codec or text encoder are not known"
    if tokens.features is not None:
        lacking = "FLOPs of the encoder of features are not known"
    elif codec is not None and codec.encoder_flops is not None and text is not None:
        pixels = rows * sum(size.height * size.width for size in sizes)
        encoding, lacking = codec.encoder_flops * pixels + 2 * text.parameters * text_tokens * texts, ""
    return {
        "captions": StageCost(captions, "captions", captions * CAPTION_BYTES, None if written else 0.0, note=writing),
        "synthesis": StageCost(images, "images", images * row_bytes, drawing, note=how, shard=shard),
        "embeddings": StageCost(
            images,
            "images",
            images * (8 * (width or 1024) + 12),  # a float32 vector per image and per caption
            None,
            note="" if width else "width of the embeddings taken as 1024",
            shard=shard,
        ),
        "dedup": StageCost(images, "images", images * 20, note="on the CPU"),
        "tokens": StageCost(rows, "rows", token_bytes, encoding, note=lacking, shard=shard * rows / images),
    }


def _training_costs(recipe: Recipe, text_tokens: int) -> dict[str, StageCost]:
    """Return the costs of training and all stages after it; those of preference tuning for all rounds."""
    work, sizes, phases = StudentWork(recipe, text_tokens), token_sizes(recipe), recipe.phases
    student, checkpoint = work.parameters * STUDENT_BYTES, work.parameters * CHECKPOINT_BYTES
    images = sum(config.steps * config.batch_size for _, config in phases)
    flops = sum(config.steps * config.batch_size * work.training(sizes[size].tokens, config) for size, config in phases)
    if projector := projector_config(recipe):
        checkpoint += projector_parameters(work.model, projector) * CHECKPOINT_BYTES
    keep = max(config.keep_checkpoints for _, config in phases)
    students, evaluation = 2 if recipe.dpo.control == "none" else 3, recipe.evaluation
    each = _num_prompts(recipe) * evaluation.images
    samples, sampling = students * each, students * each * work.sampling()
    averaging, distilling = {}, {}
    if recipe.average and recipe.dpo.rounds > 1:
        tuned = 1 if recipe.dpo.control == "none" else 2
        averaged = tuned * min(recipe.average.rounds or recipe.dpo.rounds, recipe.dpo.rounds)
        averaging = {"average": StageCost(averaged, "students", student * tuned, note="weights alone")}
    if section := recipe.distil_head:
        distilling = {"distil_head": _distil_cost(work, section)}
        samples, sampling = samples + each, sampling + each * work.few_step_sampling(section)
    shard = min(evaluation.shard_size, samples)
    return {
        "pretrain": StageCost(images, "images", student, flops, checkpoint * keep),
        **_preference_costs(work),
        **averaging,
        **distilling,
        "evaluation": StageCost(samples, "samples", samples * _png_bytes(recipe), sampling, shard=shard),
        "report": StageCost(1, "pages", student + 1e6, note="the tuned student, exported"),
    }


def _num_prompts(recipe: Recipe) -> int:
    """Return the prompts that the evaluation samples, at most: to list a world's or to build a set takes its time."""
    if recipe.evaluation.benchmark == "scene" or (recipe.evaluation.prompts or "").startswith(ZOO):
        return len(CATEGORIES) * recipe.evaluation.per_category
    return len(evaluation_prompts(recipe))


def _preference_costs(work: StudentWork) -> dict[str, StageCost]:
    recipe, last, model = work.recipe, work.last, work.model
    pairs, dpo, png_bytes = recipe.pairs, recipe.dpo, _png_bytes(recipe)
    rounds = dpo.rounds * (1 if dpo.control == "none" else 2)
    samples, images = pairs.count * pairs.samples * rounds, 2 * dpo.steps * dpo.batch_size * rounds
    pair_bytes = 2 * last.latent_bytes + 2 * work.text_tokens * model.text_width + 2 * png_bytes + CAPTION_BYTES
    bytes_ = pairs.per_caption * pair_bytes + pairs.samples * (last.latent_bytes + CAPTION_BYTES)
    shard = min(pairs.shard_size, pairs.count) * pairs.samples
    return {
        "pairs": StageCost(samples, "samples", pairs.count * bytes_ * rounds, samples * work.sampling(), shard=shard),
        "dpo": StageCost(
            images,
            "images",
            work.parameters * STUDENT_BYTES * rounds,
            images * (work.training(last.tokens, dpo) + work.reference()),
            work.parameters * CHECKPOINT_BYTES * dpo.keep_checkpoints,
            "winner and loser, policy and reference",
        ),
    }


def _distil_cost(work: StudentWork, section: DistilHead) -> StageCost:
    """Return the cost of the few-step student, its teacher's part of each step included."""
    images = section.steps * section.batch_size
    weights = few_step_parameters(work.model, section.head(work.recipe.pretrain.head))
    return StageCost(
        images,
        "images",
        work.parameters * STUDENT_BYTES + 4 * weights,
        images * work.distilling(section),
        weights * CHECKPOINT_BYTES * section.keep_checkpoints,
        "teacher and student",
    )


def _png_bytes(recipe: Recipe) -> float:
    height, width = image_size(recipe)
    drawn = all(each.teacher == "scene" for each in recipe.synthesis.each)
    return height * width * (SCENE_BYTES if drawn else PHOTO_BYTES)


def _has_written_captions(recipe: Recipe) -> bool:
    """Return whether a language model writes captions; those of a grammar or a file cost no arithmetic."""
    return any(origin.source == "llm" for origin in recipe.captions.origins)


def _image_bytes(recipe: Recipe) -> float:
    height, width = image_size(recipe)
    lossy = recipe.synthesis.image_format == "jpeg" or recipe.synthesis.image_quality is not None
    return height * width * LOSSY_BYTES if lossy else _png_bytes(recipe)


def parse_throughput(arguments: Sequence[str]) -> dict[str, float]:
    """Parse "STAGE=ITEMS_PER_SECOND". Raises UserError for another form, an unknown stage, or a number not above 0."""
    rates: dict[str, float] = {}
    for text in arguments:
        stage, _, number = text.partition("=")
        try:
            rates[stage] = float(number)
        except ValueError:
            rates[stage] = 0.0
        if stage not in ALL_NAMES or not rates[stage] > 0:
            raise UserError(
                f"--throughput {text!r} is not of the form STAGE=ITEMS_PER_SECOND, for example pretrain=420."
                f"{'' if stage in ALL_NAMES else did_you_mean(stage, ALL_NAMES)} Stages: {', '.join(ALL_NAMES)}."
            )
    return rates


def stage_costs(recipe: Recipe, text_tokens: int | None = None) -> dict[str, StageCost]:
    """Return the cost of each stage, all rounds of preference tuning together; arguments and errors as `estimate`."""
    text_tokens = min(text_tokens or recipe.tokens.max_text_tokens, recipe.tokens.max_text_tokens)
    return _data_costs(recipe, text_tokens) | _training_costs(recipe, text_tokens)


def estimate(
    recipe: Recipe, rates: Rates, text_tokens: int | None = None, here: "Mapping[str, Measured] | None" = None
) -> dict[str, Any]:
    """Estimate a recipe: a row for each stage, and the totals.

    Args:
        text_tokens: of a caption on average; default: the maximum, `tokens.max_text_tokens`.
        here: speeds of stages that this machine has made.

    Raises:
        UserError: fields of the recipe contradict its components.
        UnknownModelSize: the size of a component is unknown until it is downloaded.
    """
    check_sizes(recipe)
    text_tokens = min(text_tokens or recipe.tokens.max_text_tokens, recipe.tokens.max_text_tokens)
    costs = stage_costs(recipe, text_tokens)
    rows = [_row(name, costs[name], rates, (here or {}).get(name)) for name in ALL_NAMES if name in costs]
    hours = sum(row["device_hours"] for row in rows if row["device_hours"] is not None)
    return {
        "recipe": recipe.name,
        "images": recipe.synthesis.count,
        "parameters": student_parameters(student_config(recipe), recipe.pretrain.head),
        "tokens_per_image": {str(name or "as they are"): size.tokens for name, size in token_sizes(recipe).items()},
        "words_per_caption": text_tokens,
        "stages": rows,
        "total": {
            "bytes": sum(row["bytes"] for row in rows),
            "largest_scratch_bytes": max(row["scratch_bytes"] for row in rows),
            "flops": sum(row["flops"] or 0 for row in rows),
            "device_hours": hours,
            "money": None if rates.price is None else hours * rates.price,
            "seconds_here": sum(row["seconds_here"] or 0.0 for row in rows),
            "not_counted": [row["stage"] for row in rows if row["device_hours"] is None],
        },
        "assumed": {
            "tflops": rates.tflops,
            "mfu": rates.mfu,
            "throughput": dict(rates.throughput),
            "price": rates.price,
        },
    }


def _row(stage: str, cost: StageCost, rates: Rates, here: "Measured | None") -> dict[str, Any]:
    seconds: float | None = None
    if stage in rates.throughput:
        seconds = cost.items / rates.throughput[stage]
    elif cost.flops is not None:
        seconds = cost.flops / (rates.tflops * 1e12 * rates.mfu)
    return {
        "stage": stage,
        "items": cost.items,
        "unit": cost.unit,
        "bytes": round(cost.bytes),
        "scratch_bytes": round(cost.scratch),
        "flops": cost.flops,
        "device_hours": None if seconds is None else seconds / 3600,
        "shard_minutes": None if seconds is None or not cost.shard else seconds / 60 * cost.shard / cost.items,
        "money": None if seconds is None or rates.price is None else seconds / 3600 * rates.price,
        "seconds_here": None if here is None else here.seconds(cost.items, cost.flops),
        "measured": None if here is None else here.artifact,
        "note": cost.note,
    }
