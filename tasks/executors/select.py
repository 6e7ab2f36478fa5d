"""The choice of executor: this process, a pool of local processes or a Ray cluster, always with the same bytes."""

import importlib.util
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from typing import Any

from storage.store import Store
from tasks.config.settings import InvalidSettings, Settings
from tasks.context.context import ShardExecutor, StageContext
from tasks.context.shards import Shard, ShardWorker


def run_shards(
    ctx: StageContext, shards: Sequence[Shard], worker: Callable[..., ShardWorker], inputs: tuple[Any, ...]
) -> Generator[Shard, None, None]:
    """Run shards where the settings say. Yield each when it is finished; closing the generator ends the workers.

    Raises:
        InvalidSettings: the engine cannot work here.
        EngineError: a worker died, or there is no room for one.
        ClusterError: there is no Ray cluster.
    """
    settings = ctx.settings
    require_engine(settings, ctx.artifact.store)
    if not shards:
        return
    if settings.engine == "local" and ctx.workers == 1:
        run_shard = worker(ctx, *inputs)
        for shard in shards:
            run_shard(shard)
            yield shard
        return
    executor: ShardExecutor
    if settings.engine == "ray":
        from tasks.executors.ray_actors import run_on_ray as executor
    else:
        from tasks.executors.process_pool import run_in_pool as executor
    with closing(executor(ctx, shards, worker, inputs)) as finished:
        yield from finished


def require_engine(settings: Settings, store: Store) -> None:
    """Raise InvalidSettings, before anything runs, if the engine cannot work with this store."""
    if settings.engine == "local" and settings.workers in (
        None,
        1,
    ):  # none: one process, where others cannot work on it
        return
    if settings.engine == "ray" and importlib.util.find_spec("ray") is None:
        raise InvalidSettings("engine ray needs Ray, which is not installed here: pip install 'lightgen[ray]'")
    if store.uri.startswith("memory:"):
        setting = "LIGHTGEN_ENGINE=ray" if settings.engine == "ray" else f"LIGHTGEN_WORKERS={settings.workers}"
        raise InvalidSettings(
            f"the store {store.uri} is in the memory of this process, and with {setting} others work on it too; set "
            "LIGHTGEN_STORE to a folder or to an address such as s3://bucket/prefix"
        )
