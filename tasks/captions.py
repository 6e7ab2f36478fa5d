"""captions: a source -> diversified captions with topic tags, without repeats and without evaluation prompts."""

from collections import Counter
from typing import Any

import pyarrow as pa

from lightgen_core.captioning.scene import held_out_captions
from lightgen_core.captioning.select import CaptionSelection, chain, select_captions
from lightgen_core.seeds import derive_seed
from storage.tables import schema
from tasks.captions_sources import Topics, candidates
from tasks.config.recipe import Recipe
from tasks.context.context import Job
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
    reads=("seed", "world", "captions"),
    weights=_models,
    files=_files,
    on_device=lambda recipe: bool(_models(recipe)),
)
def captions(job: Job) -> None:
    """Write `captions.parquet` (what is drawn), `dropped.parquet` (what is not, and why) and an LLM's `answers-*`."""
    asked, seed = job.recipe.captions, derive_seed(job.recipe.seed, "captions")
    topics, damaged = candidates(job, seed)
    choice, proof = _choose(job, topics, seed)
    dropped = [*damaged, *_faults(choice)]
    reasons = dict(Counter(row["reason"] for row in dropped).most_common())
    if not choice.chosen:
        raise ValueError(f"source {asked.source} gave no usable caption; dropped: {reasons or 'none, it is empty'}")
    if len(choice.chosen) < asked.count:
        job.say("the source ran dry: %d captions of %d wanted", len(choice.chosen), asked.count)
    rows = [
        {"id": i, "caption": said.text, "topic": said.topic, "meaning": said.meaning, "source": asked.source}
        for i, said in enumerate(choice.chosen)
    ]
    job.write_table("captions.parquet", pa.Table.from_pylist(rows, SCHEMA))
    job.write_table("dropped.parquet", pa.Table.from_pylist(dropped, DROPPED))
    repeated = sum(fault.duplicate_of is not None for _, fault in choice.rejected)
    job.counts = {"rows": len(rows), "dropped": len(dropped), "repeated": repeated}
    job.figures = _coverage(job.recipe, choice) | {"dropped_by_reason": reasons, "evaluation_prompts": proof}


def _choose(job: Job, topics: Topics, seed: int) -> tuple[CaptionSelection, dict[str, Any]]:
    """Return the captions chosen, and the proof that none of them is an evaluation prompt."""
    from lightgen_core.captioning.contamination import EvaluationPrompts
    from lightgen_core.captioning.dedup import lexical_dedup, semantic_dedup
    from lightgen_core.captioning.embedding import caption_embedder

    asked, space = job.recipe.captions, job.recipe.captions.embedding
    embed = caption_embedder(space, job.device()) if space else None
    known = asked.source == "scene"  # its meanings are known, and those of the evaluation are held out
    prompts = held_out_captions(job.recipe.world) if known else evaluation_captions(job.recipe)
    if known or not space:
        kept_out = EvaluationPrompts(prompts, None if known else asked.decontamination)
    else:
        kept_out = EvaluationPrompts(prompts, asked.decontamination, embed, space.evaluation)
    filters = [kept_out.filter, lexical_dedup(asked.near_duplicate, seed, within_meaning=known)]
    if space and embed:
        filters.append(semantic_dedup(space.near_duplicate, embed, within_meaning=known))
    choice = select_captions(topics, asked.count, chain(*filters))
    return choice, kept_out.contamination_report([said.text for said in choice.chosen])


def _faults(choice: CaptionSelection) -> list[dict[str, Any]]:
    return [
        {
            "caption": caption.text,
            "topic": caption.topic,
            "reason": str(fault.reason),
            "detail": fault.detail,
            "duplicate_of": fault.duplicate_of,
            "similarity": fault.similarity,
        }
        for caption, fault in choice.rejected
    ]


def _coverage(recipe: Recipe, choice: CaptionSelection) -> dict[str, Any]:
    """Count what the captions cover: topics, meanings, words, and each value of a taxonomy, unused ones too."""
    said = choice.chosen
    figures: dict[str, Any] = {
        "captions_by_topic": dict(Counter(each.topic for each in said)),
        "meanings_by_topic": dict(Counter(topic for topic, _ in dict.fromkeys((e.topic, e.meaning) for e in said))),
        "distinct_words": len({word for each in said for word in each.text.lower().split()}),
    }
    if recipe.captions.llm:
        used = Counter(label for each in said for label in each.labels.items())
        axes = recipe.captions.llm.taxonomy.axes
        figures["captions_by_axis"] = {
            axis: {value: used[axis, value] for value in values} for axis, values in axes.items()
        }
    return figures
