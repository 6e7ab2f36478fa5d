"""Images that pre-training puts aside to measure its loss on: chosen by caption and meaning, never by image."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from lightgen_core.launch.job import ValidationConfig
from lightgen_core.seeds import derive_seed
from storage.artifact import Artifact
from storage.plural import pluralize
from storage.tables import read_table, schema, to_parquet
from tasks.config.validation import Validation
from tasks.context.context import StageContext
from tasks.dedup import KEEP_FILE

HELD_OUT_FILE = "validation.parquet"
SCHEMA = schema({"id": pa.int64(), "kept": pa.bool_(), "caption": pa.string(), "meaning": pa.string()})


class HeldOut(NamedTuple):
    """Images that training will not see: ids, ascending, and a local file of them in the form of a keep list."""

    ids: np.ndarray
    file: Path


def put_aside(ctx: StageContext, dedup: Artifact, synthesis: Artifact) -> HeldOut:
    """Choose kept images that training will not see, and write `validation.parquet`.

    Raises:
        ValueError: no image would be left to train on.
    """
    config = ctx.recipe.pretrain.validation
    assert config is not None, "callers look for it first"
    verdicts = read_table(dedup, KEEP_FILE, ["id", "kept"])
    kept = verdicts.filter(verdicts["kept"])["id"].to_numpy()
    images = read_table(synthesis, "^images", ["id", "caption", "meaning"])
    images = images.filter(pa.array(np.isin(images["id"].to_numpy(), kept)))
    captions, meanings = images["caption"].to_pylist(), images["meaning"].to_pylist()
    held = choose_held_out(captions, meanings, config)
    if held.all():
        raise ValueError(
            f"pretrain.validation.rows is {config.rows}, and whole captions are put aside: of {len(held)} images that "
            "dedup keeps none would be left to train on; lower it, or make images of more captions"
        )
    table = images.filter(pa.array(held))
    ctx.log("%s of %d put aside for validation", pluralize(len(table), "image"), len(held))
    table = table.append_column("kept", pa.array([True] * len(table))).select(SCHEMA.names).cast(SCHEMA)
    ctx.write_table(HELD_OUT_FILE, table)
    file = ctx.scratch / HELD_OUT_FILE
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(to_parquet(table))
    return HeldOut(np.sort(table["id"].to_numpy()), file)


def choose_held_out(captions: list[str], meanings: list[str], config: Validation) -> np.ndarray:
    """Return which images are put aside, (images,) bool: all of some meanings, and all of every caption of theirs.

    Meanings come in an order of the seed alone, so other sets of images give up the same meanings first.
    """
    meaning, of_meaning = np.unique(np.array(meanings, str), return_inverse=True)
    words = np.unique([" ".join(caption.casefold().split()) for caption in captions], return_inverse=True)[1]
    order = np.argsort([derive_seed(config.seed, "validation", each) for each in meaning])
    counts = np.bincount(of_meaning)[order].cumsum()
    held = np.isin(of_meaning, order[: np.searchsorted(counts, config.rows) + 1])
    while True:  # a caption may stand under several meanings, and each of those under others
        more = np.isin(of_meaning, of_meaning[held]) | np.isin(words, words[held])
        if (more == held).all():
            return held
        held = more


def validation_config(ctx: StageContext, held_out: HeldOut | None) -> ValidationConfig | None:
    """Return the validation of a phase's job on the images put aside; None where none are."""
    config, every = ctx.recipe.pretrain.validation, ctx.recipe.pretrain.validation_every
    if held_out is None or config is None or every is None:
        return None
    return ValidationConfig(rows=held_out.file, every=every, seed=derive_seed(config.seed, "validation"))
