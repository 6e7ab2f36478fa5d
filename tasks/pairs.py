"""pairs: the student's own samples and the teacher's pictures -> what to prefer over what."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from lightgen_core.captions import assign_images
from lightgen_core.pictures import to_png
from lightgen_core.seeds import seed_of
from storage.artifact import Artifact
from storage.tables import IMAGE, about, read_table, schema
from tasks.stage import Job, stage
from tasks.tokens import pattern_of

KINDS = {
    "id": pa.int64(),
    "caption": pa.string(),
    "topic": pa.string(),
    "kind": pa.string(),
    "winner": pa.binary(),
    "loser": pa.binary(),
    "text": pa.binary(),
    "words": pa.int32(),
    "winner_image": IMAGE,
    "loser_image": IMAGE,
}


@stage(version=1, reads=("seed", "pairs", "sampler", "world", "tokens", "pretrain"), on_device=True)
def pairs(job: Job, pretrain: Artifact, tokens: Artifact, synthesis: Artifact) -> None:
    """Write `pairs-*.parquet`: for captions of the training set, a picture that is right and one that is wrong.

    The loser is always a sample of the student itself. The winner is the teacher's picture or, where the
    student got it right at least once, its own right sample.
    """
    from lightgen_core.evaluation import score_pictures
    from lightgen_core.half import to_bytes
    from lightgen_core.text_to_image import TextToImage

    asked = job.recipe.pairs
    size, _ = job.recipe.phases[-1]  # what the student was last trained on, and samples
    chosen = _choose(read_table(tokens, pattern_of(size)), asked.count, seed_of(job.recipe.seed, "pairs"))
    layout = about(chosen.schema)
    drawn = _pictures_of(synthesis, chosen["id"].to_pylist())
    student = TextToImage.load(job.local_folder(pretrain, "student/"), job.device(), acceleration=job.acceleration())
    for shard in job.shards(len(chosen), asked.shard_size, "pairs"):
        rows = chosen.slice(shard.start, shard.stop - shard.start).to_pylist()
        captions = [row["caption"] for row in rows for _ in range(asked.candidates)]
        seeds = [seed_of(job.recipe.seed, "pairs", row["id"], k) for row in rows for k in range(asked.candidates)]
        sampled = student.sample(captions, seeds, sampler=job.recipe.sampler)
        right = score_pictures(sampled.pictures, captions).reshape(len(rows), asked.candidates)
        found = []
        for number, row in enumerate(rows):
            match = choose_pair(right[number], asked.kind)
            if match is None:
                continue
            winner, loser = match
            first = number * asked.candidates
            own = None if winner is None else first + winner
            found.append(
                _row(
                    row,
                    row["latents"] if own is None else to_bytes(sampled.latents[own], str(layout["dtype"])),
                    to_bytes(sampled.latents[first + loser], str(layout["dtype"])),
                    drawn[row["id"]] if own is None else to_png(sampled.pictures[own]),
                    to_png(sampled.pictures[first + loser]),
                    "teacher" if own is None else "best_worst",
                )
            )
        counts = {kind: sum(pair["kind"] == kind for pair in found) for kind in ("teacher", "best_worst")}
        counts |= {"samples": len(captions), "right": int(right.sum()), "without_pair": len(rows) - len(found)}
        job.write_table(shard.name, pa.Table.from_pylist(found, schema(KINDS, layout)), counts)


def choose_pair(right: np.ndarray, kind: str) -> tuple[int | None, int] | None:
    """Return the winner and the loser among a caption's samples; a winner of None is the teacher's picture.

    Args:
        right: (samples,) bool, whether each sample shows what the caption says.
        kind: "teacher", "best_worst" or "both".

    Returns None where no sample is wrong, or where "best_worst" finds none that is right.
    """
    if right.all():
        return None
    loser = int(np.argmin(right))
    if kind == "teacher" or (kind == "both" and not right.any()):
        return None, loser
    return (int(np.argmax(right)), loser) if right.any() else None


def _choose(table: pa.Table, count: int, seed: int) -> pa.Table:
    """Return rows of the training set, one for each caption, evenly over topics."""
    order = np.random.default_rng(seed).permutation(len(table))
    captions = np.asarray(table["caption"].to_pylist(), dtype=object)[order]
    first = order[np.sort(np.unique(captions.astype(str), return_index=True)[1])]
    topics = table["topic"].take(first).to_pylist()
    return table.take(np.unique(first[assign_images(topics, min(count, len(first)), "topics")]))


def _pictures_of(synthesis: Artifact, ids: Sequence[int]) -> dict[int, bytes]:
    """Return the teacher's encoded pictures by id."""
    table = read_table(synthesis, "^images", ["id", "image"])
    wanted = table.take(np.searchsorted(table["id"].to_numpy(), ids))
    return {row["id"]: row["image"]["bytes"] for row in wanted.to_pylist()}


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
        "words": source["words"],
        "winner_image": {"bytes": winner_image, "path": None},
        "loser_image": {"bytes": loser_image, "path": None},
    }
