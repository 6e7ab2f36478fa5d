"""captions: a source -> diversified captions with topic tags, without repeats and without evaluation prompts."""

from collections import Counter
from typing import Any

import pyarrow as pa

from lightgen_core.captioning.coverage import coverage, dropped_rows
from lightgen_core.captioning.mix import select_mixed
from lightgen_core.captioning.scene import held_out_captions
from lightgen_core.captioning.select import CaptionSelection, chain, select_captions
from lightgen_core.seeds import derive_seed
from storage.tables import schema
from tasks.captions_sources import Topics, load_candidates, source_turns
from tasks.config.recipe import Recipe
from tasks.context.context import StageContext
from tasks.evaluation_prompts import evaluation_captions, prompt_files
from tasks.stage import stage

SCHEMA = schema(
    {"id": pa.int64(), "caption": pa.string(), "topic": pa.string(), "meaning": pa.string(), "source": pa.string()}
)
DROPPED = schema(
    {
        "caption": pa.string(),
        "topic": pa.string(),
        "reason": pa.string(),
        "detail": pa.string(),
        "location": pa.string(),
        "duplicate_of": pa.int64(),
        "similarity": pa.float32(),
    }
)
"""`location` is that of a damaged caption; `duplicate_of` is the id of the caption that a repeated one repeats."""

COUNT_FIELDS = (
    "captions.count",
    "captions.near_duplicate",
    "captions.embedding",
    "captions.decontamination",
    "captions.llm.oversampling",
    "captions.llm.shard_size",
    "captions.sources.weight",
    "captions.sources.llm.oversampling",
    "captions.sources.llm.shard_size",
)
"""Fields that leave an LLM's answers as they are."""


def _models(recipe: Recipe) -> tuple[str, ...]:
    config = recipe.captions
    writers = [each.llm.model for each in config.origins if each.llm and each.llm.backend == "transformers"]
    return (*writers, *((config.embedding.model,) if config.embedding else ()))


def _files(recipe: Recipe) -> tuple[str, ...]:
    """Return the files of captions, and of the prompts that these must not repeat."""
    files = [location for each in recipe.captions.origins if each.file for location in each.file.locations]
    return (*files, *(() if _scene_only(recipe) else prompt_files(recipe)))


def _scene_only(recipe: Recipe) -> bool:
    """Return whether all captions are the scene world's, whose meanings are certain."""
    return all(origin.source == "scene" for origin in recipe.captions.origins)


@stage(
    version=6,
    config_sections=("seed", "world", "captions"),
    count_fields=COUNT_FIELDS,
    weights=_models,
    files=_files,
    on_device=lambda recipe: bool(_models(recipe)),
)
def captions(ctx: StageContext) -> None:
    """Write `captions.parquet` (kept), `dropped.parquet` (with reasons) and an LLM's `answers-*`."""
    config, seed = ctx.recipe.captions, derive_seed(ctx.recipe.seed, "captions")
    sources, damaged = load_candidates(ctx, seed)
    choice, proof = _choose(ctx, sources, seed)
    dropped = [*damaged, *dropped_rows(choice)]
    reasons = dict(Counter(row["reason"] for row in dropped).most_common())
    if not choice.chosen:
        names = ", ".join(name or config.source for name in sources)
        raise ValueError(f"source {names} gave no usable caption; dropped: {reasons or 'none, it is empty'}")
    if len(choice.chosen) < config.count:
        ctx.log("the source ran dry: %d captions of %d wanted", len(choice.chosen), config.count)
    rows = [
        {"id": i, "caption": caption.text, "topic": caption.topic, "meaning": caption.meaning}
        | {"source": caption.source or config.source}
        for i, caption in enumerate(choice.chosen)
    ]
    ctx.write_table("captions.parquet", pa.Table.from_pylist(rows, SCHEMA))
    ctx.write_table("dropped.parquet", pa.Table.from_pylist(dropped, DROPPED))
    repeated = sum(fault.duplicate_of is not None for _, fault in choice.rejected)
    ctx.counts = {"rows": len(rows), "dropped": len(dropped), "repeated": repeated}
    covered = coverage(choice.chosen, config.llm.taxonomy.axes if config.llm else None)
    ctx.metrics = covered | {"dropped_by_reason": reasons, "evaluation_prompts": proof}
    if config.sources:
        chosen, wanted = Counter(row["source"] for row in rows), Counter(source_turns(ctx.recipe))
        ctx.metrics["captions_by_source"] = {each.name: chosen[each.name] for each in config.sources}
        for name, count in wanted.items():
            if chosen[name] < count:
                ctx.log("%s ran dry: %d of the %d captions of its weight", name, chosen[name], count)


def _choose(ctx: StageContext, sources: dict[str, Topics], seed: int) -> tuple[CaptionSelection, dict[str, Any]]:
    """Return the chosen captions, and the proof that none of them is an evaluation prompt."""
    from lightgen_core.captioning.contamination import EvaluationPrompts
    from lightgen_core.captioning.dedup import lexical_dedup, semantic_dedup
    from lightgen_core.captioning.embedding import caption_embedder

    config, space = ctx.recipe.captions, ctx.recipe.captions.embedding
    embed = caption_embedder(space, ctx.device()) if space else None
    scene = _scene_only(ctx.recipe)  # its meanings are known, and those of the evaluation are held out
    prompts = held_out_captions(ctx.recipe.world) if scene else evaluation_captions(ctx.recipe)
    if scene or not space:
        held_out = EvaluationPrompts(prompts, None if scene else config.decontamination)
    else:
        held_out = EvaluationPrompts(prompts, config.decontamination, embed, space.evaluation)
    threads = ctx.settings.threads
    screens = [held_out.filter, lexical_dedup(config.near_duplicate, seed, within_meaning=scene, threads=threads)]
    if space and embed:
        screens.append(semantic_dedup(space.near_duplicate, embed, within_meaning=scene, threads=threads))
    if config.sources:
        choice = select_mixed(sources, source_turns(ctx.recipe), chain(*screens))
    else:
        choice = select_captions(sources[""], config.count, chain(*screens))
    return choice, held_out.contamination_report([caption.text for caption in choice.chosen])
