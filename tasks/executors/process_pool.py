"""Shards made by several processes of this machine: `python -m tasks.executors.process_pool FD` is one of them."""

import contextlib
import os
import pickle
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, closing
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from tasks.config.settings import Settings
from tasks.context.context import Job
from tasks.context.shards import Shard
from tasks.executors.worker import EngineError, Failure, HandOn, Maker, Said, Work, Worker, repeat

ROOT = Path(__file__).parents[2]


def make_in_pool(
    job: Job, shards: Sequence[Shard], maker: Callable[..., Maker], inputs: tuple[Any, ...]
) -> Generator[Shard, None, None]:
    """Make shards in `settings.workers` processes, each on a GPU of its own where there are as many.

    The processes end with this one, however it ends. None is replaced: one that dies has most often run out of
    memory, and would again.

    Raises:
        EngineError: a process died. An error of a maker is raised as it is.
    """
    settings = job.settings
    own = settings.share(settings.workers, (os.cpu_count() or 1) // settings.workers)
    work = Work.packed(job.for_worker(own), maker, inputs)
    gpus = _gpus(settings) if job.on_device else []
    waiting = deque(shards)
    with ExitStack() as until_end:
        idle = [
            until_end.enter_context(closing(_Process(gpus[number % len(gpus)] if gpus else None)))
            for number in range(min(settings.workers, len(shards)))
        ]
        for process in idle:
            process.give(work)
        working: dict[Any, tuple[_Process, Shard]] = {}
        while True:
            while idle and waiting:
                process, shard = idle.pop(), waiting.popleft()
                process.give(pickle.dumps(shard))
                working[process.connection] = process, shard
            if not working:
                return
            # An error that another thread raises in this one, as Prefect does, comes only between two waits.
            for connection in wait(list(working), timeout=1):
                process, shard = working[connection]
                message = _received(process, shard)
                if isinstance(message, tuple):
                    repeat(message)
                elif message is not None:
                    raise message.error()
                else:
                    yield shard
                    idle.append(process)
                    del working[connection]


def _received(process: "_Process", shard: Shard) -> Said | Failure | None:
    try:
        return process.connection.recv()
    except (EOFError, ConnectionError):
        status = process.close()
        how = f"was killed (signal {-status})" if status < 0 else f"ended (exit status {status})"
        raise EngineError(
            f"the process that made {shard.name} {how}; one that is killed has most often run out of memory. Finished "
            "shards are kept, and the same command goes on with the rest: with fewer of LIGHTGEN_WORKERS, or smaller "
            "batches or shards in the recipe."
        ) from None


class _Process:
    """One process of the pool."""

    def __init__(self, gpu: str | None) -> None:
        self.connection, theirs = Pipe()
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        with theirs:
            self._process = subprocess.Popen(
                # -P: no folder that this runs in is taken for a part of the program
                [sys.executable, "-P", "-m", "tasks.executors.process_pool", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=2,  # standard output is the result's alone
                env=os.environ | {"PYTHONPATH": path} | ({} if gpu is None else {"CUDA_VISIBLE_DEVICES": gpu}),
            )

    def give(self, message: bytes) -> None:
        """Send something; that there is nobody to read it shows where an answer is waited for."""
        with contextlib.suppress(ConnectionError):
            self.connection.send_bytes(message)

    def close(self) -> int:
        """End the process, whatever it does. Return its exit status, which is its own where it had ended."""
        if self._process.poll() is None:
            self._process.kill()
        self.connection.close()
        return self._process.wait()


def _gpus(settings: Settings) -> list[str]:
    if settings.device not in ("auto", "cuda"):  # one was named, and all work there
        return []
    from lightgen_core.device import visible_gpus

    return visible_gpus()


def main() -> None:
    """Make the shards that the other end of a pipe sends, one after the other. The end of the pipe is the end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes of a terminal; the first ends the rest
    connection, given = Connection(int(sys.argv[1])), SimpleQueue[bytes]()
    threading.Thread(target=_listen, args=(connection, given), daemon=True).start()
    sending = threading.Lock()

    def send(message: Said | Failure | None) -> None:
        with sending:
            connection.send(message)

    HandOn(send)
    worker = Worker(given.get())
    while True:
        send(worker.make(pickle.loads(given.get())))


def _listen(connection: Connection, given: SimpleQueue[bytes]) -> None:
    while True:
        try:
            given.put(connection.recv_bytes())
        except (EOFError, OSError):  # who started this process has ended, however; nothing is left to do
            os._exit(1)


if __name__ == "__main__":
    main()
