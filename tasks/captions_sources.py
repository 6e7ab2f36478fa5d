"""Caption sources: the scene grammar, files, and a language model whose answers are saved shard by shard."""

import json
import math
import re
from collections import Counter
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pyarrow as pa

from lightgen_core.captioning.config import AnswerFilters
from lightgen_core.captioning.parse import Answer, Captioner, parse_caption
from lightgen_core.captioning.prompts import Instruction, Instructions
from lightgen_core.captioning.readers import BadRow, read_captions, truncate_for_report
from lightgen_core.captioning.scene import scene_captions
from lightgen_core.captioning.select import Caption
from lightgen_core.data.shuffle import weighted_turns
from lightgen_core.rejected import Rejected
from lightgen_core.seeds import derive_seed
from storage.plural import pluralize
from storage.tables import schema
from tasks.config.recipe import Recipe
from tasks.config.sources import CaptionOrigin
from tasks.context.context import StageContext
from tasks.context.shards import split_rows
from tasks.writer import load_writer

ANSWERS = schema(
    {
        "id": pa.int64(),
        "instruction": pa.string(),
        "topic": pa.string(),
        "values": pa.string(),
        "seed": pa.int64(),
        "answer": pa.string(),
        "caption": pa.string(),
        "reason": pa.string(),
        "detail": pa.string(),
    }
)
"""`values`: of the taxonomy's axes, as JSON. `caption` is null if the answer was rejected for `reason`."""

Topics = dict[str, list[Caption]]
Rows = list[dict[str, Any]]


def load_candidates(ctx: StageContext, seed: int) -> tuple[dict[str, Topics], Rows]:
    """Return by name of the source (of an only one: "") its captions by topic, in order of preference.

    Also return rows of `dropped.parquet` for what cannot be used.

    Raises:
        CaptionFileError, ContentNotFound: the file cannot be used.
        EndpointError: the language model cannot be reached. What it has answered is kept.
    """
    config = ctx.recipe.captions
    if not config.sources:
        topics, damaged = _candidates(ctx, config, seed, config.count, "answers")
        return {"": topics}, damaged
    counts = Counter(source_turns(ctx.recipe))
    sources: dict[str, Topics] = {}
    dropped: Rows = []
    for each in config.sources:
        own_seed, count = derive_seed(seed, each.name), counts[each.name]
        topics, damaged = _candidates(ctx, each, own_seed, count, f"answers-{each.name}") if count else ({}, [])
        named = {topic: [replace(caption, source=each.name) for caption in own] for topic, own in topics.items()}
        sources[each.name] = named
        dropped += [row | {"location": f"{each.name}: {row['location']}"} for row in damaged]
    return sources, dropped


def source_turns(recipe: Recipe) -> list[str]:
    """Return the name of the source of each caption wanted, of a recipe with several."""
    sources = recipe.captions.sources
    weights, seed = [each.weight for each in sources], derive_seed(recipe.seed, "sources of captions")
    numbers, _ = weighted_turns(0, recipe.captions.count, weights, seed)
    return [sources[number].name for number in numbers.tolist()]


def _candidates(ctx: StageContext, origin: CaptionOrigin, seed: int, count: int, answers: str) -> tuple[Topics, Rows]:
    """Return the captions of one source; an LLM's answers for `count` captions are in files `answers`-*."""
    if origin.source == "scene":
        return scene_captions(ctx.recipe.world, np.random.default_rng(seed)), []
    if origin.source == "llm":
        return _from_llm(ctx, origin, seed, count, answers)
    captions, damaged = _read_file(ctx, origin)
    # by a hash of the text: a caption that is added moves no two others
    return _by_topic(sorted(captions, key=lambda caption: derive_seed(seed, caption.text))), damaged


def _by_topic(captions: Iterable[Caption]) -> Topics:
    topics: Topics = {}
    for caption in captions:
        topics.setdefault(caption.topic, []).append(caption)
    return topics


def _read_file(ctx: StageContext, origin: CaptionOrigin) -> tuple[list[Caption], Rows]:
    source = origin.file
    assert source is not None, "the recipe checks this"
    captions: list[Caption] = []
    damaged: Rows = []
    for row in read_captions(source):
        if isinstance(row, BadRow):
            damaged.append(asdict(row))
        else:
            captions.append(row)
    ctx.log("%s in %s, rows left out: %d", pluralize(len(captions), "caption"), source.path, len(damaged))
    return captions, damaged


def _from_llm(ctx: StageContext, origin: CaptionOrigin, seed: int, wanted: int, name: str) -> tuple[Topics, Rows]:
    """Ask the language model. Return the captions among its answers, and rows of the rejected answers."""
    config = origin.llm
    assert config is not None, "the recipe checks this"
    originals, damaged = _read_file(ctx, origin) if config.rewrite else ([], [])
    instructions = Instructions(config.taxonomy, seed, config.rewrite, originals)
    with ExitStack() as stack:
        writer: Captioner | None = None
        count, files = math.ceil(wanted * config.oversampling), rf"^{re.escape(name)}-\d+\."
        earlier = ctx.earlier_rows(files, ("id", "instruction", "seed"))
        for shard in ctx.pending_shards(split_rows(count, config.shard_size, name)):
            asked = [(index, instructions[index]) for index in range(shard.start, shard.stop)]

            def write(positions: list[int], asked: list[tuple[int, Instruction]] = asked) -> pa.Table:
                nonlocal writer
                writer = writer or load_writer(ctx, config, stack)
                batch = [asked[position] for position in positions]
                answers = writer.write([item.text for _, item in batch], [item.seed for _, item in batch])
                pairs = zip(batch, answers, strict=True)
                rows = [_answer_row(index, item, answer, config.filters) for (index, item), answer in pairs]
                return pa.Table.from_pylist(rows, ANSWERS)

            keys = [{"id": index, "instruction": item.text, "seed": item.seed} for index, item in asked]
            table, reused = earlier.complete(pa.Table.from_pylist(keys), ANSWERS.names, write)
            ctx.write_table(shard.name, table, reused=reused)
    captions: list[Caption] = []
    for row in ctx.read_output(files).drop_columns(["instruction", "seed"]).to_pylist():
        if row["reason"]:
            rejected = {name: row[name] for name in ("topic", "reason", "detail")}
            damaged.append(rejected | {"caption": row["answer"], "location": f"answer {row['id']}"})
        else:
            captions.append(Caption(row["caption"], row["topic"], row["caption"], json.loads(row["values"])))
    return _by_topic(captions), damaged


def _answer_row(index: int, instruction: Instruction, answer: Answer, filters: AnswerFilters) -> dict[str, Any]:
    row = {
        "id": index,
        "instruction": instruction.text,
        "topic": instruction.topic,
        "values": json.dumps(dict(instruction.values), sort_keys=True),
        "seed": instruction.seed,
        "answer": truncate_for_report(answer.text, limit=None),
    }
    try:
        return row | {"caption": parse_caption(answer, instruction, filters)}
    except Rejected as rejected:
        return row | {"reason": str(rejected.reason), "detail": truncate_for_report(rejected.detail)}
