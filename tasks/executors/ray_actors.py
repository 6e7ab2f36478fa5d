"""Shards run by actors on a Ray cluster, each of which loads its models once."""

import logging
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from queue import SimpleQueue
from typing import Any

from lightgen_core.launch.ray_cluster import connect
from lightgen_core.metering.meter import Meter
from tasks.config.settings import Settings
from tasks.context.context import StageContext
from tasks.context.shards import Shard, ShardWorker
from tasks.executors.worker import EngineError, RemoteError, Worker, dump_spec, forward_logs, log_record

MAX_DEATHS = 3
"""Workers that may die on one shard before it is taken for the cause."""
DEATHS_ERROR = (
    f"{MAX_DEATHS} workers died while they made {{shard}}; most often memory ran out. Finished shards are kept, and "
    "the same command goes on with the rest: with more of LIGHTGEN_SHARD_CPUS, so that fewer share a node, or smaller "
    "batches or shards in the recipe. Ray says: {reason}"
)
POLL_SECONDS = 10
"""Interval at which the cluster is checked while nothing else happens: lost workers need room elsewhere."""

Answer = tuple[list[logging.LogRecord], RemoteError | None]
"""Log records since the last answer, and the error of the shard, if any."""


class _Actor:
    """A worker on some node."""

    def __init__(self, spec: bytes) -> None:
        self._records = SimpleQueue[logging.LogRecord]()
        forward_logs(self._records.put)
        self._worker = Worker(spec, is_child=False)

    def ready(self) -> Answer:
        """Answer as soon as the cluster has found room for this actor."""
        return [], None

    def run(self, shard: Shard) -> Answer:
        """Run a shard. Return the log records of that time, and its error, if any."""
        error = self._worker.run(shard)
        return [self._records.get() for _ in range(self._records.qsize())], error


def run_on_ray(
    ctx: StageContext, shards: Sequence[Shard], worker: Callable[..., ShardWorker], inputs: tuple[Any, ...]
) -> Generator[Shard, None, None]:
    """Run shards on the cluster, as many at once as it has room for at the start.

    A shard whose actor is lost, alone or with its node, goes to another; finished ones are in the store.

    Raises:
        EngineError: no node has room for a worker, or several died on one shard. An error of a worker is raised as
            it is.
        ClusterError: there is no cluster.
    """
    connect()
    import ray

    settings = ctx.settings
    resources = resources_per_worker(settings, ctx.on_device, ray.cluster_resources())
    max_actors = min(len(shards), _capacity(resources))
    per_worker = settings.for_worker(max_actors, int(settings.shard_cpus))
    if per_worker.device.startswith("cuda"):  # Ray assigns its index
        per_worker = per_worker.model_copy(update={"device": "cuda"})
    waiting, deaths = deque(shards), Counter[Shard]()
    spec = dump_spec(ctx.for_worker(per_worker), worker, inputs)
    with closing(_ActorPool(spec, resources, max_actors)) as pool:
        while waiting or pool.busy():
            pool.start(len(waiting))
            for actor, shard, answer in pool.wait(ctx.meter):
                if isinstance(answer, Exception):
                    if shard is not None:
                        deaths[shard] += 1
                        reason = str(answer).strip().partition("\n")[0]
                        if deaths[shard] == MAX_DEATHS:
                            raise EngineError(DEATHS_ERROR.format(shard=shard.name, reason=reason)) from answer
                        ctx.log("lost the worker of %s; another makes it: %s", shard.name, reason)
                        waiting.appendleft(shard)
                    continue
                records, error = answer
                for record in records:
                    log_record(record)
                if error is None and waiting:
                    pool.submit(actor, waiting.popleft())
                else:
                    ray.kill(actor)
                if error is not None:
                    raise error.error()
                if shard is not None:
                    yield shard


class _ActorPool:
    """The actors on the cluster: those that run a shard, and those that wait for room."""

    def __init__(self, spec: bytes, resources: dict[str, float], max_actors: int) -> None:
        import ray

        self._spec, self._resources, self._max_actors = ray.put(spec), resources, max_actors
        self._actor: Any = ray.remote(_Actor).options(num_cpus=resources["CPU"], num_gpus=resources["GPU"])
        self._running: dict[Any, tuple[Any, Shard | None]] = {}  # by the answer's reference; no shard while it starts
        self._failed_starts = 0

    def busy(self) -> bool:
        """Return True while a shard is running."""
        return any(shard is not None for _, shard in self._running.values())

    def start(self, waiting: int) -> None:
        """Start an actor for each waiting shard, up to the cluster's room; also in place of lost ones."""
        starting = sum(shard is None for _, shard in self._running.values())
        room = min(self._max_actors, _capacity(self._resources)) - len(self._running)
        for _ in range(min(waiting - starting, room)):
            actor: Any = self._actor.remote(self._spec)
            self._running[actor.ready.remote()] = actor, None

    def submit(self, actor: Any, shard: Shard) -> None:
        """Let an actor run a shard."""
        self._running[actor.run.remote(shard)] = actor, shard

    def wait(self, meter: Meter) -> Iterator[tuple[Any, Shard | None, Answer | Exception]]:
        """Wait, and yield actors with their shard and its answer, or the error that ended the actor."""
        import ray

        with meter.idle():
            answered = ray.wait(list(self._running), timeout=POLL_SECONDS)[0]
        for reference in answered:
            actor, shard = self._running.pop(reference)
            try:
                answer = ray.get(reference)
                self._failed_starts = 0
            except (ray.exceptions.RayActorError, ray.exceptions.OutOfMemoryError) as lost:
                ray.kill(actor)
                answer = lost
                self._failed_starts += shard is None
                if self._failed_starts == MAX_DEATHS * self._max_actors:
                    raise EngineError(f"no worker starts on the Ray cluster: {lost}") from lost
            yield actor, shard, answer

    def close(self) -> None:
        """End all actors."""
        import ray

        for actor, _ in self._running.values():
            ray.kill(actor)


def resources_per_worker(settings: Settings, on_device: bool, cluster: dict[str, float]) -> dict[str, float]:
    """Return the CPUs and GPUs that a worker occupies of a node."""
    gpus = settings.shard_gpus
    if gpus is None:
        gpus = 1 if on_device and settings.device != "cpu" and cluster.get("GPU", 0) > 0 else 0
    return {"CPU": settings.shard_cpus, "GPU": gpus}


def _capacity(resources: dict[str, float]) -> int:
    """Return how many workers fit on the living nodes if nothing else ran there. Raise EngineError for 0."""
    import ray

    nodes = [{name: node["Resources"].get(name, 0) for name in resources} for node in ray.nodes() if node["Alive"]]
    capacity = sum(min(int(node[name] / need + 1e-6) for name, need in resources.items() if need) for node in nodes)
    if not capacity:
        raise EngineError(
            f"no node of the Ray cluster has room for a worker of {resources['CPU']:g} CPUs and {resources['GPU']:g} "
            f"GPUs; nodes: {nodes}. Set LIGHTGEN_SHARD_CPUS and LIGHTGEN_SHARD_GPUS, or add nodes. Finished shards are "
            "kept."
        )
    return capacity
