"""The worker of `pairs`: samples the student, judges what it drew, and chooses pairs."""

from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lightgen_core.evaluation.preference import needs_teacher
from lightgen_core.evaluation.scorers import load_scorers
from lightgen_core.images.parallel import decode_images
from lightgen_core.seeds import derive_seed
from storage.artifact import Artifact
from storage.rows import take_rows
from storage.tables import IMAGE, layout_metadata, read_table, schema
from tasks.config.recipe import Recipe
from tasks.context.context import StageContext
from tasks.context.shards import RowRangeShard
from tasks.token_files import TEXT_FILES, token_files_regex, without_image_values
from tasks.vlm import load_vlm

if TYPE_CHECKING:
    from lightgen_core.evaluation.pair_rows import JudgedSamples

KINDS = ("teacher", "best_worst", "ranked")
"""Origins of a pair's winner, by which pairs are counted."""

SAMPLE_COLUMNS = {
    "id": pa.int64(),
    "caption": pa.string(),
    "topic": pa.string(),
    "sample": pa.int32(),
    "seed": pa.int64(),
    "score": pa.float64(),
    "held_out": pa.float64(),
    "latents": pa.binary(),
}

PAIR_COLUMNS = {
    "id": pa.int64(),
    "caption": pa.string(),
    "topic": pa.string(),
    "kind": pa.string(),
    "winner": pa.binary(),
    "loser": pa.binary(),
    "text": pa.binary(),
    "text_length": pa.int32(),
    "winner_sample": pa.int32(),
    "loser_sample": pa.int32(),
    "winner_image": IMAGE,
    "loser_image": IMAGE,
}


def token_files(recipe: Recipe) -> str:
    """Return a pattern for the token files of the last phase's size, at which the student samples."""
    return token_files_regex(recipe.phases[-1][0])


class PairWorker:
    """Samples the student for a shard of captions, and chooses pairs among its images and the teacher's."""

    def __init__(
        self, ctx: StageContext, student: Artifact, tokens: Artifact, synthesis: Artifact, chosen: NDArray[np.int64]
    ) -> None:
        from lightgen_core.sampling.load import load_text_to_image

        self.ctx, self.tokens, self.synthesis, self.chosen = ctx, tokens, synthesis, chosen
        config = ctx.recipe.pairs
        model, device = ctx.recipe.embeddings.model, ctx.device()
        self.connections = ExitStack()
        vlm = partial(load_vlm, ctx, stack=self.connections)
        self.scorers = load_scorers(config.all_scorers, model, device, vlm)
        held_out = (config.held_out,) if config.held_out else ()
        self.held_out = load_scorers(held_out, model, device, vlm)
        self.image_ids = read_table(synthesis, "^images", ["id"])["id"].to_numpy()
        self.text_ids = read_table(tokens, TEXT_FILES, ["id"])["id"].to_numpy()
        folder = ctx.local_folder(student, "student/")
        self.student = load_text_to_image(folder, ctx.device(), head_compile=ctx.head_compile())

    def __call__(self, shard: RowRangeShard) -> None:
        from lightgen_core.evaluation.pair_rows import pair_rows, sample_rows, score_column

        recipe, config, threads = self.ctx.recipe, self.ctx.recipe.pairs, self.ctx.settings.threads
        table = take_rows(self.tokens, token_files(recipe), self.chosen[shard.start : shard.stop])
        table = table.select([name for name in table.column_names if name != "features"])
        rows, layout, info = table.to_pylist(), layout_metadata(table.schema), self.student.info
        layout = without_image_values(layout)  # a winner is the mean
        layout |= {"height": info.latent_height, "width": info.latent_width} | self._add_text(rows)
        judged = self._sample(rows, str(layout["dtype"]))
        teacher_images, teacher_each = self._teacher(rows)
        pairs = pair_rows(
            rows,
            judged,
            teacher_images,
            self._total(teacher_each, np.ones(len(rows))),
            teacher_each,
            kind=config.kind,
            margin=config.lead,
            agreement=self.scorers.margins,
            count=config.per_caption,
            seed=derive_seed(recipe.seed, "ranked"),
            threads=threads,
        )
        counts = {kind: sum(pair["kind"] == kind for pair in pairs) for kind in KINDS}
        counts["without_pair"] = len(rows) - len({pair["id"] for pair in pairs})
        counts |= {"samples": judged.usable.size, "diverged": int((~judged.usable).sum())}
        pairs_file, samples_file = shard.files
        columns = SAMPLE_COLUMNS | dict.fromkeys(map(score_column, judged.each), pa.float64())
        samples = pa.Table.from_pylist(sample_rows(rows, judged), schema(columns, layout))
        self.ctx.write_table(samples_file, samples)
        self.ctx.write_table(pairs_file, pa.Table.from_pylist(pairs, schema(PAIR_COLUMNS, layout)), counts)

    def _sample(self, rows: list[dict[str, Any]], dtype: str) -> "JudgedSamples":
        """Sample the student for each row's caption, and judge what it drew."""
        from lightgen_core.evaluation.pair_rows import JudgedSamples

        recipe, samples = self.ctx.recipe, self.ctx.recipe.pairs.samples
        captions = [row["caption"] for row in rows for _ in range(samples)]
        seeds = [derive_seed(recipe.seed, "pairs", row["id"], sample) for row in rows for sample in range(samples)]
        sampled = self.student.sample(captions, seeds, sampler=recipe.sampler)
        self.ctx.meter.count_flops(sampled.flops)
        images = list(sampled.images)
        each = self.scorers(images, captions)
        scores = self._total(each, np.zeros(len(images)))
        held_out = next(iter(self.held_out(images, captions).values()), None)
        return JudgedSamples.of(sampled.images, sampled.latents, seeds, scores, samples, dtype, each, held_out)

    def _total(self, each: dict[str, np.ndarray], unjudged: np.ndarray) -> np.ndarray:
        """Return the weighted sum of scores, or what unjudged images count as where nobody scores."""
        return self.scorers.total(each) if each else unjudged

    def _teacher(self, rows: list[dict[str, Any]]) -> tuple[Sequence[bytes | None], dict[str, np.ndarray]]:
        """Return the teacher's images and their scores by scorer; none where no pair can have them."""
        recipe, ids = self.ctx.recipe, [row["id"] for row in rows]
        if not needs_teacher(recipe.pairs.kind):
            return [None] * len(rows), {name: np.zeros(len(rows)) for name in self.scorers.parts}
        encoded = self._teacher_images(ids)
        if recipe.tokens.buckets:
            self._encode_again(rows, encoded)
        images = decode_images(encoded, ids, self.ctx.settings.threads)
        return encoded, self.scorers(images, [row["caption"] for row in rows])

    def _add_text(self, rows: list[dict[str, Any]]) -> dict[str, object]:
        """Add text states and their length to rows of latents; return their part of the layout."""
        indices, inverse = np.unique(
            np.searchsorted(self.text_ids, [row["caption_id"] for row in rows]), return_inverse=True
        )
        texts = take_rows(self.tokens, TEXT_FILES, indices, ["text", "text_length"])
        text = texts.to_pylist()
        for row, index in zip(rows, inverse.tolist(), strict=True):
            row |= text[index]
        return {"text_width": layout_metadata(texts.schema)["text_width"]}

    def _encode_again(self, rows: list[dict[str, Any]], images: Sequence[bytes]) -> None:
        """Replace latents of buckets' shapes by those of the images cropped to the shape that the student samples."""
        from lightgen_core.data.token_rows import encode_latents, image_batches, values_to_bytes

        info, config = self.student.info, self.ctx.recipe.tokens
        stride, size = self.student.codec.stride, config.batch_size
        shape = info.latent_height * stride, info.latent_width * stride
        table = pa.table({"id": [row["id"] for row in rows], "image": pa.array([{"bytes": image} for image in images])})
        batches = image_batches(table, np.zeros(len(rows), bool), size, (shape,), self.ctx.settings.threads)
        (values,) = encode_latents(self.student.codec, batches, size, moments=False)
        for row, latents in zip(rows, values_to_bytes(values, config.dtype)["latents"].to_pylist(), strict=True):
            row["latents"] = latents

    def _teacher_images(self, ids: Sequence[int]) -> list[bytes]:
        """Return the teacher's encoded images of some ids; those in the table ascend."""
        indices, inverse = np.unique(np.searchsorted(self.image_ids, ids), return_inverse=True)
        images = take_rows(self.synthesis, "^images", indices, ["image"])["image"].to_pylist()
        return [images[index]["bytes"] for index in inverse]
