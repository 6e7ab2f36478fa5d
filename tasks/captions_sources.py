"""The sources of captions: the scene grammar, files, and a language model whose answers are kept shard by shard."""

import json
import math
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa

from lightgen_core.captioning.config import AnswerFilters, LanguageModel
from lightgen_core.captioning.parse import Answer, Writer, caption_of
from lightgen_core.captioning.prompts import Instruction, Instructions
from lightgen_core.captioning.readers import Damaged, excerpt, read_captions
from lightgen_core.captioning.scene import scene_captions
from lightgen_core.captioning.select import Caption
from lightgen_core.rejected import Rejected
from storage.plural import pluralize
from storage.tables import schema
from tasks.context.context import Job
from tasks.context.shards import runs

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
"""`values`: of the taxonomy's axes, as JSON. `caption` is null where `reason` says why the answer is none."""

Topics = dict[str, list[Caption]]
Rows = list[dict[str, Any]]


def candidates(job: Job, seed: int) -> tuple[Topics, Rows]:
    """Return the source's captions by topic, in order of preference, and rows of `dropped.parquet` for the rest.

    Raises:
        CaptionFileError, ContentNotFound: the file cannot be used.
        EndpointError: the language model cannot be reached. What it has answered is kept.
    """
    if job.recipe.captions.source == "scene":
        return scene_captions(job.recipe.world, np.random.default_rng(seed)), []
    if job.recipe.captions.source == "llm":
        return _written(job, seed)
    found, damaged = _read(job)
    return _by_topic(found[place] for place in np.random.default_rng(seed).permutation(len(found))), damaged


def _by_topic(captions: Iterable[Caption]) -> Topics:
    topics: Topics = {}
    for caption in captions:
        topics.setdefault(caption.topic, []).append(caption)
    return topics


def _read(job: Job) -> tuple[list[Caption], Rows]:
    source = job.recipe.captions.file
    assert source is not None, "the recipe checks this"
    found: list[Caption] = []
    damaged: Rows = []
    for read in read_captions(source):
        if isinstance(read, Damaged):
            damaged.append(asdict(read))
        else:
            found.append(read)
    job.say("%s in %s, damaged rows: %d", pluralize(len(found), "caption"), source.path, len(damaged))
    return found, damaged


def _written(job: Job, seed: int) -> tuple[Topics, Rows]:
    """Ask the language model, and return what is a caption of what it answered."""
    asked = job.recipe.captions.llm
    assert asked is not None, "the recipe checks this"
    originals, damaged = _read(job) if asked.rewrite else ([], [])
    instructions = Instructions(asked.taxonomy, seed, asked.rewrite, originals)
    with ExitStack() as until_end:
        writer: Writer | None = None
        count = math.ceil(job.recipe.captions.count * asked.oversampling)
        for shard in job.unfinished(runs(count, asked.shard_size, "answers")):
            writer = writer or _writer(job, asked, until_end)
            given = [instructions[place] for place in range(shard.start, shard.stop)]
            answers = writer.write([each.text for each in given], [each.seed for each in given])
            rows = [
                _answer_row(place, instruction, answer, asked.filters)
                for place, (instruction, answer) in enumerate(zip(given, answers, strict=True), shard.start)
            ]
            job.write_table(shard.name, pa.Table.from_pylist(rows, ANSWERS))
    said: list[Caption] = []
    for row in job.written("^answers").drop_columns(["instruction", "seed"]).to_pylist():
        if row["reason"]:
            about = {name: row[name] for name in ("topic", "reason", "detail")}
            damaged.append(about | {"caption": row["answer"], "place": f"answer {row['id']}"})
        else:
            said.append(Caption(row["caption"], row["topic"], row["caption"], json.loads(row["values"])))
    return _by_topic(said), damaged


def _writer(job: Job, asked: LanguageModel, until_end: ExitStack) -> Writer:
    if asked.backend == "transformers":
        from lightgen_core.captioning.hf_captioner import CausalWriter

        return CausalWriter.load(asked, device=job.device())
    from lightgen_core.captioning.openai_captioner import ChatWriter
    from lightgen_core.endpoint import Endpoint, Patience

    settings = job.settings
    patience = Patience(requests_per_minute=settings.endpoint_requests_per_minute)
    endpoint = until_end.enter_context(Endpoint(settings.llm_url, settings.llm_key.get_secret_value(), patience))
    return ChatWriter(endpoint, asked, settings.endpoint_concurrency)


def _answer_row(place: int, asked: Instruction, answer: Answer, filters: AnswerFilters) -> dict[str, Any]:
    row = {
        "id": place,
        "instruction": asked.text,
        "topic": asked.topic,
        "values": json.dumps(dict(asked.values), sort_keys=True),
        "seed": asked.seed,
        "answer": excerpt(answer.text, most=None),
    }
    try:
        return row | {"caption": caption_of(answer, asked, filters)}
    except Rejected as why:
        return row | {"reason": str(why.reason), "detail": excerpt(why.detail)}
