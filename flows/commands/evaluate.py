"""`lightgen eval`: score a student or a diffusers pipeline on a benchmark."""

import json
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from flows.commands.folders import require_student, require_writable
from flows.errors import UserError
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

_AT_ONCE, _PIPELINE_AT_ONCE = 64, 4  # pictures

Draw = Callable[[Sequence[str], Sequence[int]], Iterable[np.ndarray | Rejected]]
"""Captions and seeds to images uint8 (height, width, 3), or the reason for having none."""


@dataclass(frozen=True)
class Judged:
    """One judged image. prompt: index of its prompt; image: its index among the prompt's images.

    An image that the pipeline's safety checker removed counts as wrong.
    """

    prompt: int
    image: int
    seed: int
    picture: np.ndarray | Rejected
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
    """Score a model on a benchmark.

    With the recipe of a student, prompts, seeds and sampler are those of the recipe's own evaluation.

    Args:
        model: a folder with a student, or `diffusers:` and a folder or hub id.
        recipe: source of benchmark, world, sampler, seed and counts that are not given; default: a recipe's
            defaults, and the student's own sampler.
        benchmark: "scene" or "geneval"; metadata implies the latter.
        images: images of each prompt.
        per_category: maximum number of prompts of each category.
        seed: seed of prompts and images.
        steps: iterations of a student, denoising steps of a pipeline; default: the recipe's, or its own.
        cfg: classifier-free guidance scale; default: likewise.
        metadata: GenEval's own `evaluation_metadata.jsonl`.
        output: folder for the images, in GenEval's own layout, and `results.jsonl`.

    Returns:
        The object that `lightgen eval --json` prints.

    Raises:
        UserError: no such model, a benchmark without a judge, a prompt that the pipeline cannot draw, or an output
            folder that cannot be written.
        ModelNotFound: the path of a pipeline does not exist.
        PromptFileError: metadata not in GenEval's format.
    """
    asked = _asked(recipe, benchmark, images, per_category, seed, metadata)
    if model.startswith(DIFFUSERS):
        parse_model_ref(model.removeprefix(DIFFUSERS))
    else:
        require_student(Path(model))
    if output is not None:
        require_writable(output)
    from lightgen_core.device import pick_device

    prompts, settings, started = evaluation_prompts(asked), Settings(), time.monotonic()
    device = pick_device(settings.device, settings.threads)
    try:
        if model.startswith(DIFFUSERS):
            draw = _pipeline(model.removeprefix(DIFFUSERS), device, settings.offload, steps, cfg)
        else:
            draw = _student(Path(model), device, asked.sampler if recipe else None, steps, cfg)
    except (OSError, ValueError) as error:  # what loaders raise for a name that holds no such model
        raise UserError(str(error)) from error
    detector, color_model = asked.evaluation.detector, asked.evaluation.color_model
    try:
        judge = load_judge(asked.evaluation.benchmark, detector, color_model, device)
    except (OSError, ValueError) as error:
        raise UserError(
            f"{error}\nGenEval's judge is {detector} and, for colours, {color_model}. Download them first, or give a "
            "--recipe with evaluation.detector and evaluation.color_model."
        ) from error
    assert judge is not None
    correct = np.zeros((len(prompts), asked.evaluation.images), dtype=bool)
    verdicts = []
    batch = _PIPELINE_AT_ONCE if model.startswith(DIFFUSERS) else _AT_ONCE
    for judged in _judged(draw, judge, prompts, asked, batch):
        correct[judged.prompt, judged.image] = judged.correct
        if output is not None:
            verdicts.append(_keep(output, prompts[judged.prompt], asked.evaluation.benchmark, judged))
    if output is not None:
        (output / "results.jsonl").write_text("".join(json.dumps(verdict) + "\n" for verdict in verdicts))
    return {
        "model": model,
        "benchmark": asked.evaluation.benchmark,
        "judge": JUDGES[asked.evaluation.benchmark],
        "prompts": asked.evaluation.prompts or f"{len(prompts)} of the benchmark",
        "seed": asked.seed,
        "seconds": round(time.monotonic() - started, 3),
        "scores": score_table(correct, prompts, derive_seed(asked.seed, "bootstrap"), asked.evaluation.resamples),
    }


def _asked(
    recipe: str | None,
    benchmark: str | None,
    images: int | None,
    per_category: int | None,
    seed: int | None,
    metadata: Path | None,
) -> Recipe:
    """Return the recipe with its evaluation overridden by the options."""
    given = load_recipe(recipe) if recipe else Recipe(name="eval")
    changes = {
        "benchmark": benchmark or ("geneval" if metadata else None),
        "images": images,
        "per_category": per_category,
        "prompts": str(metadata) if metadata else None,
    }
    changed = given.evaluation.model_dump() | {name: value for name, value in changes.items() if value is not None}
    if benchmark == "scene":
        changed["prompts"] = None
    if changed["benchmark"] not in JUDGES:
        raise UserError(
            f"nobody judges pictures of the recipe's {changed['benchmark']}; give --benchmark geneval or scene"
        )
    if metadata and changed["benchmark"] != "geneval":
        raise UserError(f"--metadata goes with --benchmark geneval, not with {changed['benchmark']}")
    return given.model_copy(
        update={"evaluation": Evaluation.model_validate(changed), "seed": given.seed if seed is None else seed}
    )


def _student(
    folder: Path, device: "torch.device", sampler: SamplerConfig | None, steps: int | None, cfg: float | None
) -> Draw:
    from lightgen_core.sampling.text_to_image import TextToImage

    student = TextToImage.load(folder, device)
    given = {"iterations": steps, "guidance_scale": cfg}
    changed = (sampler or student.sampler).model_dump() | {name: v for name, v in given.items() if v is not None}
    asked = SamplerConfig.model_validate(changed)
    return lambda captions, seeds: student.sample(captions, seeds, sampler=asked).images


def _pipeline(reference: str, device: "torch.device", offload: "Offload", steps: int | None, cfg: float | None) -> Draw:
    """Load a pipeline as `synthesis` does.

    Raises:
        UserError: not a text-to-image pipeline, or one without steps or guidance.
    """
    from lightgen_core.teachers.base import TeacherError
    from lightgen_core.teachers.diffusers_teacher import DiffusersTeacher

    dtype: Literal["float32", "bfloat16"] = "float32" if device.type == "cpu" else "bfloat16"
    asked = DiffusersConfig(model=reference, dtype=dtype, steps=steps, guidance_scale=cfg, batch_size=_PIPELINE_AT_ONCE)
    try:
        return DiffusersTeacher.load(asked, device, offload).generate
    except TeacherError as error:
        raise UserError(str(error)) from error


def _judged(draw: Draw, judge: Judge, prompts: list[Prompt], asked: Recipe, batch: int) -> Iterator[Judged]:
    """Generate and judge all images in batches, logging the time left."""
    work = [(prompt, image) for prompt in range(len(prompts)) for image in range(asked.evaluation.images)]
    started = time.monotonic()
    for start in range(0, len(work), batch):
        mine = work[start : start + batch]
        told = [prompts[prompt] for prompt, _ in mine]
        seeds = [derive_seed(asked.seed, "evaluation", prompt, image) for prompt, image in mine]
        made = list(draw([prompt.caption for prompt in told], seeds))
        for (prompt, image), seed, picture, right in zip(mine, seeds, made, _verdicts(judge, made, told), strict=True):
            yield Judged(prompt, image, seed, picture, right)
        done = start + len(mine)
        log.info(
            "%d of %d pictures, %.0f s left",
            done,
            len(work),
            (time.monotonic() - started) / done * (len(work) - done),
        )


def _verdicts(judge: Judge, made: Sequence[np.ndarray | Rejected], told: Sequence[Prompt]) -> list[bool]:
    """Judge images; one removed by the safety checker is wrong, as its black substitute would be.

    Raises:
        UserError: an image is missing for another reason, which a score must not hide.
    """
    for each, prompt in zip(made, told, strict=True):
        if isinstance(each, Rejected):
            if each.reason is not Reason.UNSAFE_CONTENT:
                hint = "\nTry LIGHTGEN_OFFLOAD=model." if each.reason is Reason.OUT_OF_MEMORY else ""
                raise UserError(f"no picture of {prompt.caption!r}: {each}{hint}")
            log.warning("%r counts as wrong: %s", prompt.caption, each)
    there = [(each, prompt) for each, prompt in zip(made, told, strict=True) if not isinstance(each, Rejected)]
    judged = iter(judge([each for each, _ in there], [prompt for _, prompt in there]) if there else ())
    return [not isinstance(each, Rejected) and bool(next(judged)) for each in made]


def _keep(output: Path, prompt: Prompt, benchmark: str, judged: Judged) -> dict[str, Any]:
    """Write an image in GenEval's layout; return its line of `results.jsonl`."""
    folder = output / f"{judged.prompt:05d}"
    path = folder / "samples" / f"{judged.image:04d}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    about = {"tag": prompt.category, "prompt": prompt.caption}
    required = Requirement.model_validate_json(prompt.meaning).as_metadata() if benchmark == "geneval" else {}
    (folder / "metadata.jsonl").write_text(json.dumps(about | required) + "\n")
    verdict = {"filename": str(path.relative_to(output)), **about, "correct": judged.correct, "seed": judged.seed}
    if isinstance(judged.picture, Rejected):
        return verdict | {"filename": None, "reason": judged.picture.reason}
    path.write_bytes(encode_png(judged.picture))
    return verdict
