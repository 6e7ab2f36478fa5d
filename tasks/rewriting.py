"""Evaluation prompts written out before they are drawn: asked once each, kept with the reasons for none."""

from collections import Counter
from contextlib import ExitStack
from typing import Any

import pyarrow as pa

from lightgen_core.evaluation.prompt import Prompt
from lightgen_core.seeds import derive_seed
from storage.tables import schema
from tasks.context.context import StageContext
from tasks.context.shards import split_rows
from tasks.writer import load_writer

SCHEMA = schema(
    {
        "id": pa.int64(),
        "prompt": pa.string(),
        "caption": pa.string(),
        "answer": pa.string(),
        "reason": pa.string(),
        "detail": pa.string(),
    }
)
"""`caption`: what is drawn, null where the prompt itself is; `reason`: why."""
SAMPLED_CAPTION = "sampled_caption"
"""Column of `samples-*.parquet` where prompts were rewritten: what was sampled instead of `caption`."""
_SHARD = 200  # prompts whose answers a kill can lose


def rewrite_prompts(ctx: StageContext, prompts: list[Prompt]) -> tuple[list[str], dict[str, Any]]:
    """Write `rewrites-*.parquet`; return what is drawn of each prompt, and how many were rewritten.

    Raises:
        EndpointError: the model cannot be reached. What it has answered is kept.
    """
    from lightgen_core.captioning.rewrite import parse_rewriting, rewriting_instruction

    config = ctx.recipe.evaluation.rewrite
    assert config is not None, "called for recipes that rewrite"
    with ExitStack() as stack:
        writer = None
        for shard in ctx.pending_shards(split_rows(len(prompts), _SHARD, "rewrites")):
            writer = writer or load_writer(ctx, config, stack)
            asked = [prompt.caption for prompt in prompts[shard.start : shard.stop]]
            seeds = [derive_seed(ctx.recipe.seed, "rewrite", index) for index in range(shard.start, shard.stop)]
            answers = writer.write([rewriting_instruction(config, prompt) for prompt in asked], seeds)
            rows = []
            for index, prompt, answer in zip(range(shard.start, shard.stop), asked, answers, strict=True):
                found = parse_rewriting(config, prompt, answer)
                row = {"id": index, "prompt": prompt, "answer": answer.error or answer.text}
                rows.append(row | {"caption": found.caption, "reason": found.reason, "detail": found.detail})
            ctx.write_table(shard.name, pa.Table.from_pylist(rows, SCHEMA))
    table = ctx.read_output("^rewrites").to_pylist()
    reasons = Counter(row["reason"] for row in table if row["reason"])
    counts = {
        "prompts": len(table),
        "rewritten": len(table) - reasons.total(),
        "reasons": dict(sorted(reasons.items())),
    }
    return [row["caption"] or row["prompt"] for row in table], counts
