"""A worker process that loads its models once and then runs shard after shard."""

import logging
import pickle
import platform
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from logging.handlers import QueueHandler
from types import SimpleNamespace
from typing import Any

from lightgen_core.metering.meter import Meter
from tasks.context.context import StageContext
from tasks.context.shards import Shard, ShardWorker
from tasks.context.software import LOGGERS, software
from tasks.context.spent import record_path, worker_meter


class EngineError(Exception):
    """Shards cannot run where they should: no room, other software, a worker that died."""


def dump_spec(ctx: StageContext, worker: Callable[..., ShardWorker], inputs: tuple[Any, ...]) -> bytes:
    """Return all that a process needs to build its worker, secrets of the settings included."""
    return pickle.dumps((ctx, worker, inputs, software()))


def _check_node(ctx: StageContext, expected: dict[str, str]) -> None:
    """Raise EngineError unless this process has the driver's software and sees its store."""
    versions = [(name, here, expected[name]) for name, here in software().items()]
    if different := [f"{name} {here}, not {there}" for name, here, there in versions if here != there]:
        raise EngineError(
            f"{platform.node()} has {', '.join(different)}: its shards could differ from those of the others. "
            "Install the same versions on every node."
        )
    store = ctx.artifact.store
    if not store.exists(record_path(ctx.artifact, ctx.attempt)):
        raise EngineError(
            f"{platform.node()} does not see what this run has written to the store {store.uri}. LIGHTGEN_STORE "
            "must be a folder that all nodes share under one path, or an address such as s3://bucket/prefix."
        )


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error, its cause, the cause of that, and so on."""
    while error is not None:
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


@dataclass(frozen=True)
class RemoteError:
    """An error sent to another process together with its causes, which pickle drops."""

    chain: tuple[BaseException, ...]

    @classmethod
    def of(cls, error: Exception) -> "RemoteError":
        """Wrap an error with its causes."""
        return cls(tuple(map(_picklable, causes(error))))

    def error(self) -> BaseException:
        """Return the error, to be raised."""
        for error, cause in pairwise(self.chain):
            error.__cause__ = cause
        return self.chain[0]


class Worker:
    """Runs shards of a pickled spec; models load with the first shard.

    is_child: the driver started this process for it, so that all that the process spends is spent on the stage.
    """

    def __init__(self, spec: bytes, *, is_child: bool) -> None:
        self._spec, self._is_child = spec, is_child
        self._built: tuple[Meter, ShardWorker] | None = None

    def run(self, shard: Shard) -> RemoteError | None:
        """Run one shard. Return its error, if any, for the driver to raise."""
        try:
            meter, run_shard = self._built = self._built or self._build()
            with meter.working():
                run_shard(shard)
            meter.save()  # before the answer: the driver ends a process that has nothing left to do
        except Exception as error:  # any error is the driver's to handle
            error.add_note(f"in a worker on {platform.node()}:\n{traceback.format_exc()}")
            return RemoteError.of(error)
        return None

    def _build(self) -> tuple[Meter, ShardWorker]:
        ctx, worker, inputs, expected = pickle.loads(self._spec)
        _check_node(ctx, expected)
        ctx.meter = worker_meter(ctx.artifact, ctx.attempt, is_child=self._is_child)
        ctx.meter.start()
        with ctx.meter.working():
            return ctx.meter, worker(ctx, *inputs)


def forward_logs(send: Callable[[logging.LogRecord], object]) -> None:
    """Send this process's log records to the driver, to log them."""
    logging.getLogger().addHandler(QueueHandler(SimpleNamespace(put_nowait=send)))
    for name in LOGGERS:
        logging.getLogger(name).setLevel(logging.INFO)


def log_record(record: logging.LogRecord) -> None:
    """Log a worker's record in this process, under the same logger."""
    logger = logging.getLogger(record.name)
    if logger.isEnabledFor(record.levelno):
        logger.handle(record)


def _picklable(error: BaseException) -> BaseException:
    """Return an error that survives pickling; those of some libraries do not."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # their __init__ or their attributes may raise anything
        substitute = RuntimeError(f"{type(error).__name__}: {error}")
        substitute.__notes__ = getattr(error, "__notes__", [])
        return substitute
    return error
