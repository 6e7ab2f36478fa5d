"""A flow of two small stages that can be told to fail, or to wait so that it can be killed, before its second shard.

`trouble` in the store's folder says what: `wait` as long as it says so, `count` for some seconds without giving other
threads more than the interpreter makes it, `guard` for a stage that a guard stops early, or the name of a built-in
exception, which is raised once for each line.
`made` there lists the shards in the order in which they were made.
"""

import builtins
import sys
import time
from pathlib import Path

import pyarrow as pa
from prefect import flow

from flows.environment import log_to_stderr
from flows.load import load_recipe
from flows.operations.crash_detection import track_crashes
from flows.plan import Planner
from flows.request import Request
from flows.runner import Runner
from flows.selection import Selection
from storage.open_store import open_store
from tasks.config.settings import Settings
from tasks.context.context import StageContext
from tasks.context.shards import split_rows
from tasks.stage import stage

SHARDS = 3
COUNT_SECONDS = 18
LONGEST_WAIT = 500  # a test that fails leaves nothing behind
BOTH = frozenset({"captions", "synthesis"})


def make_shards(ctx: StageContext, rows: int) -> None:
    folder = ctx.artifact.store.local_path("")
    for shard in ctx.pending_shards(split_rows(rows, 1, ctx.artifact.stage)):
        if shard.start == 1:
            meet_trouble(folder)
        ctx.write_table(shard.name, pa.table({"id": [shard.start]}))
        with (folder / "made").open("a") as made:
            made.write(f"{shard.name}\n")


def meet_trouble(folder: Path) -> None:
    file = folder / "trouble"
    first, *rest = [*file.read_text().split(), ""] if file.exists() else [""]
    if first == "wait":
        (folder / "waits").touch()
        until = time.monotonic() + LONGEST_WAIT
        while file.exists() and file.read_text().startswith("wait") and time.monotonic() < until:
            time.sleep(0.05)
    elif first == "count":
        until = time.monotonic() + COUNT_SECONDS
        while time.monotonic() < until:
            sum(range(100_000))
    elif first and first != "guard":
        file.write_text("\n".join(rest).strip())
        raise getattr(builtins, first)("found trouble, expected none")


def is_guarded(folder: Path) -> bool:
    file = folder / "trouble"
    return file.exists() and file.read_text().split() == ["guard"]


@stage(version=1, config_sections=("seed",))
def captions(ctx: StageContext) -> None:
    make_shards(ctx, 1)


@stage(version=1, config_sections=("seed",), on_device=True)
def synthesis(ctx: StageContext, given: object) -> None:
    make_shards(ctx, SHARDS)
    if is_guarded(ctx.artifact.store.local_path("")):
        ctx.metrics = {"stopped": "the winner's error rose"}


@flow(name="lightgen", persist_result=False)
def two_stages(store: str, refresh: bool = False) -> dict[str, str]:
    """Return the state of each stage."""
    track_crashes()
    recipe, opened = load_recipe("smoke"), open_store(store)
    planner = Planner(recipe, opened)
    planner(synthesis, planner(captions))
    selection = Selection(BOTH, BOTH if refresh else frozenset())
    runner = Runner(Request(recipe, Settings(), opened, selection, planner))
    for planned in planner.stages.values():
        runner.run(planned)
    return {row["stage"]: row["state"] for row in runner.rows}


if __name__ == "__main__":
    log_to_stderr()
    print(two_stages(sys.argv[1], refresh=sys.argv[2:] == ["--refresh"]))
