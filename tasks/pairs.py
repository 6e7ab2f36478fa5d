"""pairs: the student's own samples, judged, and the teacher's images -> preference pairs."""

from collections import Counter

import numpy as np
import pyarrow as pa

from lightgen_core.evaluation.scorer_config import ScorerConfig
from lightgen_core.seeds import derive_seed
from storage.artifact import Artifact
from storage.tables import read_table
from tasks.config.recipe import Recipe
from tasks.context.context import StageContext
from tasks.context.shards import split_rows
from tasks.dedup import KEEP_FILE
from tasks.pair_worker import PairWorker, token_files
from tasks.stage import stage


def _scorers(recipe: Recipe) -> list[ScorerConfig]:
    """Return all scorers, the one without a say last."""
    return [*recipe.pairs.all_scorers, *([recipe.pairs.held_out] if recipe.pairs.held_out else [])]


def _models(recipe: Recipe) -> tuple[str, ...]:
    """Return the frozen models of the scorers."""
    return tuple(dict.fromkeys(name for scorer in _scorers(recipe) for name in scorer.models(recipe.embeddings.model)))


def _heads(recipe: Recipe) -> tuple[str, ...]:
    """Return the files of the scorers' heads."""
    return tuple(scorer.head.weights for scorer in _scorers(recipe) if scorer.head is not None)


@stage(
    version=6,
    config_sections=("seed", "pairs", "sampler", "world", "tokens", "pretrain"),
    weights=_models,
    files=_heads,
    on_device=True,
)
def pairs(ctx: StageContext, student: Artifact, tokens: Artifact, dedup: Artifact, synthesis: Artifact) -> None:
    """Write `pairs-*.parquet`: for captions of the training set, an image to prefer and one to avoid.

    The loser is always a sample of the student itself, the winner the teacher's image or a better sample. Every sample
    is a row of `samples-*.parquet`, with its seed, scores and latents: captions and seeds of a file, the recipe's
    sampler and this student draw it again.
    """
    from lightgen_core.evaluation.pair_rows import choose_caption_rows

    config = ctx.recipe.pairs
    captions = read_table(tokens, token_files(ctx.recipe), ["id", "caption", "topic", "flipped"])
    verdicts = read_table(dedup, KEEP_FILE, ["id", "kept"])
    kept = np.isin(captions["id"], verdicts["id"].filter(verdicts["kept"].combine_chunks()))
    seed = derive_seed(ctx.recipe.seed, "pairs")
    chosen = np.flatnonzero(kept)[choose_caption_rows(captions.filter(pa.array(kept)), config.count, seed)]
    shards = split_rows(len(chosen), config.shard_size, "pairs", "samples")
    ctx.run_shards(shards, PairWorker, student, tokens, synthesis, chosen)
    counts = Counter[str]()
    for name, entry in ctx.records().items():
        counts.update(entry.counts)
        counts["rows"] += entry.rows if name.startswith("pairs") else 0
    ctx.counts = {"rows": counts["rows"]}
    if counts["diverged"]:
        ctx.log(
            "%d of %d samples hold values beyond %s: the student diverged while it trained, see log.json of pretrain. "
            "Lower pretrain.optimizer.learning_rate, or set pretrain.head.objective=v",
            *(counts["diverged"], counts["samples"], ctx.recipe.tokens.dtype),
        )
    _watch(ctx, student)


def _watch(ctx: StageContext, student: Artifact) -> None:
    """Put into the manifest what the samples say of the student, beside the first round's, and a reason to stop."""
    from lightgen_core.evaluation.sample_metrics import reward_hacking, sample_metrics

    now = sample_metrics(ctx.iter_output("^samples"), ctx.recipe.tokens.dtype)
    first = student.manifest().metrics.get("first_round", now)
    stopped = reward_hacking(now, first, ctx.recipe.pairs.max_drop)
    ctx.metrics = {"samples": now, "first_round": first, "stopped": stopped}
    parts = [f"{name} {value:.4f} ({first[name]:.4f})" for name, value in now.items() if value is not None]
    ctx.log("samples, in brackets those of the first round: %s", "; ".join([*parts, *([stopped] if stopped else [])]))
