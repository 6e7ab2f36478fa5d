"""Results of a run, to look at from Python: states, tables, images, scores, the student."""

import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from flows.checkpoint import STUDENTS, finished_students, student_of
from flows.errors import UserError
from flows.plan import Planner
from flows.selection import require_stage
from flows.student import Student
from storage.artifact import Artifact

if TYPE_CHECKING:
    import pyarrow as pa
    from PIL import Image

TABLES = {
    "captions": "captions",
    "synthesis": "images",
    "embeddings": "embeddings",
    "dedup": "keep",
    "tokens": "tokens",
    "pairs": "pairs",
    "evaluation": "samples",
}
"""Stages that write tables, and the beginning of their files' names."""

_IMAGES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "synthesis": (("image",), ("id", "caption", "topic", "source", "seed")),
    "pairs": (("winner_image", "loser_image"), ("id", "caption", "topic", "kind")),
    "evaluation": (("image",), ("id", "student", "category", "caption", "seed", "correct")),
}
"""Stages that store images: their columns of images, and those that say what an image is."""


@dataclass(frozen=True)
class CaptionedImage:
    """An image of a run with its caption.

    details: what else its row says, such as the seed, or the student and the judge's verdict; of pairs also `column`,
    winner_image or loser_image.
    """

    image: "Image.Image"
    caption: str
    details: Mapping[str, Any] = field(default_factory=dict)


class Run:
    """A recipe in a store: what is finished of it, stage by stage."""

    def __init__(self, planner: Planner) -> None:
        self._planner = planner
        self.recipe = planner.recipe
        self.store = planner.store.uri

    @property
    def states(self) -> dict[str, str]:
        """State of each stage's artifact: done, missing, partial or damaged.

        Later rounds of preference tuning are stages of their own: pairs-2, dpo-2.
        """
        return {stage: self._planner.check(stage).state for stage in self._planner.stages}

    @property
    def artifacts(self) -> dict[str, Artifact]:
        """Artifacts of the finished stages: address, `manifest()`, files."""
        return {stage: self._planner.artifacts[stage] for stage, state in self.states.items() if state == "done"}

    @property
    def scores(self) -> dict[str, Any]:
        """Scores by student (pretrain, dpo, shuffled) and category, each with value, low, high and n.

        None where nobody can judge a student's images; {} before the evaluation.
        """
        return self._planner.scores()

    @property
    def report(self) -> str | None:
        """Address of the report's page; None before the report."""
        return self._planner.report()

    def artifact(self, stage: str) -> Artifact:
        """Return a finished stage's artifact. Raises UserError for an unknown stage, or one that is not done."""
        if stage not in self._planner.stages:
            require_stage(stage)
        if (state := self._planner.check(stage).state) != "done":
            raise UserError(
                f"{stage} of {self.recipe.name} is {state} in {self.store} ({self._planner.explain(stage)}); "
                "lightgen.run with the same recipe, overrides and store makes it"
            )
        return self._planner.artifacts[stage]

    def table(self, stage: str, files: str | None = None, columns: list[str] | None = None) -> "pa.Table":
        """Return the rows of a stage; `.to_pandas()` of it is a data frame.

        Args:
            files: beginning of the files' names, where a stage writes several kinds: "dropped" of captions, "text" of
                tokens, "quarantine" of synthesis.
            columns: to read only these.

        Raises:
            UserError: the stage is not done, or has no such table.
        """
        from storage.tables import read_table

        artifact = self.artifact(stage)
        start = files or TABLES.get(artifact.stage, "")
        pattern = rf"^{start}.*\.parquet$"
        if not artifact.names(pattern):
            kinds = sorted({name.split("-")[0].removesuffix(".parquet") for name in artifact.names(r"\.parquet$")})
            raise UserError(f"{stage} has no table {start!r}; it has {', '.join(kinds) or 'none'}")
        return read_table(artifact, pattern, columns)

    def images(self, stage: str = "evaluation", limit: int = 16, **where: Any) -> list[CaptionedImage]:
        """Return the first images of a stage with their captions, as PIL images.

        Args:
            stage: evaluation, synthesis or pairs.
            limit: images, at most.
            where: values that a row must have, such as student="dpo", correct=False or category="counting".

        Raises:
            UserError: a stage that stores no images, or is not done, or has no such column.
        """
        import numpy as np
        from PIL import Image

        from storage.rows import take_rows

        if (kind := stage.partition("-")[0]) not in _IMAGES:
            raise UserError(f"{stage} stores no images; {', '.join(_IMAGES)} do")
        columns, labels = _IMAGES[kind]
        if unknown := where.keys() - set(labels):
            raise UserError(f"images of {stage} have no {sorted(unknown)[0]!r}; they have {', '.join(labels)}")
        read = self.table(stage, columns=list(labels)).to_pylist()
        rows = [n for n, row in enumerate(read) if all(row[name] == value for name, value in where.items())]
        chosen = rows[: -(-limit // len(columns))]
        images = take_rows(self.artifact(stage), f"^{TABLES[kind]}", np.array(chosen, dtype=np.int64), list(columns))
        found = []
        for index, row in zip(chosen, images.to_pylist(), strict=True):
            for column in columns:
                details = {name: value for name, value in read[index].items() if name != "caption"}
                details |= {"column": column} if len(columns) > 1 else {}
                image = Image.open(io.BytesIO(row[column]["bytes"])).convert("RGB")
                found.append(CaptionedImage(image, read[index]["caption"], details))
        return found[:limit]

    def student(self, stage: str | None = None, device: str | None = None) -> Student:
        """Load the most finished student, or the one of a stage: pretrain, dpo, dpo-2, report.

        That of the report samples as the recipe says; the others have their head's default sampler.

        Raises:
            UserError: there is none yet.
        """
        if stage is not None and stage.partition("-")[0] not in STUDENTS:
            raise UserError(f"{stage} has no student; {', '.join(STUDENTS)} have")
        done = finished_students(self._planner)
        artifact = done[0] if done and stage is None else self.artifact(stage or "pretrain")
        return Student.from_pretrained(student_of(artifact).folder, device=device)

    def __repr__(self) -> str:
        states = self.states
        done = sum(state == "done" for state in states.values())
        left = ", ".join(f"{stage} {state}" for stage, state in states.items() if state != "done")
        overall = ", ".join(
            f"{student} {score['overall']['value']:.2f}" for student, score in self.scores.items() if score
        )
        parts = [f"{self.recipe.name} in {self.store}: {done} of {len(states)} stages done"]
        return f"Run({'; '.join([*parts, *filter(None, [left, overall])])})"
