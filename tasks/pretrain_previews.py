"""Previews of pre-training: which captions at which steps, and the table of their images."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from lightgen_core.evaluation.benchmarks import benchmark_prompts
from lightgen_core.images.codec import encode_png
from lightgen_core.launch.job import PreviewConfig
from lightgen_core.seeds import derive_seed
from storage.tables import IMAGE, schema
from tasks.config.recipe import Recipe
from tasks.context.progress import Preview

PREVIEW_FILE = "previews.parquet"
PREVIEW_SCHEMA = schema({"step": pa.int64(), "caption": pa.string(), "seed": pa.int64(), "image": IMAGE})


def preview_steps(recipe: Recipe) -> tuple[int, ...]:
    """Return the steps of all phases together after which captions are sampled, evenly up to the last."""
    count, steps = recipe.pretrain.previews, sum(config.steps for _, config in recipe.phases)
    return tuple(round(steps * (number + 1) / count) for number in range(count))


def preview_captions(recipe: Recipe) -> tuple[str, ...]:
    """Return the captions of the previews, from what is in the key of `pretrain` alone."""
    if recipe.pretrain.preview_captions:
        return recipe.pretrain.preview_captions
    scene = all(origin.source == "scene" for origin in recipe.captions.origins)  # then the captions' keys hold `world`
    seed = derive_seed(recipe.seed, "evaluation")
    return tuple(
        each.caption for each in benchmark_prompts("scene" if scene else "geneval", 1, world=recipe.world, seed=seed)
    )


class PhasePreviews:
    """Previews of one phase of pre-training, in a folder of this run; `config` is None where the phase has none."""

    def __init__(self, recipe: Recipe, folder: Path, done: int, steps: int) -> None:
        """done: steps of the phases before; steps: of this one."""
        inside = tuple(step - done for step in preview_steps(recipe) if done < step <= done + steps)
        captions = preview_captions(recipe) if inside else ()
        seeds = tuple(derive_seed(recipe.seed, "preview", number) for number in range(len(captions)))
        self.config = PreviewConfig(steps=inside, captions=captions, seeds=seeds, folder=folder) if inside else None
        self._done, self._seen = done, 0

    def new(self) -> tuple[Preview, ...]:
        """Return the images that were written since the last call."""
        from lightgen_core.launch.previews import preview_file

        if self.config is None:
            return ()
        steps = [
            step for step in self.config.steps if step > self._seen and preview_file(self.config.folder, step).is_file()
        ]
        self._seen = max(steps, default=self._seen)
        return tuple(each for step in steps for each in self._read(step))

    def all(self) -> list[Preview]:
        """Return the images of every step, once the phase is trained. Raises FileNotFoundError if some were removed."""
        return [each for step in (self.config.steps if self.config else ()) for each in self._read(step)]

    def _read(self, step: int) -> Iterator[Preview]:
        from lightgen_core.launch.previews import preview_file

        assert self.config is not None, "callers look for steps first"
        images = np.load(preview_file(self.config.folder, step))
        for caption, seed, image in zip(self.config.captions, self.config.seeds, images, strict=True):
            yield Preview(self._done + step, caption, seed, encode_png(image))


def preview_table(previews: list[Preview]) -> pa.Table:
    """Return the table of the artifact, a row for each step and caption."""
    rows = [
        {"step": each.step, "caption": each.caption, "seed": each.seed, "image": {"bytes": each.png, "path": None}}
        for each in previews
    ]
    return pa.Table.from_pylist(rows, PREVIEW_SCHEMA)
