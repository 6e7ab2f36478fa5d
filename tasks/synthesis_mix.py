"""The plan of synthesis with several teachers: whose turn it is, and with which caption."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from lightgen_core.captioning.select import assign_captions
from lightgen_core.data.shuffle import weighted_turns
from lightgen_core.images.parallel import encode_images
from lightgen_core.images.sample import BadSample, normalize_whitespace
from lightgen_core.rejected import Rejected
from lightgen_core.seeds import derive_seed
from storage.artifact import Artifact
from tasks.config.recipe import Recipe
from tasks.config.sources import WeightedTeacher
from tasks.context.context import StageContext
from tasks.synthesis_plan import (
    ImageSetPlan,
    ImageSource,
    PromptPlan,
    image_encoder,
    load_teacher,
    read_kept_captions,
)

if TYPE_CHECKING:
    from lightgen_core.teachers.base import Teacher
    from lightgen_core.teachers.image_set import ImageSetTeacher

Rows = list[dict[str, Any]]


class MixedPlan:
    """Images of several teachers, in proportion to their weights; those of one teacher are next to each other.

    Teachers take turns over the images, evenly and without a period, and those that take the same captions share one
    walk over them: each caption goes to one of them. Which turn has which teacher, caption and seed does not depend on
    the count. An image set gives its own captions and may run dry, which leaves fewer images. A worker holds one
    teacher at a time.
    """

    reusable = True
    """Equal captions and seeds give equal images, since a seed is also of its teacher's name."""

    def __init__(self, recipe: Recipe, captions: Artifact) -> None:
        self._arguments, config = (recipe, captions), recipe.synthesis
        self._teachers, self._encode = config.teachers, image_encoder(recipe)
        self._captions = read_kept_captions(recipe, captions)
        self._numbers, _ = weighted_turns(0, config.count, [each.weight for each in self._teachers], recipe.seed)
        self._sets = {n: self._open_set(n) for n, each in enumerate(self._teachers) if each.teacher == "files"}
        self._prompts: dict[int, np.ndarray] = {}
        """(images, 2) int64 of each other teacher: rows of captions, and how often they came before."""
        for names in dict.fromkeys(each.captions for n, each in enumerate(self._teachers) if n not in self._sets):
            self._assign_prompts(names)
        sizes = [len(self._sets[n][0].samples if n in self._sets else self._prompts[n]) for n in self._range]
        self._starts = np.cumsum([0, *sizes])
        sets = [images for images, _ in self._sets.values()]
        self.rejected: Sequence[BadSample] = [bad for images in sets for bad in images.bad_samples]
        self.counts = {
            name: sum(getattr(images, attribute) for images in sets)
            for name, attribute in (("caption_filtered_out", "unmatched"), ("surplus", "surplus"))
            if sets
        }

    @property
    def _range(self) -> range:
        return range(len(self._teachers))

    def __reduce__(self) -> tuple[Any, ...]:
        return MixedPlan, self._arguments

    @property
    def metrics(self) -> Mapping[str, Any]:
        """Planned images of each teacher, and how many its weight asks for, for the manifest."""
        wanted, planned = np.bincount(self._numbers, minlength=len(self._teachers)), np.diff(self._starts)
        return {
            "teachers": {
                each.name: {"wanted": int(wanted[number]), "planned": int(planned[number])}
                for number, each in enumerate(self._teachers)
            }
        }

    def __len__(self) -> int:
        return int(self._starts[-1])

    def rows(self, start: int, stop: int) -> Rows:
        """Return id, caption, topic, meaning, caption_id, seed, source and teacher of some images."""
        return [row for teacher, offsets in self._parts(range(start, stop)) for row in self._rows(teacher, offsets)]

    def _parts(self, ids: Sequence[int]) -> Iterator[tuple[int, list[int]]]:
        """Yield the teachers of ascending ids, each with the offsets among its images."""
        images = np.asarray(ids, np.int64)
        numbers = np.searchsorted(self._starts, images, side="right") - 1
        for number in np.unique(numbers).tolist():
            yield number, (images[numbers == number] - self._starts[number]).tolist()

    def _rows(self, number: int, offsets: Sequence[int]) -> Rows:
        teacher, first = self._teachers[number], int(self._starts[number])
        if number in self._sets:
            images, row_of = self._sets[number]
            samples = [images.samples[offset] for offset in offsets]
            rows = [{"seed": None, "source": sample.key, **row_of[sample.caption]} for sample in samples]
        else:
            indices, repeats = self._prompts[number][offsets].T
            seeded = zip(self._captions.take(indices).to_pylist(), repeats.tolist(), strict=True)
            rows = [{"seed": self._seed(teacher, row, n), "source": teacher.name, **row} for row, n in seeded]
        return [
            {"id": first + offset, "teacher": teacher.name, **row} for offset, row in zip(offsets, rows, strict=True)
        ]

    def _seed(self, teacher: WeightedTeacher, row: Mapping[str, Any], repeat: int) -> int:
        return derive_seed(self._arguments[0].seed, "synthesis", teacher.name, row["caption"], repeat)

    def _taken(self, names: tuple[str, ...]) -> np.ndarray:
        """Return the rows of the captions of some sources; all if none is named."""
        if not names:
            return np.arange(len(self._captions))
        return np.flatnonzero(np.isin(self._captions["caption_source"].to_numpy(zero_copy_only=False), names))

    def _assign_prompts(self, names: tuple[str, ...]) -> None:
        """Give the teachers that take these captions theirs."""
        own = [n for n, each in enumerate(self._teachers) if each.teacher != "files" and each.captions == names]
        turns, taken = np.flatnonzero(np.isin(self._numbers, own)), self._taken(names)
        prompts = np.zeros((len(turns), 2), np.int64)
        if len(turns) and not len(taken):
            raise ValueError(
                f"synthesis.teachers: {self._teachers[own[0]].name} takes captions of {', '.join(names)}, of which the "
                "stage captions kept none; raise their weight in captions.sources, or captions.count"
            )
        if len(turns):
            topics = self._captions["topic"].take(taken).to_pylist()
            indices, repeats = assign_captions(topics, len(turns), self._arguments[0].synthesis.balance)
            prompts = np.stack([taken[indices], repeats], axis=1)
        for number in own:
            self._prompts[number] = prompts[self._numbers[turns] == number]

    def _open_set(self, number: int) -> "tuple[ImageSetTeacher, dict[str, Any]]":
        """Return an image set's samples, and the rows of its captions."""
        from lightgen_core.teachers.image_set import ImageSetTeacher

        teacher = self._teachers[number]
        assert teacher.files is not None  # the recipe's own check
        kept = self._captions.take(self._taken(teacher.captions)).to_pylist()
        row_of = {normalize_whitespace(row["caption"]): row for row in reversed(kept)}
        count = int((self._numbers == number).sum())
        return ImageSetTeacher(teacher.files, row_of, count, self._encode), row_of

    def load_source(self, ctx: StageContext) -> ImageSource:
        """Return the source of images, which loads a teacher when its first image is due."""
        loaded: dict[int, Teacher] = {}

        def generate(ids: Sequence[int]) -> Iterator[bytes | Rejected]:
            for number, offsets in self._parts(ids):
                if number in self._sets:
                    yield from self._images_of_set(ctx, number, offsets)
                    continue
                if number not in loaded:
                    loaded.clear()  # before the next one takes memory
                    loaded[number] = load_teacher(ctx, self._teachers[number])
                rows = self._rows(number, offsets)
                made = loaded[number].generate([row["caption"] for row in rows], [row["seed"] for row in rows])
                yield from encode_images(made, ctx.settings.threads, self._encode)

        return generate

    def _images_of_set(self, ctx: StageContext, number: int, offsets: Sequence[int]) -> Iterator[bytes | Rejected]:
        wanted, (images, _) = set(offsets), self._sets[number]
        of_range = images.images(offsets[0], offsets[-1] + 1, ctx.settings.threads)
        yield from (image for offset, image in enumerate(of_range, offsets[0]) if offset in wanted)


SynthesisPlan = PromptPlan | ImageSetPlan | MixedPlan


def plan_synthesis(recipe: Recipe, captions: Artifact) -> SynthesisPlan:
    """Return the plan of a recipe's teachers for the kept captions."""
    if recipe.synthesis.teachers:
        return MixedPlan(recipe, captions)
    return ImageSetPlan(recipe, captions) if recipe.synthesis.teacher == "files" else PromptPlan(recipe, captions)
