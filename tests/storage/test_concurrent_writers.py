"""Two machines make one artifact at once, in a store without locks: one stops at each request, the other goes on."""

import copy
import threading
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pytest

from flows.load import load_recipe
from storage.artifact import Artifact, DamagedArtifact, FinishedElsewhere
from storage.store import Store
from tasks.config.settings import Settings
from tasks.context.context import StageContext
from tasks.context.shards import split_rows
from tasks.stage import stage
from tests.support.stores import commit

pytest_plugins = ["tests.support.every_store"]

FILES = ["page.html", "part-0", "part-1"]
REQUESTS = ("cat_file", "pipe_file", "put_file", "find", "rm_file", "info", "open")


class Requests:
    """A file system that calls a function before its request of one number."""

    def __init__(self, fs: Any, number: int, meanwhile: Callable[[], None]) -> None:
        self._fs, self.count = fs, 0
        self._number, self._meanwhile = number, meanwhile

    def counted(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if kwargs.get("mode") != "create":  # counted before it takes the lock that stands for S3's one step
                self.count += 1
                if self.count == self._number:
                    self._meanwhile()
            return method(*args, **kwargs)

        return call

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._fs, name)
        return self.counted(method) if name in REQUESTS else method


def stopped(store: Store, number: int, meanwhile: Callable[[], None]) -> Requests:
    """Let another handle of the store call `meanwhile` before its request of this number."""
    requests = store._files._fs = Requests(store._files._fs, number, meanwhile)
    store._files.create = requests.counted(store._files.create)
    return requests


def handle(store: Store) -> Store:
    """Return another handle of a store, by the same connection."""
    other = copy.copy(store)
    other._files = copy.copy(store._files)
    return other


def make(store: Store, who: str, key: str = "k") -> bool:
    """Make the artifact of two equal parts and a page that is each maker's own; return whether it was the first."""
    artifact = Artifact(store, "report", key)
    if artifact.check().state == "done":
        artifact.tidy()
        return False
    try:
        for name in FILES[1:]:
            artifact.add(name, b"equal " + name.encode(), 1, {})
        artifact.add("page.html", f"made by {who}".encode(), 0, {"by": len(who)})
        return commit(artifact)
    except FinishedElsewhere:
        artifact.tidy()
        return False


def sound(store: Store, key: str = "k") -> None:
    """Hold what everybody may rely on at any time: what has a manifest is whole."""
    artifact = Artifact(store, "report", key)
    if artifact.finished():
        assert artifact.check(rehash=True).state == "done"
        assert artifact.names() == FILES


def clean(store: Store, key: str = "k") -> None:
    """Hold that nothing is left but the artifact."""
    manifest = Artifact(store, "report", key).manifest()
    assert sorted(store.files(f"report/{key}")) == sorted(["manifest.json", *(entry.path for entry in manifest.files)])


def requests_of(store: Store) -> int:
    requests = stopped(store, 0, lambda: None)
    make(store, "alone")
    return requests.count


@pytest.mark.parametrize(("kind", "every"), [("memory", 1), ("s3", 5)])
def test_of_two_writers_one_is_the_first_and_its_files_stay(kind, every, empty, tmp_path):
    """The other may come between any two requests."""
    store, results = empty(kind, tmp_path), []
    for number in range(1, 100, every):
        mine, key, told = handle(store), f"k{number}", []

        def meanwhile(key: str = key, told: list[bool] = told) -> None:
            told.append(make(store, "the other", key))
            sound(store, key)

        stopped(mine, number, meanwhile)
        first = make(mine, "me", key)
        sound(store, key)
        clean(store, key)
        if not told:  # all is done before the request of this number
            break
        results.append((first, *told))
        page = Artifact(store, "report", key).open("page.html").read()
        assert page == (b"made by me" if first else b"made by the other")
    assert set(results) == {(True, False), (False, True)}
    assert len(results) * every > 15


def test_wherever_both_writers_stop_manifests_are_complete(empty, tmp_path):
    """No finished file is touched."""
    total = requests_of(empty("memory", tmp_path))
    assert total > 15
    for mine_stops in range(1, total + 1):
        for theirs_stops in range(1, total + 1):
            both_stopped(empty("memory", tmp_path), mine_stops, theirs_stops)


def both_stopped(store: Store, mine_stops: int, theirs_stops: int) -> None:
    """One starts at the other's request, stops at one of its own, and goes on when the other has ended."""
    mine, theirs = handle(store), handle(store)
    waiting, go_on, said = threading.Event(), threading.Event(), []

    def wait() -> None:
        waiting.set()
        assert go_on.wait(300)

    def other() -> None:
        said.append(make(theirs, "the other"))
        waiting.set()

    thread = threading.Thread(target=other)

    def meanwhile() -> None:
        thread.start()
        assert waiting.wait(300)
        sound(store)

    stopped(theirs, theirs_stops, wait)
    stopped(mine, mine_stops, meanwhile)
    said.append(make(mine, "me"))
    sound(store)
    manifest = Artifact(store, "report", "k").manifest()
    go_on.set()
    if thread.ident is not None:
        thread.join()
    else:
        said.append(False)
    assert (said.count(True), len(said)) == (1, 2), (mine_stops, theirs_stops)
    sound(store)
    clean(store)
    assert Artifact(store, "report", "k").manifest() == manifest


RECIPE = load_recipe("smoke")


def test_a_stage_that_comes_second_takes_the_firsts_artifact(empty, tmp_path):
    def staged(who: str) -> Any:
        @stage(version=1, config_sections=("seed",))
        def report(ctx: StageContext) -> None:
            for number in range(2):
                ctx.write_table(f"part-{number}.parquet", pa.table({"id": [2 * number, 2 * number + 1]}))
            ctx.write("page.html", f"{who} saw {ctx.read_output('^part').num_rows} rows".encode())

        return report

    def make_stage(store: Store, who: str) -> bool:
        made = staged(who)
        return made.run(RECIPE, Settings(scratch=str(tmp_path / who)), (), made.artifact(RECIPE, store, ()))

    results = []
    for number in range(1, 100):
        store = empty("memory", tmp_path)
        mine, told = handle(store), []
        stopped(mine, number, lambda store=store, told=told: told.append(make_stage(store, "the other")))
        first = make_stage(mine, "me")
        if not told:
            break
        results.append((first, told[0]))
        artifact = staged("").artifact(RECIPE, store, ())
        assert artifact.check(rehash=True).state == "done"
        assert artifact.open("page.html").read() == (b"me" if first else b"the other") + b" saw 4 rows"
        assert artifact.manifest().counts == {"rows": 4}
    assert set(results) == {(True, False), (False, True)}


def rows(start: int, stop: int) -> pa.Table:
    return pa.table({"id": list(range(start, stop))})


def staged_shards() -> Any:
    """A stage of three shards and a page that tells of them."""

    @stage(version=1, config_sections=("seed",))
    def report(ctx: StageContext) -> None:
        for shard in ctx.pending_shards(split_rows(6, 2, "part")):
            ctx.write_table(shard.name, rows(shard.start, shard.stop))
        ctx.write("page.html", f"{ctx.read_output('^part').num_rows} rows".encode())

    return report


def removed(store: Store) -> None:
    staged_shards().artifact(RECIPE, store, ()).remove()


def begun_anew(store: Store) -> None:
    """Do what `--refresh` of another machine has done when its second shard takes long."""
    removed(store)
    StageContext(RECIPE, Settings(), staged_shards().artifact(RECIPE, store, ())).write_table(
        "part-00000.parquet", rows(0, 2)
    )


def whole(artifact: Artifact) -> None:
    assert artifact.check(rehash=True).state == "done"
    assert (len(artifact.names("^part")), artifact.open("page.html").read()) == (3, b"6 rows")


@pytest.mark.parametrize("meddle", [removed, begun_anew])
def test_a_done_artifact_is_whole_though_another_removes_it(meddle, empty, tmp_path):
    """Another machine removes or refreshes it between any two requests."""
    made, errors = staged_shards(), []
    for number in range(1, 100):
        store = empty("memory", tmp_path)
        mine, told = handle(store), []
        stopped(mine, number, lambda store=store, told=told: told.append(meddle(store)))
        artifact = made.artifact(RECIPE, store, ())
        try:
            made.run(RECIPE, Settings(), (), made.artifact(RECIPE, mine, ()))
        except DamagedArtifact as error:
            errors.append(str(error))
        if not told:
            break
        if artifact.check().state == "done":
            whole(artifact)
        made.run(RECIPE, Settings(), (), artifact)
        whole(artifact)
    assert {"removed or refreshed" in error for error in errors} == {True}
