"""What synthesis has to make: each picture's caption, seed and id, planned ahead, and who makes it."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import pyarrow as pa

from lightgen_core.captions import assign_images
from lightgen_core.image_sets.sample import Fault, even_space
from lightgen_core.pictures import to_png
from lightgen_core.rejected import Rejected
from lightgen_core.seeds import seed_of
from tasks.job import Job

if TYPE_CHECKING:
    from lightgen_core.teachers.teacher import Teacher

COLUMNS = ("caption", "topic", "meaning", "caption_id")


class Work(Protocol):
    """Pictures to be had, numbered from 0; the number is the picture's id."""

    faults: Sequence[Fault]
    counts: dict[str, int]
    figures: dict[str, Any]

    def __len__(self) -> int: ...

    def rows(self, start: int, stop: int) -> list[dict[str, Any]]:
        """Return id, caption, topic, meaning, caption_id, seed and source of some pictures."""
        ...

    def pictures(self, start: int, stop: int) -> Iterator[bytes | Rejected]:
        """Yield these pictures, encoded, or why there is none."""
        ...


def work_of(job: Job, said: pa.Table) -> Work:
    """Return the work that a recipe's teacher has with the kept captions."""
    said = said.rename_columns([{"id": "caption_id"}.get(name, name) for name in said.column_names])
    return FromSet(job, said) if job.recipe.synthesis.teacher == "files" else FromPrompts(job, said)


class FromPrompts:
    """Pictures drawn from the captions, evenly over captions or topics."""

    def __init__(self, job: Job, said: pa.Table) -> None:
        asked = job.recipe.synthesis
        self._said, self._seed, self._source = said, job.recipe.seed, asked.teacher
        self._caption_of = assign_images(said["topic"].to_pylist(), asked.count, asked.balance)
        self._teacher, self.figures = _teacher(job)
        self.faults: Sequence[Fault] = ()
        self.counts: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._caption_of)

    def rows(self, start: int, stop: int) -> list[dict[str, Any]]:
        """Return what is known of some pictures before they are drawn."""
        chosen = self._said.take(self._caption_of[start:stop]).select(COLUMNS).to_pylist()
        return [
            {"id": image, "seed": seed_of(self._seed, "synthesis", image), "source": self._source, **row}
            for image, row in enumerate(chosen, start)
        ]

    def pictures(self, start: int, stop: int) -> Iterator[bytes | Rejected]:
        """Draw some pictures."""
        rows = self.rows(start, stop)
        drawn = self._teacher.draw([row["caption"] for row in rows], [row["seed"] for row in rows])
        yield from (each if isinstance(each, Rejected) else to_png(each) for each in drawn)


def _teacher(job: Job) -> tuple["Teacher", dict[str, Any]]:
    """Return the teacher, and what the manifest should say of it."""
    asked, settings = job.recipe.synthesis, job.settings
    if asked.teacher == "diffusers" and asked.diffusers:
        from lightgen_core.teachers.pipeline import PipelineTeacher

        pipeline = PipelineTeacher.load(asked.diffusers, job.device(), settings.offload)
        return pipeline, {"pipeline": type(pipeline.pipeline).__name__}
    if asked.teacher == "endpoint" and asked.endpoint:
        from lightgen_core.endpoint import Endpoint, Patience
        from lightgen_core.teachers.endpoint import EndpointTeacher

        patience = Patience(requests_per_minute=settings.endpoint_requests_per_minute)
        endpoint = Endpoint(settings.images_url, settings.images_key.get_secret_value(), patience)
        return EndpointTeacher(asked.endpoint, endpoint, settings.endpoint_concurrency), {}
    from lightgen_core.teachers.scene import SceneTeacher

    return SceneTeacher(job.recipe.world), {}


class FromSet:
    """Pictures of an existing set, of the captions that were kept."""

    def __init__(self, job: Job, said: pa.Table) -> None:
        from lightgen_core.teachers.image_set import ImageSetTeacher

        asked = job.recipe.synthesis
        assert asked.files is not None  # the recipe's own check
        kept = said.select(COLUMNS).to_pylist()
        self._row_of = {even_space(row["caption"]): row for row in reversed(kept)}
        self._set = ImageSetTeacher(asked.files, self._row_of, asked.count, job.settings.threads)
        self.faults: Sequence[Fault] = self._set.faults
        self.counts = {"caption_not_kept": self._set.not_kept, "beyond_count": self._set.beyond}
        self.figures: dict[str, Any] = {}
        job.say("%d samples with a kept caption, %d without", len(self), self._set.not_kept)

    def __len__(self) -> int:
        return len(self._set.samples)

    def rows(self, start: int, stop: int) -> list[dict[str, Any]]:
        """Return what is known of some pictures before they are read."""
        return [
            {"id": image, "seed": None, "source": sample.key, **self._row_of[sample.caption]}
            for image, sample in enumerate(self._set.samples[start:stop], start)
        ]

    def pictures(self, start: int, stop: int) -> Iterator[bytes | Rejected]:
        """Read some pictures."""
        return self._set.pictures(start, stop)
