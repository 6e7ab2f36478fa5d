"""`lightgen eval`: score a student or a diffusers pipeline on a benchmark."""

import json
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from flows.checkpoint import find_student
from flows.commands.options import drop_unset
from flows.errors import UserError
from flows.folders import require_student, require_writable
from flows.load import load_recipe
from lightgen_core.config import SamplerConfig
from lightgen_core.encoders.model_ref import parse_model_ref
from lightgen_core.evaluation.geneval_prompts import Requirement
from lightgen_core.evaluation.judge import JUDGES, Judge, load_judge
from lightgen_core.evaluation.prompt import Prompt
from lightgen_core.evaluation.scores import score_table
from lightgen_core.images.codec import encode_png
from lightgen_core.rejected import Reason, Rejected
from lightgen_core.seeds import derive_seed
from lightgen_core.teachers.config import DiffusersConfig
from tasks.config.recipe import Recipe
from tasks.config.sections import Evaluation
from tasks.config.settings import Settings
from tasks.evaluation_prompts import evaluation_prompts

if TYPE_CHECKING:
    import torch

    from lightgen_core.teachers.diffusers_teacher import Offload

log = logging.getLogger("lightgen")

DIFFUSERS = "diffusers:"
"""Prefix of a diffusers pipeline's name; other names are folders with a student."""

_STUDENT_BATCH, _PIPELINE_BATCH = 64, 4  # images

Generate = Callable[[Sequence[str], Sequence[int]], Iterable[np.ndarray | Rejected]]
"""Captions and seeds to images uint8 (height, width, 3), or the reason for having none."""


class EvaluatedImage(NamedTuple):
    """One judged image; one that the pipeline's safety checker removed counts as wrong."""

    prompt: int
    """Index of its prompt."""
    number: int
    """Index among the prompt's images."""
    seed: int
    image: np.ndarray | Rejected
    correct: bool


def evaluate(
    model: str,
    *,
    recipe: str | None = None,
    benchmark: str | None = None,
    images: int | None = None,
    per_category: int | None = None,
    seed: int | None = None,
    steps: int | None = None,
    cfg: float | None = None,
    metadata: Path | None = None,
    output: Path | None = None,
) -> dict[str, Any]:
    """Score a model; return what `lightgen eval --json` prints.

    Options that are not given come from the recipe, or its defaults.

    Args:
        model: a folder with a student, or `diffusers:` and a folder or hub id.
        benchmark: "scene" or "geneval"; metadata implies the latter.
        steps: iterations of a student, denoising steps of a pipeline; default: the recipe's, or its own.
        metadata: GenEval's own `evaluation_metadata.jsonl`.
        output: folder for the images, in GenEval's own layout, and `results.jsonl`.

    Raises:
        UserError: no such model, a benchmark without a judge, a prompt that the pipeline cannot generate, or an output
            folder that cannot be written.
        ModelNotFound: the path of a pipeline does not exist.
        PromptFileError: metadata not in GenEval's format.
    """
    config = _override_recipe(recipe, benchmark, images, per_category, seed, metadata)
    section, pipeline, reference = config.evaluation, model.startswith(DIFFUSERS), model.removeprefix(DIFFUSERS)
    if pipeline:
        parse_model_ref(reference)
    else:
        folder = find_student(model).folder
        require_student(folder)
    if output is not None:
        require_writable(output)
    from lightgen_core.device import pick_device

    prompts, settings, started = evaluation_prompts(config), Settings(), time.monotonic()
    device = pick_device(settings.device, settings.threads)
    try:
        if pipeline:
            generate = _load_pipeline(reference, device, settings.offload, steps, cfg)
        else:
            generate = _load_student(folder, device, config.sampler if recipe else None, steps, cfg)
    except (OSError, ValueError) as error:  # what loaders raise for a name that holds no such model
        raise UserError(str(error)) from error
    try:
        judge = load_judge(section.benchmark, section.detector, section.color_model, device)
    except (OSError, ValueError) as error:
        raise UserError(
            f"{error}\nGenEval's judge is {section.detector} and, for colours, {section.color_model}. Download them "
            "first, or give a --recipe with evaluation.detector and evaluation.color_model."
        ) from error
    assert judge is not None
    correct, results = np.zeros((len(prompts), section.images), dtype=bool), []
    batch_size = _PIPELINE_BATCH if pipeline else _STUDENT_BATCH
    for evaluated in _evaluate_images(generate, judge, prompts, config, batch_size):
        correct[evaluated.prompt, evaluated.number] = evaluated.correct
        if output is not None:
            results.append(_write_image(output, prompts[evaluated.prompt], section.benchmark, evaluated))
    if output is not None:
        (output / "results.jsonl").write_text("".join(json.dumps(result) + "\n" for result in results))
    return {
        "model": model,
        "benchmark": section.benchmark,
        "judge": JUDGES[section.benchmark],
        "prompts": section.prompts or f"{len(prompts)} of the benchmark",
        "seed": config.seed,
        "seconds": round(time.monotonic() - started, 3),
        "scores": score_table(correct, prompts, derive_seed(config.seed, "bootstrap"), section.resamples),
    }


def _override_recipe(
    recipe: str | None,
    benchmark: str | None,
    images: int | None,
    per_category: int | None,
    seed: int | None,
    metadata: Path | None,
) -> Recipe:
    """Return the recipe with its evaluation overridden by the options."""
    base = load_recipe(recipe) if recipe else Recipe(name="eval")
    section = base.evaluation.model_dump() | drop_unset(
        benchmark=benchmark or ("geneval" if metadata else None),
        images=images,
        per_category=per_category,
        prompts=str(metadata) if metadata else None,
    )
    if benchmark == "scene":
        section["prompts"] = None
    if section["benchmark"] not in JUDGES:
        raise UserError(
            f"nobody judges pictures of the recipe's {section['benchmark']}; give --benchmark geneval or scene"
        )
    if metadata and section["benchmark"] != "geneval":
        raise UserError(f"--metadata goes with --benchmark geneval, not with {section['benchmark']}")
    return base.model_copy(update={"evaluation": Evaluation.model_validate(section)} | drop_unset(seed=seed))


def _load_student(
    folder: Path, device: "torch.device", sampler: SamplerConfig | None, steps: int | None, cfg: float | None
) -> Generate:
    from lightgen_core.sampling.text_to_image import TextToImage

    student = TextToImage.load(folder, device)
    changed = (sampler or student.sampler).model_dump() | drop_unset(iterations=steps, guidance_scale=cfg)
    config = SamplerConfig.model_validate(changed)
    return lambda captions, seeds: student.sample(captions, seeds, sampler=config).images


def _load_pipeline(
    reference: str, device: "torch.device", offload: "Offload", steps: int | None, cfg: float | None
) -> Generate:
    """Load a pipeline as `synthesis` does. Raises UserError if it takes no text, steps or guidance."""
    from lightgen_core.teachers.base import TeacherError
    from lightgen_core.teachers.diffusers_teacher import DiffusersTeacher

    dtype: Literal["float32", "bfloat16"] = "float32" if device.type == "cpu" else "bfloat16"
    config = DiffusersConfig(model=reference, dtype=dtype, steps=steps, guidance_scale=cfg, batch_size=_PIPELINE_BATCH)
    try:
        return DiffusersTeacher.load(config, device, offload).generate
    except TeacherError as error:
        raise UserError(str(error)) from error


def _evaluate_images(
    generate: Generate, judge: Judge, prompts: list[Prompt], recipe: Recipe, batch_size: int
) -> Iterator[EvaluatedImage]:
    """Generate and judge all images in batches, logging the time left."""
    indices = [(prompt, number) for prompt in range(len(prompts)) for number in range(recipe.evaluation.images)]
    started = time.monotonic()
    for start in range(0, len(indices), batch_size):
        batch = indices[start : start + batch_size]
        batch_prompts = [prompts[prompt] for prompt, _ in batch]
        seeds = [derive_seed(recipe.seed, "evaluation", *index) for index in batch]
        images = list(generate([prompt.caption for prompt in batch_prompts], seeds))
        verdicts = _judge_images(judge, images, batch_prompts)
        for index, seed, image, correct in zip(batch, seeds, images, verdicts, strict=True):
            yield EvaluatedImage(*index, seed, image, correct)
        done = start + len(batch)
        left = (time.monotonic() - started) / done * (len(indices) - done)
        log.info("%d of %d pictures, %.0f s left", done, len(indices), left)


def _judge_images(judge: Judge, images: Sequence[np.ndarray | Rejected], prompts: Sequence[Prompt]) -> list[bool]:
    """Judge images; one removed by the safety checker is wrong, as its black substitute would be.

    Raises:
        UserError: an image is missing for another reason, which a score must not hide.
    """
    generated: list[tuple[np.ndarray, Prompt]] = []
    for image, prompt in zip(images, prompts, strict=True):
        if not isinstance(image, Rejected):
            generated.append((image, prompt))
        elif image.reason is Reason.UNSAFE_CONTENT:
            log.warning("%r counts as wrong: %s", prompt.caption, image)
        else:
            hint = "\nTry LIGHTGEN_OFFLOAD=model." if image.reason is Reason.OUT_OF_MEMORY else ""
            raise UserError(f"no picture of {prompt.caption!r}: {image}{hint}")
    verdicts = iter(judge(*map(list, zip(*generated, strict=True))) if generated else ())
    return [not isinstance(image, Rejected) and bool(next(verdicts)) for image in images]


def _write_image(output: Path, prompt: Prompt, benchmark: str, evaluated: EvaluatedImage) -> dict[str, Any]:
    """Write an image in GenEval's layout; return its line of `results.jsonl`."""
    folder = output / f"{evaluated.prompt:05d}"
    path = folder / "samples" / f"{evaluated.number:04d}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    about = {"tag": prompt.category, "prompt": prompt.caption}
    required = Requirement.model_validate_json(prompt.meaning).as_metadata() if benchmark == "geneval" else {}
    (folder / "metadata.jsonl").write_text(json.dumps(about | required) + "\n")
    result = {"filename": str(path.relative_to(output)), **about, "correct": evaluated.correct, "seed": evaluated.seed}
    if isinstance(evaluated.image, Rejected):
        return result | {"filename": None, "reason": evaluated.image.reason}
    path.write_bytes(encode_png(evaluated.image))
    return result
