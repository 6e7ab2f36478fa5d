"""pairs: the student's own samples and the teacher's pictures -> what to prefer over what."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lightgen_core.captioning.select import assign_images
from lightgen_core.evaluation.preference import ClipScorer, DetectorScorer, Scorer, TeacherWinsScorer, choose_pair
from lightgen_core.images.codec import from_bytes, to_png
from lightgen_core.seeds import derive_seed
from storage.artifact import Artifact
from storage.rows import take_rows
from storage.tables import IMAGE, about, read_table, schema
from tasks.config.recipe import Recipe
from tasks.context.context import Job
from tasks.context.shards import Run, runs
from tasks.stage import stage
from tasks.tokens import pattern_of

KINDS = {
    "id": pa.int64(),
    "caption": pa.string(),
    "topic": pa.string(),
    "kind": pa.string(),
    "winner": pa.binary(),
    "loser": pa.binary(),
    "text": pa.binary(),
    "text_length": pa.int32(),
    "winner_image": IMAGE,
    "loser_image": IMAGE,
}


def frozen(recipe: Recipe) -> tuple[str, ...]:
    """Return the frozen models that the choice of pairs depends on."""
    asked = recipe.pairs
    return (recipe.embeddings.model,) if asked.scorer == "clip" else ()


@stage(version=3, reads=("seed", "pairs", "sampler", "world", "tokens", "pretrain"), weights=frozen, on_device=True)
def pairs(job: Job, pretrain: Artifact, tokens: Artifact, synthesis: Artifact) -> None:
    """Write `pairs-*.parquet`: for captions of the training set, a picture to prefer and one to avoid.

    The loser is always a sample of the student itself, the winner the teacher's picture or a better sample.
    """
    asked = job.recipe.pairs
    chosen = _choose(tokens, _encoded(job.recipe), asked.count, derive_seed(job.recipe.seed, "pairs"))
    job.each(runs(len(chosen), asked.shard_size, "pairs"), Sampler, pretrain, tokens, synthesis, chosen)


def _encoded(recipe: Recipe) -> str:
    """Return what names the files of tokens of the size that the student was last trained on, and samples."""
    size, _ = recipe.phases[-1]
    return pattern_of(size)


class Sampler:
    """Samples the student for a shard of captions, and chooses pairs among its pictures and the teacher's."""

    def __init__(
        self, job: Job, pretrain: Artifact, tokens: Artifact, synthesis: Artifact, chosen: npt.NDArray[np.int64]
    ) -> None:
        from lightgen_core.sampling.text_to_image import TextToImage

        self.job, self.tokens, self.synthesis, self.chosen = job, tokens, synthesis, chosen
        self.scorer = _scorer(job)
        self.ids = read_table(synthesis, "^images", ["id"])["id"].to_numpy()
        folder = job.local_folder(pretrain, "student/")
        self.student = TextToImage.load(folder, job.device(), head_compile=job.acceleration())

    def __call__(self, shard: Run) -> None:
        from lightgen_core.encoders.dtypes import to_bytes

        recipe, samples = self.job.recipe, self.job.recipe.pairs.samples
        table = take_rows(self.tokens, _encoded(recipe), self.chosen[shard.start : shard.stop])
        rows, layout = table.to_pylist(), about(table.schema)
        layout.pop("moments", None)  # a winner is the mean
        told = [row["caption"] for row in rows]
        teachers = _pictures_of(self.synthesis, self.ids, [row["id"] for row in rows])
        captions = [caption for caption in told for _ in range(samples)]
        seeds = [derive_seed(recipe.seed, "pairs", row["id"], k) for row in rows for k in range(samples)]
        sampled = self.student.sample(captions, seeds, sampler=recipe.sampler)
        scores = self.scorer.score_student(list(sampled.pictures), captions).reshape(len(rows), samples)
        rivals = self.scorer.score_teacher([from_bytes(picture) for picture in teachers], told)
        found = []
        for number, row in enumerate(rows):
            match = choose_pair(scores[number], rivals[number], recipe.pairs.kind, self.scorer.margin)
            if match is None:
                continue
            winner, loser = (None if place is None else number * samples + place for place in match)
            found.append(
                _row(
                    row,
                    row["latents"] if winner is None else to_bytes(sampled.latents[winner], str(layout["dtype"])),
                    to_bytes(sampled.latents[loser], str(layout["dtype"])),
                    teachers[number] if winner is None else to_png(sampled.pictures[winner]),
                    to_png(sampled.pictures[loser]),
                    "teacher" if winner is None else "best_worst",
                )
            )
        counts = {kind: sum(pair["kind"] == kind for pair in found) for kind in ("teacher", "best_worst")}
        counts |= {"samples": len(captions), "without_pair": len(rows) - len(found)}
        self.job.write_table(shard.name, pa.Table.from_pylist(found, schema(KINDS, layout)), counts)


def _scorer(job: Job) -> Scorer:
    asked = job.recipe.pairs
    if asked.scorer == "none":
        return TeacherWinsScorer()
    if asked.scorer == "detector":
        return DetectorScorer()
    from lightgen_core.encoders.clip import Clip

    return ClipScorer(Clip.load(job.recipe.embeddings.model, device=job.device()), asked.margin)


def _choose(tokens: Artifact, pattern: str, count: int, seed: int) -> np.ndarray:
    """Return the places of rows of the training set, in rising order: one for each caption, evenly over topics."""
    table = read_table(tokens, pattern, ["caption", "topic", "flipped"])
    order = np.random.default_rng(seed).permutation(len(table))
    order = order[~table["flipped"].to_numpy()[order]]  # the pictures at hand are not mirrored
    captions = table["caption"].combine_chunks().dictionary_encode().indices.to_numpy()
    first = order[np.sort(np.unique(captions[order], return_index=True)[1])]
    topics = table["topic"].take(first).to_pylist()
    return np.unique(first[assign_images(topics, min(count, len(first)), "topics")])


def _pictures_of(synthesis: Artifact, ids: np.ndarray, wanted: Sequence[int]) -> list[bytes]:
    """Return the teacher's encoded pictures of some ids; `ids` (rows,) are those of all of them, rising."""
    places, back = np.unique(np.searchsorted(ids, wanted), return_inverse=True)
    encoded = take_rows(synthesis, "^images", places, ["image"])["image"].combine_chunks().field("bytes").to_pylist()
    return [encoded[place] for place in back]


def _row(
    source: dict[str, Any], winner: bytes, loser: bytes, winner_image: bytes, loser_image: bytes, kind: str
) -> dict[str, Any]:
    return {
        "id": source["id"],
        "caption": source["caption"],
        "topic": source["topic"],
        "kind": kind,
        "winner": winner,
        "loser": loser,
        "text": source["text"],
        "text_length": source["text_length"],
        "winner_image": {"bytes": winner_image, "path": None},
        "loser_image": {"bytes": loser_image, "path": None},
    }
