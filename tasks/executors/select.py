"""Who makes the shards of a stage, always to the same bytes: this process, a pool of local ones, or a Ray cluster."""

import importlib.util
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any

from storage.store import Store
from tasks.config.settings import Settings, SettingsMistake
from tasks.context.shards import Shard
from tasks.executors.worker import Maker

if TYPE_CHECKING:
    from tasks.context.context import Job


def make(
    job: "Job", shards: Sequence[Shard], maker: Callable[..., Maker], inputs: tuple[Any, ...]
) -> Generator[Shard, None, None]:
    """Make shards. Yield each as soon as it is there; closing the generator ends the workers.

    Raises:
        SettingsMistake: the engine cannot work here.
        EngineError: a worker died, or there is no room for one.
        ClusterError: there is no Ray cluster.
    """
    check(job.settings, job.artifact.store)
    if not shards:
        return
    if job.settings.engine == "ray":
        from tasks.executors.ray_actors import make_on_ray as make_elsewhere
    elif job.settings.workers > 1:
        from tasks.executors.process_pool import make_in_pool as make_elsewhere
    else:
        make_one = maker(job, *inputs)
        for shard in shards:
            make_one(shard)
            yield shard
        return
    job.keep_clock()  # a worker that does not find this file does not see our store
    with closing(make_elsewhere(job, shards, maker, inputs)) as made:
        for shard in made:
            job.keep_clock()
            yield shard


def check(settings: Settings, store: Store) -> None:
    """Raise SettingsMistake where the settings ask for an engine that cannot work: better said before anything runs."""
    if settings.engine == "local" and settings.workers == 1:
        return
    if settings.engine == "ray" and importlib.util.find_spec("ray") is None:
        raise SettingsMistake("engine ray needs Ray, which is not installed here: pip install 'lightgen[ray]'")
    if store.uri.startswith("memory:"):
        many = "LIGHTGEN_ENGINE=ray" if settings.engine == "ray" else f"LIGHTGEN_WORKERS={settings.workers}"
        raise SettingsMistake(
            f"the store {store.uri} is in the memory of this process, and with {many} others work on it too; set "
            "LIGHTGEN_STORE to a folder or to an address such as s3://bucket/prefix"
        )
