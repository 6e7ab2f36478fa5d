"""A worker: one process that makes shards, one after the other, with models that it loads once."""

import logging
import pickle
import platform
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from itertools import pairwise
from typing import Any, Protocol

from tasks.context.context import Job
from tasks.context.shards import Shard

SOFTWARE = (
    "lightgen",
    "torch",
    "numpy",
    "pyarrow",
    "diffusers",
    "transformers",
    "open_clip_torch",
    "faiss-cpu",
    "prefect",
)
"""What decides the bytes of an artifact beside the recipe, and what ran it."""


LOGGERS = ("lightgen", "lightgen_core", "storage")
"""What of the program speaks to the person who runs it."""

Said = tuple[str, int, str]
"""Something logged: by which logger, at which level, the text."""


class EngineError(Exception):
    """The shards of a stage cannot be made where they were to be: no room, other software, a worker that died."""


class Maker(Protocol):
    """Writes the files of a shard, each with its record."""

    def __call__(self, shard: Any) -> None: ...


@dataclass(frozen=True)
class Work:
    """What a worker is told once: the job, and how its maker is built."""

    job: Job
    maker: Callable[..., Maker]
    inputs: tuple[Any, ...]
    software: dict[str, str]

    @classmethod
    def packed(cls, job: Job, maker: Callable[..., Maker], inputs: tuple[Any, ...]) -> bytes:
        """Return it as bytes, secrets of the settings included."""
        return pickle.dumps(cls(job, maker, inputs, software()))


@dataclass(frozen=True)
class Failure:
    """An error on its way to another process, with its causes, which pickle by itself leaves behind."""

    chain: tuple[BaseException, ...]

    @classmethod
    def of(cls, error: Exception) -> "Failure":
        """Return an error, then what caused it, and so on."""
        chain: list[BaseException] = []
        cause: BaseException | None = error
        while cause is not None:
            chain.append(_portable(cause))
            cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)
        return cls(tuple(chain))

    def error(self) -> BaseException:
        """Return the error, to be raised."""
        for error, cause in pairwise(self.chain):
            error.__cause__ = cause
        return self.chain[0]


class Worker:
    """Makes shards of packed work. Models are loaded with the first."""

    def __init__(self, work: bytes) -> None:
        self._work = work
        self._maker: Maker | None = None

    def make(self, shard: Shard) -> Failure | None:
        """Make one shard. Return how that failed, if it did, for the process that waits for it."""
        try:
            self._maker = self._maker or _maker(pickle.loads(self._work))
            self._maker(shard)
        except Exception as error:  # whatever it is, it is for the driver to handle
            error.add_note(f"in a worker on {platform.node()}:\n{traceback.format_exc()}")
            return Failure.of(error)
        return None


class HandOn(logging.Handler):
    """Hands on what this process logs, for the driver to repeat."""

    def __init__(self, to: Callable[[Said], None]) -> None:
        super().__init__()
        self._to = to
        logging.getLogger().addHandler(self)
        for name in LOGGERS:
            logging.getLogger(name).setLevel(logging.INFO)

    def emit(self, record: logging.LogRecord) -> None:
        """Hand on one record."""
        self._to((record.name, record.levelno, record.getMessage()))


def repeat(said: Said) -> None:
    """Log in this process what a worker has logged."""
    name, level, text = said
    logging.getLogger(name).log(level, "%s", text)


def _maker(work: Work) -> Maker:
    store, here = work.job.artifact.store, software()
    if other := [
        f"{name} {here[name]}, not {work.software[name]}" for name in here if here[name] != work.software[name]
    ]:
        raise EngineError(
            f"{platform.node()} has {', '.join(other)}: its shards could differ from those of the others. Install the "
            "same versions on every node."
        )
    if not store.exists(work.job.clock.path):
        raise EngineError(
            f"{platform.node()} does not see what this run has written to the store {store.uri}. LIGHTGEN_STORE must "
            "be a folder that all nodes share under one path, or an address such as s3://bucket/prefix."
        )
    return work.maker(work.job, *work.inputs)


def software() -> dict[str, str]:
    """Return the versions of what makes the bytes."""
    return {name: version(name) for name in SOFTWARE}


def _portable(error: BaseException) -> BaseException:
    """Return an error that survives the way to another process; those of some libraries do not."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # their __init__ or what they hold may raise anything
        told = RuntimeError(f"{type(error).__name__}: {error}")
        told.__notes__ = getattr(error, "__notes__", [])
        return told
    return error
