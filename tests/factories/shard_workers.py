"""A stage of small shards, and shard workers that processes import by name: good ones, bad ones, slow ones."""

import json
import os
import signal
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa

from flows.load import load_recipe
from storage.artifact import Artifact
from storage.store import Store
from tasks.config.settings import Settings
from tasks.context.context import StageContext
from tasks.context.progress import ProgressCallback, ignore_progress
from tasks.context.shards import RowRangeShard, ShardWorker, split_rows
from tasks.stage import stage
from tasks.synthesis import SynthesisWorker
from tasks.synthesis_mix import SynthesisPlan
from tests.support.waiting import wait_until

RECIPE = load_recipe("smoke")


def make(
    store: Store,
    notes: Path,
    worker: Callable[..., ShardWorker],
    settings: Settings,
    rows: int = 8,
    on_progress: ProgressCallback = ignore_progress,
    **how: Any,
) -> Artifact:
    """Make an artifact of shards of two rows."""

    @stage(version=1, config_sections=("seed",), on_device=True)
    def numbers(ctx: StageContext) -> None:
        ctx.run_shards(split_rows(rows, 2, "part"), worker, notes)

    notes.mkdir(exist_ok=True)
    artifact = numbers.artifact(RECIPE, store, ())
    numbers.run(RECIPE, settings, (), artifact, on_progress=on_progress, **how)
    return artifact


def note(notes: Path, what: str, **facts: Any) -> None:
    """Record that something happened, in a file that appears complete."""
    partial = notes / f".{uuid.uuid4().hex}"
    partial.write_text(json.dumps(facts))
    partial.rename(notes / f"{what}-{uuid.uuid4().hex}")


def noted(notes: Path, what: str) -> list[dict[str, Any]]:
    """Return the facts of everything that happened under a name."""
    return [json.loads(path.read_text()) for path in sorted(notes.glob(f"{what}-*"))]


def made_shards(notes: Path) -> Counter[int]:
    """Return how often the making of each shard began."""
    return Counter(begun["shard"] for begun in noted(notes, "began"))


class Numbers:
    """Writes the numbers of its rows."""

    def __init__(self, ctx: StageContext, notes: Path) -> None:
        self.ctx, self.notes = ctx, notes
        facts = {"prefect": "prefect" in sys.modules, "gpu": os.environ.get("CUDA_VISIBLE_DEVICES")}
        note(notes, "loaded", pid=os.getpid(), threads=ctx.settings.threads, **facts)

    def __call__(self, shard: RowRangeShard) -> None:
        note(self.notes, "began", shard=shard.number, pid=os.getpid())
        self.ctx.log("making %s", shard.name)
        self.ctx.write_table(shard.name, pa.table({"id": list(range(shard.start, shard.stop))}), {"odd": 1})


class KilledAtTwo(Numbers):
    """Dies as of memory that ran out."""

    def __call__(self, shard: RowRangeShard) -> None:
        super().__call__(shard) if shard.number != 2 else os.kill(os.getpid(), signal.SIGKILL)


class TooBlue(ValueError):
    """Stands for an error of a stage."""


class FailsAtTwo(Numbers):
    """Raises an error with a text."""

    def __call__(self, shard: RowRangeShard) -> None:
        if shard.number == 2:
            raise TooBlue(f"{shard.name} is too blue")
        super().__call__(shard)


class Unportable(Exception):
    """Pickles, and does not come back: a library's errors may do so."""

    def __init__(self, one: str, two: str) -> None:
        super().__init__(f"{one} and {two}")


class FailsUnportably(Numbers):
    """Raises what no other process can unpickle."""

    def __call__(self, shard: RowRangeShard) -> None:
        raise Unportable("this", "that")


class Held(Numbers):
    """Makes nothing, ever."""

    def __call__(self, shard: RowRangeShard) -> None:
        note(self.notes, "began", shard=shard.number, pid=os.getpid())
        wait_until((self.notes / "never").exists)


class HeldSynthesisWorker(SynthesisWorker):
    """Paints the first shard at once and the others as soon as there is a file `go`; notes on which node it does."""

    def __init__(self, ctx: StageContext, work: SynthesisPlan, notes: Path) -> None:
        super().__init__(ctx, work)
        self.notes = notes

    def __call__(self, shard: RowRangeShard) -> None:
        import ray

        note(self.notes, "began", shard=shard.number, node=ray.get_runtime_context().get_node_id())
        if shard.number:
            wait_until((self.notes / "go").exists)
        super().__call__(shard)


class Burning(Numbers):
    """Takes half a second of CPU time for a shard, however long that lasts."""

    def __call__(self, shard: RowRangeShard) -> None:
        until = time.process_time() + 0.5
        while time.process_time() < until:
            pass
        super().__call__(shard)
        note(self.notes, "ended", shard=shard.number, pid=os.getpid(), at=time.time())
