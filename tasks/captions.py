"""captions: a source -> diversified captions with topic tags, without repeats and without evaluation prompts."""

from collections import Counter
from typing import Any

import pyarrow as pa

from lightgen_core.captioning.scene import held_out_captions
from lightgen_core.captioning.select import Choice, choose_captions, in_turn
from lightgen_core.seeds import seed_of
from storage.tables import schema
from tasks.captions_sources import Topics, load_candidates
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
        "place": pa.string(),
        "duplicate_of": pa.int64(),
        "similarity": pa.float32(),
    }
)
"""`place` is where a damaged caption was found; `duplicate_of` is the id of the caption that a repeated one repeats."""


def _models(recipe: Recipe) -> tuple[str, ...]:
    asked = recipe.captions
    writer = (asked.llm.model,) if asked.llm and asked.llm.backend == "transformers" else ()
    return (*writer, *((asked.embedding.model,) if asked.embedding else ()))


def _files(recipe: Recipe) -> tuple[str, ...]:
    """Return the files of captions, and of the prompts that these must not repeat."""
    asked = recipe.captions
    return (*((asked.file.path,) if asked.file else ()), *(() if asked.source == "scene" else prompt_files(recipe)))


@stage(
    version=3,
    config_sections=("seed", "world", "captions"),
    weights=_models,
    files=_files,
    on_device=lambda recipe: bool(_models(recipe)),
)
def captions(ctx: StageContext) -> None:
    """Write `captions.parquet` (what is drawn), `dropped.parquet` (what is not, and why) and an LLM's `answers-*`."""
    asked, seed = ctx.recipe.captions, seed_of(ctx.recipe.seed, "captions")
    topics, damaged = load_candidates(ctx, seed)
    choice, proof = _choose(ctx, topics, seed)
    dropped = [*damaged, *_faults(choice)]
    reasons = dict(Counter(row["reason"] for row in dropped).most_common())
    if not choice.chosen:
        raise ValueError(f"source {asked.source} gave no usable caption; dropped: {reasons or 'none, it is empty'}")
    if len(choice.chosen) < asked.count:
        ctx.log("the source ran dry: %d captions of %d wanted", len(choice.chosen), asked.count)
    rows = [
        {"id": i, "caption": said.text, "topic": said.topic, "meaning": said.meaning, "source": asked.source}
        for i, said in enumerate(choice.chosen)
    ]
    ctx.write_table("captions.parquet", pa.Table.from_pylist(rows, SCHEMA))
    ctx.write_table("dropped.parquet", pa.Table.from_pylist(dropped, DROPPED))
    repeated = sum(fault.repeats is not None for _, fault in choice.dropped)
    ctx.counts = {"rows": len(rows), "dropped": len(dropped), "repeated": repeated}
    ctx.metrics = _coverage(ctx.recipe, choice) | {"dropped_by_reason": reasons, "evaluation_prompts": proof}


def _choose(ctx: StageContext, topics: Topics, seed: int) -> tuple[Choice, dict[str, Any]]:
    """Return the captions chosen, and the proof that none of them is an evaluation prompt."""
    from lightgen_core.captioning.contamination import EvaluationPrompts
    from lightgen_core.captioning.dedup import repeated_meaning, repeated_words
    from lightgen_core.captioning.embedding import caption_embedder

    asked, space = ctx.recipe.captions, ctx.recipe.captions.embedding
    embed = caption_embedder(space, ctx.device()) if space else None
    known = asked.source == "scene"  # its meanings are known, and those of the evaluation are held out
    prompts = held_out_captions(ctx.recipe.world) if known else evaluation_captions(ctx.recipe)
    if known or not space:
        kept_out = EvaluationPrompts(prompts, None if known else asked.decontamination)
    else:
        kept_out = EvaluationPrompts(prompts, asked.decontamination, embed, space.evaluation)
    screens = [kept_out.screen, repeated_words(asked.near_duplicate, seed, within_meaning=known)]
    if space and embed:
        screens.append(repeated_meaning(space.near_duplicate, embed, within_meaning=known))
    choice = choose_captions(topics, asked.count, in_turn(*screens))
    return choice, kept_out.proof([said.text for said in choice.chosen])


def _faults(choice: Choice) -> list[dict[str, Any]]:
    return [
        {
            "caption": caption.text,
            "topic": caption.topic,
            "reason": str(fault.reason),
            "detail": fault.detail,
            "duplicate_of": fault.repeats,
            "similarity": fault.similarity,
        }
        for caption, fault in choice.dropped
    ]


def _coverage(recipe: Recipe, choice: Choice) -> dict[str, Any]:
    """Count what the captions cover: topics, meanings, words, and each value of a taxonomy, unused ones too."""
    said = choice.chosen
    metrics: dict[str, Any] = {
        "captions_by_topic": dict(Counter(each.topic for each in said)),
        "meanings_by_topic": dict(Counter(topic for topic, _ in dict.fromkeys((e.topic, e.meaning) for e in said))),
        "distinct_words": len({word for each in said for word in each.text.lower().split()}),
    }
    if recipe.captions.llm:
        used = Counter(label for each in said for label in each.labels.items())
        axes = recipe.captions.llm.taxonomy.axes
        metrics["captions_by_axis"] = {
            axis: {value: used[axis, value] for value in values} for axis, values in axes.items()
        }
    return metrics
