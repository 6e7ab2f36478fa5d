"""What synthesis has to make: each picture's caption, seed and id, planned ahead, and who makes it."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import pyarrow as pa

from lightgen_core.captioning.select import assign_images
from lightgen_core.images.codec import encode_png
from lightgen_core.images.sample import BadSample, normalize_whitespace
from lightgen_core.rejected import Rejected
from lightgen_core.seeds import derive_seed
from storage.artifact import Artifact
from storage.tables import read_table
from tasks.config.recipe import Recipe
from tasks.context.context import Job

if TYPE_CHECKING:
    from lightgen_core.teachers.base import Teacher

COLUMNS = ("caption", "topic", "meaning", "caption_id")

Pictures = Callable[[int, int], Iterator[bytes | Rejected]]
"""Gives the pictures from one number on and before another, encoded, or why there is none."""


class Work(Protocol):
    """Pictures to be had, numbered from 0; the number is the picture's id.

    It pickles as what it was planned from, and is planned again where it is unpickled.
    """

    faults: Sequence[BadSample]
    counts: dict[str, int]

    @property
    def figures(self) -> dict[str, Any]:
        """What the manifest should say of the teacher."""
        ...

    def __len__(self) -> int: ...

    def rows(self, start: int, stop: int) -> list[dict[str, Any]]:
        """Return id, caption, topic, meaning, caption_id, seed and source of some pictures."""
        ...

    def opened(self, job: Job) -> Pictures:
        """Load what makes the pictures."""
        ...


def work_of(recipe: Recipe, captions: Artifact) -> Work:
    """Return the work that a recipe's teacher has with the kept captions."""
    return FromSet(recipe, captions) if recipe.synthesis.teacher == "files" else FromPrompts(recipe, captions)


def _said(captions: Artifact) -> pa.Table:
    said = read_table(captions, "^captions")
    return said.rename_columns([{"id": "caption_id"}.get(name, name) for name in said.column_names])


class FromPrompts:
    """Pictures drawn from the captions, evenly over captions or topics."""

    def __init__(self, recipe: Recipe, captions: Artifact) -> None:
        asked = recipe.synthesis
        self._planned_from = recipe, captions
        self._said, self._seed, self._source = _said(captions), recipe.seed, asked.teacher
        self._caption_of = assign_images(self._said["topic"].to_pylist(), asked.count, asked.balance)
        self.faults: Sequence[BadSample] = ()
        self.counts: dict[str, int] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return FromPrompts, self._planned_from

    @property
    def figures(self) -> dict[str, Any]:
        """The class of a diffusion pipeline."""
        asked = self._planned_from[0].synthesis
        if asked.teacher != "diffusers" or asked.diffusers is None:
            return {}
        from lightgen_core.teachers.diffusers_teacher import DiffusersTeacher

        return {"pipeline": DiffusersTeacher.name_of(asked.diffusers)}

    def __len__(self) -> int:
        return len(self._caption_of)

    def rows(self, start: int, stop: int) -> list[dict[str, Any]]:
        """Return what is known of some pictures before they are drawn."""
        chosen = self._said.take(self._caption_of[start:stop]).select(COLUMNS).to_pylist()
        return [
            {"id": image, "seed": derive_seed(self._seed, "synthesis", image), "source": self._source, **row}
            for image, row in enumerate(chosen, start)
        ]

    def opened(self, job: Job) -> Pictures:
        """Load the teacher."""
        teacher = _teacher(job)

        def draw(start: int, stop: int) -> Iterator[bytes | Rejected]:
            rows = self.rows(start, stop)
            drawn = teacher.generate([row["caption"] for row in rows], [row["seed"] for row in rows])
            yield from (each if isinstance(each, Rejected) else encode_png(each) for each in drawn)

        return draw


def _teacher(job: Job) -> "Teacher":
    asked, settings = job.recipe.synthesis, job.settings
    if asked.teacher == "diffusers" and asked.diffusers:
        from lightgen_core.teachers.diffusers_teacher import DiffusersTeacher

        return DiffusersTeacher.load(asked.diffusers, job.device(), settings.offload)
    if asked.teacher == "endpoint" and asked.endpoint:
        from lightgen_core.endpoint import Endpoint
        from lightgen_core.teachers.endpoint import EndpointTeacher

        key, rate = settings.images_key.get_secret_value(), settings.endpoint_requests_per_minute
        endpoint = Endpoint(settings.images_url, key, requests_per_minute=rate)
        return EndpointTeacher(asked.endpoint, endpoint, settings.endpoint_concurrency)
    from lightgen_core.teachers.scene import SceneTeacher

    return SceneTeacher(job.recipe.world)


class FromSet:
    """Pictures of an existing set, of the captions that were kept."""

    def __init__(self, recipe: Recipe, captions: Artifact) -> None:
        from lightgen_core.teachers.image_set import ImageSetTeacher

        asked = recipe.synthesis
        assert asked.files is not None  # the recipe's own check
        self._planned_from = recipe, captions
        kept = _said(captions).select(COLUMNS).to_pylist()
        self._row_of = {normalize_whitespace(row["caption"]): row for row in reversed(kept)}
        self._set = ImageSetTeacher(asked.files, self._row_of, asked.count)
        self.faults: Sequence[BadSample] = self._set.bad_samples
        self.counts = {"caption_filtered_out": self._set.unmatched, "surplus": self._set.surplus}

    def __reduce__(self) -> tuple[Any, ...]:
        return FromSet, self._planned_from

    @property
    def figures(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    def __len__(self) -> int:
        return len(self._set.samples)

    def rows(self, start: int, stop: int) -> list[dict[str, Any]]:
        """Return what is known of some pictures before they are read."""
        return [
            {"id": image, "seed": None, "source": sample.key, **self._row_of[sample.caption]}
            for image, sample in enumerate(self._set.samples[start:stop], start)
        ]

    def opened(self, job: Job) -> Pictures:
        """Return what reads the pictures."""
        return partial(self._set.images, threads=job.settings.threads)
