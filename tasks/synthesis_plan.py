"""The plan of synthesis: caption, seed and id of each image, and the source that makes it."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from lightgen_core.captioning.select import assign_captions
from lightgen_core.images.codec import encode_image
from lightgen_core.images.parallel import encode_images
from lightgen_core.images.sample import BadSample, normalize_whitespace
from lightgen_core.rejected import Rejected
from lightgen_core.seeds import derive_seed
from storage.artifact import Artifact
from storage.tables import read_table
from tasks.config.recipe import Recipe
from tasks.config.sources import TeacherSource
from tasks.context.context import StageContext

if TYPE_CHECKING:
    from lightgen_core.teachers.base import Teacher

COLUMNS = ("caption", "topic", "meaning", "caption_id")

ImageSource = Callable[[Sequence[int]], Iterator[bytes | Rejected]]
"""Yields the encoded images of some ids, ascending, or why there is none."""


def read_kept_captions(recipe: Recipe, captions: Artifact) -> pa.Table:
    """Return `COLUMNS` of the kept captions; of several sources, also `caption_source`."""
    columns = ["caption", "topic", "meaning", "id", *(["source"] if recipe.captions.sources else [])]
    renamed = {"id": "caption_id", "source": "caption_source"}
    return read_table(captions, "^captions", columns).rename_columns([renamed.get(name, name) for name in columns])


class PromptPlan:
    """Images generated from the captions, evenly over captions or topics; an image's number is its id.

    An image's seed is of its caption and of how many images of that caption come before it, so that neither more
    captions nor more images change it. The plan pickles as its recipe and captions, and plans again where it is
    unpickled.
    """

    reusable = True
    """Equal captions and seeds give equal images."""

    def __init__(self, recipe: Recipe, captions: Artifact) -> None:
        config = recipe.synthesis
        self._arguments = recipe, captions
        self._captions, self._seed, self._source = read_kept_captions(recipe, captions), recipe.seed, config.teacher
        topics = self._captions["topic"].to_pylist()
        self._caption_indices, self._repeats = assign_captions(topics, config.count, config.balance)
        self.rejected: Sequence[BadSample] = ()
        self.counts: dict[str, int] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return PromptPlan, self._arguments

    @property
    def metrics(self) -> dict[str, str]:
        """Class of a diffusion pipeline, for the manifest."""
        config = self._arguments[0].synthesis
        if config.teacher != "diffusers" or config.diffusers is None:
            return {}
        from lightgen_core.teachers.diffusers_teacher import DiffusersTeacher

        return {"pipeline": DiffusersTeacher.name_of(config.diffusers)}

    def __len__(self) -> int:
        return len(self._caption_indices)

    def rows(self, start: int, stop: int) -> list[dict[str, Any]]:
        """Return id, caption, topic, meaning, caption_id, seed and source of some images."""
        return self._rows(range(start, stop))

    def _rows(self, ids: Sequence[int]) -> list[dict[str, Any]]:
        captions = self._captions.take(self._caption_indices[ids]).to_pylist()
        seeds = [
            derive_seed(self._seed, "synthesis", row["caption"], repeat)
            for row, repeat in zip(captions, self._repeats[ids].tolist(), strict=True)
        ]
        return [
            {"id": image, "seed": seed, "source": self._source, **row}
            for image, seed, row in zip(ids, seeds, captions, strict=True)
        ]

    def load_source(self, ctx: StageContext) -> ImageSource:
        """Load the teacher."""
        teacher, encode = load_teacher(ctx, ctx.recipe.synthesis), image_encoder(ctx.recipe)

        def generate(ids: Sequence[int]) -> Iterator[bytes | Rejected]:
            rows = self._rows(ids)
            results = teacher.generate([row["caption"] for row in rows], [row["seed"] for row in rows])
            yield from encode_images(results, ctx.settings.threads, encode)

        return generate


def image_encoder(recipe: Recipe) -> Callable[[np.ndarray], bytes]:
    config = recipe.synthesis
    return partial(encode_image, format=config.image_format, quality=config.image_quality)


def load_teacher(ctx: StageContext, config: TeacherSource) -> "Teacher":
    """Load a teacher that generates images."""
    settings = ctx.settings
    if config.teacher == "diffusers" and config.diffusers:
        from lightgen_core.teachers.diffusers_teacher import DiffusersTeacher

        return DiffusersTeacher.load(config.diffusers, ctx.device(), settings.offload, settings.compile_teacher)
    if config.teacher == "endpoint" and config.endpoint:
        from lightgen_core.endpoint import Endpoint
        from lightgen_core.teachers.endpoint import EndpointTeacher

        key, rate = settings.images_key.get_secret_value(), settings.endpoint_requests_per_minute
        endpoint = Endpoint(settings.images_url, key, requests_per_minute=rate)
        return EndpointTeacher(config.endpoint, endpoint, settings.endpoint_concurrency, ctx.scratch)
    from lightgen_core.teachers.scene import SceneTeacher

    return SceneTeacher(ctx.recipe.world)


class ImageSetPlan:
    """Images of an existing set whose captions were kept; otherwise as `PromptPlan`."""

    metrics: Mapping[str, str] = {}
    reusable = False
    """Only the set knows its images; to copy one costs as much as to read it."""

    def __init__(self, recipe: Recipe, captions: Artifact) -> None:
        from lightgen_core.teachers.image_set import ImageSetTeacher

        config = recipe.synthesis
        assert config.files is not None  # the recipe's own check
        self._arguments = recipe, captions
        kept = read_kept_captions(recipe, captions).to_pylist()
        self._row_of = {normalize_whitespace(row["caption"]): row for row in reversed(kept)}
        self._set = ImageSetTeacher(config.files, self._row_of, config.count, image_encoder(recipe))
        self.rejected: Sequence[BadSample] = self._set.bad_samples
        self.counts = {
            "caption_filtered_out": self._set.unmatched,
            "surplus": self._set.surplus,
            "captions_unused": self._set.unused,
        }

    def __reduce__(self) -> tuple[Any, ...]:
        return ImageSetPlan, self._arguments

    def __len__(self) -> int:
        return len(self._set.samples)

    def rows(self, start: int, stop: int) -> list[dict[str, Any]]:
        """Return id, caption, topic, meaning, caption_id, seed and source of some images."""
        return [
            {"id": image, "seed": None, "source": sample.key, **self._row_of[sample.caption]}
            for image, sample in enumerate(self._set.samples[start:stop], start)
        ]

    def load_source(self, ctx: StageContext) -> ImageSource:
        """Return the reader of the images, of all ids between the first and the last."""
        return lambda ids: self._set.images(ids[0], ids[-1] + 1, ctx.settings.threads)
