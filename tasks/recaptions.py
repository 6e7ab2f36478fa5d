"""Recaptions of the stage synthesis: a short and a long caption for each image, shard by shard."""

import hashlib
import json
from collections import Counter
from contextlib import ExitStack
from functools import cached_property
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from lightgen_core.captioning.readers import truncate_for_report
from lightgen_core.captioning.scene import held_out_captions
from lightgen_core.captioning.select import Caption
from lightgen_core.images.parallel import encoded_bytes
from lightgen_core.seeds import derive_seed
from lightgen_core.vlm.recaption import KINDS, Kind, Recaption, parse_recaption, recaption_prompt
from storage.rows import rows_at
from storage.tables import read_file, schema
from tasks.config.recipe import Recipe
from tasks.context.context import StageContext
from tasks.context.digests import weights_digest
from tasks.context.shards import FileShard
from tasks.evaluation_prompts import evaluation_captions
from tasks.vlm import load_vlm

if TYPE_CHECKING:
    from lightgen_core.captioning.contamination import EvaluationPrompts
    from lightgen_core.vlm.vlm import Vlm

KEYS = ("sha256", "caption", "writer")
_VALUES = [f"{kind}{part}" for kind in KINDS for part in ("", "_reason", "_detail")]
SCHEMA = schema({"id": pa.int64()} | dict.fromkeys((*KEYS, *_VALUES), pa.string()))
"""`caption`: the original; `writer`: hash of all that decides the answers; `short` and `long`: null for a reason."""


def write_recaptions(ctx: StageContext) -> None:
    """Write `recaptions-*.parquet`, a row for each image of `images-*.parquet`, in order."""
    records = ctx.records()
    names = sorted(name for name in records if name.startswith("images-") and records[name].rows)
    writer = _writer(ctx.recipe)
    shards = [
        FileShard(
            number,
            (recaption_file(name),),
            records[name].rows,
            name,
            address=ctx.row_config.address(records[name].sha256, writer),
        )
        for number, name in enumerate(names)
    ]
    ctx.run_shards(shards, RecaptionWorker, writer)


def recaption_file(images: str) -> str:
    """Return the name of the file of recaptions that goes with a file of images."""
    return images.replace("images-", "recaptions-", 1)


def recaption_metrics(ctx: StageContext) -> dict[str, Any]:
    """Return the number of captions of each kind, and the reasons for missing ones."""
    rows = ctx.read_output("^recaptions")
    reasons = {kind: Counter(reason for reason in rows[f"{kind}_reason"].to_pylist() if reason) for kind in KINDS}
    return {
        kind: {"captions": len(rows) - reasons[kind].total(), "reasons": dict(sorted(reasons[kind].items()))}
        for kind in KINDS
    }


def _writer(recipe: Recipe) -> str:
    """Return the hash of all that decides a recaption, beside the image and its caption."""
    config = recipe.synthesis.recaption
    assert config is not None, "called for recipes with recaptions"
    weights = weights_digest(config.model) if config.weights else None
    identity = [config.model_dump(mode="json"), weights, recipe.seed, _held_out(recipe)]
    identity.append(recipe.captions.decontamination.model_dump(mode="json"))
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]


def _held_out(recipe: Recipe) -> list[str]:
    """Return the captions that no recaption may give away."""
    if all(origin.source == "scene" for origin in recipe.captions.origins):
        return sorted(held_out_captions(recipe.world))
    return evaluation_captions(recipe)


class RecaptionWorker:
    """Captions a shard of images."""

    def __init__(self, ctx: StageContext, writer: str) -> None:
        config = ctx.recipe.synthesis.recaption
        assert config is not None, "called for recipes with recaptions"
        self.ctx, self.config, self.writer = ctx, config, writer
        self.earlier = ctx.earlier_rows("^recaptions", KEYS)
        self._loaded: Vlm | None = None

    def __call__(self, shard: FileShard) -> None:
        rows = read_file(self.ctx.artifact, shard.source, ["id", "sha256", "caption", "image"])
        rows = rows.append_column("writer", pa.array([self.writer] * len(rows), pa.string()))
        values, reused = self.earlier.complete(
            rows.select(KEYS), _VALUES, lambda positions: self._write(rows_at(rows, positions))
        )
        columns = {name: rows[name] for name in ("id", *KEYS)} | {name: values[name] for name in _VALUES}
        self.ctx.write_table(shard.name, pa.table(columns, SCHEMA), address=shard.address, reused=reused)

    def _write(self, rows: pa.Table) -> pa.Table:
        images, captions = encoded_bytes(rows["image"]), rows["caption"].to_pylist()
        digests = rows["sha256"].to_pylist()
        columns: dict[str, list[str | None]] = {}
        with ExitStack() as stack:
            vlm = self._loaded or load_vlm(self.ctx, self.config, stack)
            if self.config.backend == "transformers":
                self._loaded = vlm  # for all shards; a connection is closed after each
            for kind in KINDS:
                prompts = [recaption_prompt(self.config, kind, caption) for caption in captions]
                seeds = [derive_seed(self.ctx.recipe.seed, "recaption", kind, digest) for digest in digests]
                answers = vlm.write(images, prompts, seeds)
                columns |= self._columns(
                    kind,
                    [parse_recaption(self.config, kind, p, a) for p, a in zip(prompts, answers, strict=True)],
                )
        return pa.table({name: pa.array(columns[name], pa.string()) for name in _VALUES})

    def _columns(self, kind: Kind, found: list[Recaption]) -> dict[str, list[str | None]]:
        """Return the columns of one kind of caption, without those that give an evaluation prompt away."""
        written = [Caption(each.caption or "", "", "") for each in found]
        for row, rejection in enumerate(self._prompts.filter(written)):
            if rejection is not None and found[row].caption is not None:
                found[row] = Recaption(None, str(rejection.reason), rejection.detail)
        detail = [each.detail and truncate_for_report(each.detail) for each in found]
        reasons = [each.reason for each in found]
        return {kind: [each.caption for each in found], f"{kind}_reason": reasons, f"{kind}_detail": detail}

    @cached_property
    def _prompts(self) -> "EvaluationPrompts":
        from lightgen_core.captioning.contamination import EvaluationPrompts

        return EvaluationPrompts(_held_out(self.ctx.recipe), self.ctx.recipe.captions.decontamination)
