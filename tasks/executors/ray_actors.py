"""Shards made by actors on a Ray cluster, each of which loads its models once."""

from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from typing import Any

from lightgen_core.launch.ray_cluster import connect
from tasks.config.settings import Settings
from tasks.context.context import Job
from tasks.context.shards import Shard
from tasks.executors.worker import EngineError, Failure, HandOn, Maker, Said, Work, Worker, repeat

ATTEMPTS = 3
"""So many workers may die while they make one shard; then it is taken for the cause."""
LOOK_AROUND = 10
"""Seconds after which the cluster is looked at again, where nothing else happens: lost workers need room elsewhere."""


class _Actor:
    """A worker on some node."""

    def __init__(self, work: bytes) -> None:
        self._said: deque[Said] = deque()
        HandOn(self._said.append)
        self._worker = Worker(work)

    def ready(self) -> tuple[list[Said], Failure | None]:
        """Answer as soon as the cluster has found room for this one."""
        return [], None

    def make(self, shard: Shard) -> tuple[list[Said], Failure | None]:
        """Make a shard. Return what was logged meanwhile, and how it failed, if it did."""
        failure = self._worker.make(shard)
        return [self._said.popleft() for _ in range(len(self._said))], failure


def make_on_ray(
    job: Job, shards: Sequence[Shard], maker: Callable[..., Maker], inputs: tuple[Any, ...]
) -> Generator[Shard, None, None]:
    """Make shards on the cluster, as many at once as it has room for when this begins.

    A shard whose worker is lost, alone or with its node, is given to another; what is finished is in the store.

    Raises:
        EngineError: no node has room for a worker, or a shard was the end of several. An error of a maker is raised
            as it is.
        ClusterError: there is no cluster.
    """
    connect()
    import ray

    settings = job.settings
    needs = needs_of(settings, job.on_device, ray.cluster_resources())
    most = min(len(shards), _room(needs))
    own = settings.share(most, int(settings.shard_cpus))
    if own.device.startswith("cuda"):  # Ray says which
        own = own.model_copy(update={"device": "cuda"})
    waiting, deaths = deque(shards), Counter[Shard]()
    with closing(_Crew(Work.packed(job.for_worker(own), maker, inputs), needs, most)) as crew:
        while waiting or crew.makes_any():
            crew.start(len(waiting))
            for worker, shard, answer in crew.answers():
                if isinstance(answer, Exception):
                    if shard is not None:
                        deaths[shard] += 1
                        _check_deaths(shard, deaths[shard], answer)
                        job.say("lost the worker of %s; another makes it: %s", shard.name, _first_line(answer))
                        waiting.appendleft(shard)
                    continue
                said, failure = answer
                for each in said:
                    repeat(each)
                if failure is not None:
                    crew.give(worker, None)
                    raise failure.error()
                crew.give(worker, waiting.popleft() if waiting else None)
                if shard is not None:
                    yield shard


class _Crew:
    """The workers on the cluster: those that make a shard, and those that it has yet to find room for."""

    def __init__(self, work: bytes, needs: dict[str, float], most: int) -> None:
        import ray

        self._work, self._needs, self._most = ray.put(work), needs, most
        self._actor: Any = ray.remote(_Actor).options(num_cpus=needs["CPU"], num_gpus=needs["GPU"])
        self._busy: dict[Any, tuple[Any, Shard | None]] = {}  # by what will hold the answer; no shard: one that starts
        self._stillborn = 0

    def makes_any(self) -> bool:
        """Tell whether a shard is being made."""
        return any(shard is not None for _, shard in self._busy.values())

    def start(self, waiting: int) -> None:
        """Start a worker for each shard that waits, where there is room: also in the place of those that were lost."""
        starting = sum(shard is None for _, shard in self._busy.values())
        for _ in range(min(waiting - starting, min(self._most, _room(self._needs)) - len(self._busy))):
            worker: Any = self._actor.remote(self._work)
            self._busy[worker.ready.remote()] = worker, None

    def give(self, worker: Any, shard: Shard | None) -> None:
        """Let a worker make a shard, or go home."""
        import ray

        if shard is None:
            ray.kill(worker)
        else:
            self._busy[worker.make.remote(shard)] = worker, shard

    def answers(self) -> Iterator[tuple[Any, Shard | None, tuple[list[Said], Failure | None] | Exception]]:
        """Wait, and yield workers with what they made and what they say of it, or how they were lost."""
        import ray

        for held in ray.wait(list(self._busy), timeout=LOOK_AROUND)[0]:
            worker, shard = self._busy.pop(held)
            try:
                answer = ray.get(held)
                self._stillborn = 0
            except (ray.exceptions.RayActorError, ray.exceptions.OutOfMemoryError) as lost:
                ray.kill(worker)
                answer = lost
                self._stillborn += shard is None
                if self._stillborn == ATTEMPTS * self._most:
                    raise EngineError(f"no worker starts on the Ray cluster: {lost}") from lost
            yield worker, shard, answer

    def close(self) -> None:
        """End all of them."""
        import ray

        for worker, _ in self._busy.values():
            ray.kill(worker)


def needs_of(settings: Settings, on_device: bool, cluster: dict[str, float]) -> dict[str, float]:
    """Return what a worker occupies of a node."""
    gpus = settings.shard_gpus
    if gpus is None:
        gpus = 1 if on_device and settings.device != "cpu" and cluster.get("GPU", 0) > 0 else 0
    return {"CPU": settings.shard_cpus, "GPU": gpus}


def _room(needs: dict[str, float]) -> int:
    """Return how many workers the living nodes have room for, if nothing else ran on them. Raise EngineError for 0."""
    import ray

    nodes = [{name: node["Resources"].get(name, 0) for name in needs} for node in ray.nodes() if node["Alive"]]
    room = sum(min(int(node[name] / need + 1e-6) for name, need in needs.items() if need) for node in nodes)
    if not room:
        raise EngineError(
            f"no node of the Ray cluster has room for a worker of {needs['CPU']:g} CPUs and {needs['GPU']:g} GPUs; "
            f"nodes: {nodes}. Set LIGHTGEN_SHARD_CPUS and LIGHTGEN_SHARD_GPUS, or add nodes. Finished shards are kept."
        )
    return room


def _check_deaths(shard: Shard, deaths: int, lost: Exception) -> None:
    if deaths == ATTEMPTS:
        raise EngineError(
            f"{deaths} workers died while they made {shard.name}; most often memory ran out. Finished shards are kept, "
            "and the same command goes on with the rest: with more of LIGHTGEN_SHARD_CPUS, so that fewer share a node, "
            f"or smaller batches or shards in the recipe. Ray says: {_first_line(lost)}"
        ) from lost


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
