"""`lightgen init`: look at images and captions, and write a short recipe that runs on them."""

import math
import os
import shlex
from collections import Counter
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import yaml

from flows.commands.compute_here import has_nvidia_device, measure_cores
from flows.errors import UserError
from lightgen_core.captioning.config import CaptionFile
from lightgen_core.captioning.readers import BadRow, CaptionFileError, read_captions
from lightgen_core.images.sample import ImageSetError
from lightgen_core.images.survey import Survey, evenly_spaced, survey
from lightgen_core.teachers.config import ImageSetConfig
from lightgen_core.teachers.image_set import open_configured_set
from storage.plural import pluralize

SAMPLES, IMAGES = 20_000, 100
"""Rows that are read, and images that are decoded; of a smaller set all."""

UNKNOWN = 1_000_000
"""Count in the recipe of a set that is larger than what is read."""

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

    Args:
        captions: a table that names the images, or a list of captions to take of the images' own; None: all of those.

    Raises:
        UserError: no image with a caption can be read.
    """
    seen, form, is_table = _look_at(images, captions)
    images, captions = _absolute(images), captions and _absolute(captions)
    files = {"path": images, "captions": captions} if is_table else {"path": images}
    source, texts = files, [sample.caption for sample in seen.samples]
    count = count_captions = len(seen.samples) if seen.complete else UNKNOWN
    if captions and not is_table:
        source, texts = {"path": captions}, _listed(captions, seen)
        count_captions = max(count, len(texts)) if len(texts) < SAMPLES else UNKNOWN
    distinct = list(dict.fromkeys(texts))
    prompts = file.with_name(f"{file.stem}-prompts.txt")
    held_out = evenly_spaced(distinct, max(1, min(PROMPTS, len(distinct) // 8)))
    prompts.write_text("".join(f"{caption}\n" for caption in held_out), encoding="utf-8")
    form += f", captions in {Path(str(captions)).name}" if is_table else ""
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
    recipe = {
        "name": file.stem,
        "purpose": f"a small student of the images in {images}",
        "captions": {"source": "file", "count": count_captions, "file": source},
        "synthesis": {
            "teacher": "files",
            "count": count,
            "shard_size": 500,
            "files": {**files, "size": _side(seen)},
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


def _learning(steps: int, pairs: int, held_out: int, previewed: Sequence[str]) -> dict[str, dict[str, Any]]:
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
            "preview_captions": list(previewed),
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


def _look_at(images: str, captions: str | None) -> tuple[Survey, str, bool]:
    """Return what is seen of the images, their form, and whether `captions` is a table that names them."""
    errors: list[str] = []
    for table in (captions, None) if captions else (None,):
        try:
            return (*_survey(images, table), table is not None)
        except ImageSetError as error:
            errors.insert(0, str(error))
    raise UserError(
        "\n".join(dict.fromkeys(errors)) + "\nPut a caption beside each image (a.jpg, a.txt), list them in "
        "metadata.jsonl, or give --captions a table with columns file_name and text; see docs/data.md."
    )


def _survey(images: str, table: str | None) -> tuple[Survey, str]:
    """Return what is seen of the images, with captions of their own or of a table, and their form."""
    config = ImageSetConfig(path=images, captions=table)
    image_set = open_configured_set(config)
    seen = survey(image_set, config.max_pixels, samples=SAMPLES, images=IMAGES)
    if not seen.samples or not seen.sizes:
        bad = [*seen.bad_samples, *seen.unreadable]
        example = f"; the first: {bad[0].key}: {bad[0].error}" if bad else ""
        where = f"{images}, read as {image_set.form}" + (f" with {table}" if table else "")
        raise ImageSetError(f"{where}, holds no image with a caption that can be read{example}.")
    return seen, image_set.form


def _listed(captions: str, seen: Survey) -> list[str]:
    """Return the captions of a list. Raises UserError: there is none, or no image has one of them."""
    try:
        rows = list(islice(read_captions(CaptionFile(path=captions)), SAMPLES))
    except CaptionFileError as error:
        raise UserError(str(error)) from error
    texts = [row.text for row in rows if not isinstance(row, BadRow)]
    if not texts:
        raise UserError(f"{captions} holds no caption that can be used; docs/data.md names the forms")
    if seen.complete and len(rows) < SAMPLES and not {sample.caption for sample in seen.samples} & set(texts):
        raise UserError(
            f"{captions} names no image, and no image has one of its captions as its own, such as {texts[0][:60]!r}.\n"
            "Give --captions a table with columns file_name and text, or a list of the images' own captions; without "
            "it all of these are taken."
        )
    return texts


def _side(seen: Survey) -> int:
    """Return the side of the square that images are brought to, px."""
    smallest = min(min(height, width) for _, height, width in seen.sizes)
    return min(LARGEST, max(2 * SIDE, smallest // SIDE * SIDE))
