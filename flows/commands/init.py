"""`lightgen init`: look at images and captions, and write a short recipe that runs on them."""

import math
import os
import shlex
from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any

import yaml

from flows.commands.compute_here import has_nvidia_device, measure_cores
from flows.errors import UserError
from lightgen_core.captioning.config import CaptionFile
from lightgen_core.captioning.readers import BadRow, CaptionFileError, read_captions
from lightgen_core.images.image_set import open_image_set
from lightgen_core.images.sample import ImageSetError
from lightgen_core.images.survey import Survey, evenly_spaced, survey
from lightgen_core.teachers.config import ImageSetConfig
from storage.plural import pluralize

SAMPLES, IMAGES = 20_000, 100
"""Rows that are read, and images that are decoded; of a smaller set all."""

SIDE, LARGEST = 16, 64
"""Sides, px: multiples of SIDE, which the embedded autoencoder turns into whole tokens, up to LARGEST."""

PROMPTS = 12
"""Captions kept out of training and sampled by the evaluation, at most, and at most an eighth of all."""

PREVIEWED = 4
"""Of these those that are sampled while training goes on, at most."""

HELD_OUT, LEAST_HELD_OUT = 64, 16
"""Images put aside for the held-out loss, at most, and at most a twentieth of all; fewer than that say too little."""

STEPS, CORES_TFLOPS, DOUBLINGS = 200, 0.15, 4
"""Steps of a first training on cores that reach 0.15 TFLOP/s, as two do; twice the speed, twice the steps, at most so
often, and on an NVIDIA device as often."""

HEADER = """\
# {purpose}
#
# command   lightgen doctor {file}       is everything there, and what will be refused
#           lightgen run {file}          all ten stages; --set field=value changes a field, `lightgen fields` lists them
#           lightgen show {file}         what the recipe resolves to
{found}
"""


def recipe_of_images(images: str, captions: str | None, file: Path) -> str:
    """Return the text of a recipe for own images and this machine; write the prompts of its evaluation beside `file`.

    Raises:
        UserError: no image with a caption can be read.
    """
    seen, form = _look_at(images)
    images, captions = _absolute(images), captions and _absolute(captions)
    texts = [sample.caption for sample in seen.samples] if captions is None else _read(captions)
    distinct = list(dict.fromkeys(texts))
    prompts = file.with_name(f"{file.stem}-prompts.txt")
    held_out = evenly_spaced(distinct, max(1, min(PROMPTS, len(distinct) // 8)))
    prompts.write_text("".join(f"{caption}\n" for caption in held_out), encoding="utf-8")
    more = "" if seen.complete else " and more"
    smallest = min(min(height, width) for _, height, width in seen.sizes)
    steps, machine = _first_training()
    found = [
        f"# found     {len(seen.samples)}{more} images with captions, {len(distinct)}{more} of them distinct (form:",
        f"#           {form}); the shortest side of {len(seen.sizes)} that were decoded is {smallest} px",
        f"# prompts   {len(held_out)} captions that training never sees are what the evaluation draws: {prompts.name};",
        "#           some of them also while training goes on: pretrain.previews",
        "# judges    nobody: the report shows the images, and CLIP's cosine",
        f"# machine   {machine}: {steps:,} steps of training are a try; thousands are wanted for more than colours",
    ]
    if held := _held_out(len(seen.samples), texts):
        found.append(f"# held out  at least {held} images, for a loss of what training never sees: pretrain.validation")
    count = max(len(seen.samples), 1) if seen.complete else 1_000_000
    recipe = {
        "name": file.stem,
        "purpose": f"a small student of the images in {images}",
        "captions": {"source": "file", "count": count, "file": {"path": captions or images}},
        "synthesis": {
            "teacher": "files",
            "count": count,
            "shard_size": 500,
            "files": {"path": images, "size": _side(seen)},
        },
        **_learning(steps, min(100, len(distinct)), held, held_out[:PREVIEWED]),
        "evaluation": {"benchmark": "prompts", "prompts": str(prompts.resolve()), "images": 2, "shard_size": 48},
    }
    header = HEADER.format(purpose=recipe["purpose"], file=shlex.quote(str(file)), found="\n".join(found))
    return header + yaml.safe_dump(recipe, sort_keys=False, width=120, allow_unicode=True)


def _held_out(images: int, captions: list[str]) -> int:
    """Return the images to put aside; 0 of a small set, or where the share of one caption alone could be more."""
    words = Counter(" ".join(caption.casefold().split()) for caption in captions)
    rows = min(HELD_OUT, images // 20)
    return rows if rows >= LEAST_HELD_OUT and max(words.values()) <= rows else 0


def _first_training() -> tuple[int, str]:
    """Return the steps of a first, short training on this machine, and what it computes with."""
    if has_nvidia_device():
        return STEPS * 2**DOUBLINGS, "an NVIDIA device"
    speed = measure_cores()
    doublings = min(DOUBLINGS, max(0, int(math.log2(speed / CORES_TFLOPS))))
    return STEPS * 2**doublings, f"{pluralize(os.cpu_count() or 1, 'core')}, {speed:.2f} TFLOP/s in a matrix product"


def _learning(steps: int, pairs: int, held_out: int, previewed: list[str]) -> dict[str, dict[str, Any]]:
    """Return the sections of a first, short training, which is looked at five times."""
    validation = {"validation": {"rows": held_out, "every": steps // 5}} if held_out else {}
    return {
        "pretrain": {
            "model": "tiny",
            "steps": steps,
            "batch_size": 48,
            "noise_samples_per_token": 2,
            "precision": "fp32",
            "ema_decay": 0.99,
            "log_every": 20,
            "checkpoint_every": steps // 2,
            "optimizer": {"name": "muon", "learning_rate": 2e-3, "warmup_steps": 40, "schedule": "cosine"},
            "mask": {"distribution": "uniform", "min_ratio": 0},
            "previews": 5,
            "preview_captions": previewed,
            **validation,
        },
        "sampler": {
            "iterations": 9,
            "head_steps": 12,
            "head_sampler": "ddim",
            "guidance_scale": 3,
            "guidance_schedule": "linear",
        },
        "pairs": {"scorer": "clip", "count": pairs, "candidates": 4, "shard_size": 50},
        "dpo": {
            "steps": 40,
            "batch_size": 16,
            "noise_samples_per_token": 2,
            "precision": "fp32",
            "log_every": 10,
            "checkpoint_every": 20,
            "optimizer": {"learning_rate": 1e-4, "warmup_steps": 10},
            "mask": {"distribution": "uniform", "min_ratio": 0},
            "beta": 200,
        },
    }


def recipe_from(base: str, purpose: str, file: Path) -> str:
    """Return the text of a recipe that extends another."""
    found = f"# extends   {base}: its fields hold, unless they are set below"
    header = HEADER.format(purpose=purpose, file=shlex.quote(str(file)), found=found)
    return header + yaml.safe_dump({"extends": base, "purpose": purpose}, sort_keys=False)


def _absolute(location: str) -> str:
    """Return a path of this machine from its root, so that the recipe works in any folder; others as they are."""
    path = Path(location).expanduser()
    return str(path.resolve()) if path.exists() else location


def _look_at(images: str) -> tuple[Survey, str]:
    config = ImageSetConfig(path=images)
    try:
        image_set = open_image_set(images, max_image_bytes=config.max_bytes)
        seen = survey(image_set, config.max_pixels, samples=SAMPLES, images=IMAGES)
    except ImageSetError as error:
        raise UserError(str(error)) from error
    if not seen.samples or not seen.sizes:
        bad = [*seen.bad_samples, *seen.unreadable]
        example = f"; the first: {bad[0].key}: {bad[0].error}" if bad else ""
        raise UserError(
            f"{images}, read as {image_set.form}, holds no image with a caption that can be read{example}.\n"
            "Put a caption beside each image (a.jpg, a.txt), or list them in metadata.jsonl; see docs/data.md."
        )
    return seen, image_set.form


def _read(captions: str) -> list[str]:
    try:
        rows = list(islice(read_captions(CaptionFile(path=captions)), SAMPLES))
    except CaptionFileError as error:
        raise UserError(str(error)) from error
    texts = [row.text for row in rows if not isinstance(row, BadRow)]
    if not texts:
        raise UserError(f"{captions} holds no caption that can be used; docs/data.md names the forms")
    return texts


def _side(seen: Survey) -> int:
    """Return the side of the square that images are brought to, px."""
    smallest = min(min(height, width) for _, height, width in seen.sizes)
    return min(LARGEST, max(2 * SIDE, smallest // SIDE * SIDE))
