"""pairs: the student's own samples and the teacher's images -> preference pairs."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lightgen_core.evaluation.preference import load_scorer
from lightgen_core.images.parallel import decode_images
from lightgen_core.seeds import derive_seed
from storage.artifact import Artifact
from storage.rows import take_rows
from storage.tables import IMAGE, layout_metadata, read_table, schema
from tasks.config.recipe import Recipe
from tasks.context.context import StageContext
from tasks.context.shards import RowRangeShard, split_rows
from tasks.stage import stage
from tasks.token_files import token_files_regex

COLUMN_TYPES = {
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


@stage(
    version=4,
    config_sections=("seed", "pairs", "sampler", "world", "tokens", "pretrain"),
    weights=lambda recipe: (recipe.embeddings.model,) if recipe.pairs.scorer == "clip" else (),
    on_device=True,
)
def pairs(ctx: StageContext, pretrain: Artifact, tokens: Artifact, synthesis: Artifact) -> None:
    """Write `pairs-*.parquet`: for captions of the training set, an image to prefer and one to avoid.

    The loser is always a sample of the student itself, the winner the teacher's image or a better sample.
    """
    from lightgen_core.evaluation.pair_rows import choose_caption_rows

    config = ctx.recipe.pairs
    captions = read_table(tokens, _token_files(ctx.recipe), ["caption", "topic", "flipped"])
    chosen = choose_caption_rows(captions, config.count, derive_seed(ctx.recipe.seed, "pairs"))
    shards = split_rows(len(chosen), config.shard_size, "pairs")
    ctx.run_shards(shards, PairWorker, pretrain, tokens, synthesis, chosen)


def _token_files(recipe: Recipe) -> str:
    """Return a pattern for the token files of the last phase's size, at which the student samples."""
    return token_files_regex(recipe.phases[-1][0])


class PairWorker:
    """Samples the student for a shard of captions, and chooses pairs among its images and the teacher's."""

    def __init__(
        self, ctx: StageContext, pretrain: Artifact, tokens: Artifact, synthesis: Artifact, chosen: NDArray[np.int64]
    ) -> None:
        from lightgen_core.sampling.text_to_image import TextToImage

        self.ctx, self.tokens, self.synthesis, self.chosen = ctx, tokens, synthesis, chosen
        config = ctx.recipe.pairs
        self.scorer = load_scorer(config.scorer, config.margin, ctx.recipe.embeddings.model, ctx.device())
        self.image_ids = read_table(synthesis, "^images", ["id"])["id"].to_numpy()
        folder = ctx.local_folder(pretrain, "student/")
        self.student = TextToImage.load(folder, ctx.device(), head_compile=ctx.head_compile())

    def __call__(self, shard: RowRangeShard) -> None:
        from lightgen_core.evaluation.pair_rows import pair_rows

        recipe, config, threads = self.ctx.recipe, self.ctx.recipe.pairs, self.ctx.settings.threads
        table = take_rows(self.tokens, _token_files(recipe), self.chosen[shard.start : shard.stop])
        rows, layout = table.to_pylist(), layout_metadata(table.schema)
        layout.pop("moments", None)  # a winner is the mean
        teacher_images = self._teacher_images([row["id"] for row in rows])
        samples, originals = range(config.samples), [row["caption"] for row in rows]
        captions = [caption for caption in originals for _ in samples]
        seeds = [derive_seed(recipe.seed, "pairs", row["id"], sample) for row in rows for sample in samples]
        sampled = self.student.sample(captions, seeds, sampler=recipe.sampler)
        pairs = pair_rows(
            rows,
            teacher_images,
            sampled.images,
            sampled.latents,
            self.scorer.score_student(list(sampled.images), captions).reshape(len(rows), config.samples),
            self.scorer.score_teacher(decode_images(teacher_images, [row["id"] for row in rows], threads), originals),
            kind=config.kind,
            margin=self.scorer.margin,
            dtype=str(layout["dtype"]),
            threads=threads,
        )
        counts = {kind: sum(pair["kind"] == kind for pair in pairs) for kind in ("teacher", "best_worst")}
        counts |= {"samples": len(captions), "without_pair": len(rows) - len(pairs)}
        self.ctx.write_table(shard.name, pa.Table.from_pylist(pairs, schema(COLUMN_TYPES, layout)), counts)

    def _teacher_images(self, ids: Sequence[int]) -> list[bytes]:
        """Return the teacher's encoded images of some ids; those in the table ascend."""
        indices, inverse = np.unique(np.searchsorted(self.image_ids, ids), return_inverse=True)
        images = take_rows(self.synthesis, "^images", indices, ["image"])["image"].to_pylist()
        return [images[index]["bytes"] for index in inverse]
