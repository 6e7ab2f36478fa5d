"""Shards run by several processes of this machine; `python -m tasks.executors.process_pool FD` is one of them.

Not a `ProcessPoolExecutor`: its workers import `__main__` again (a script's without a guard, Prefect in a flow run),
share one log pipe, which a killed worker can corrupt, and it does not say whose shard a killed worker held.
"""

import contextlib
import logging
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

from tasks.config.settings import ANY_GPU
from tasks.context.context import StageContext
from tasks.context.shards import Shard, ShardWorker
from tasks.executors.worker import EngineError, RemoteError, Worker, dump_spec, forward_logs, log_record

ROOT = Path(__file__).parents[2]

Message = logging.LogRecord | RemoteError | None
"""From a worker: a log record, the error of its shard, or None for a finished shard."""


def run_in_pool(
    ctx: StageContext, shards: Sequence[Shard], worker: Callable[..., ShardWorker], inputs: tuple[Any, ...]
) -> Generator[Shard, None, None]:
    """Run shards in `ctx.workers` processes, each on a GPU of its own if there are as many.

    The processes end with this one, however it ends. None is replaced: one that dies has most often run out of
    memory, and would again.

    Raises:
        EngineError: a process died. An error of a worker is raised as it is.
    """
    settings = ctx.settings
    per_worker = settings.for_worker(ctx.workers, (os.cpu_count() or 1) // ctx.workers)
    spec = dump_spec(ctx.for_worker(per_worker), worker, inputs)
    gpus: list[str] = []
    if ctx.on_device and settings.device in ANY_GPU:  # another device was named, and all work there
        from lightgen_core.device import visible_gpus

        gpus = visible_gpus()
    waiting = deque(shards)
    with ExitStack() as stack:
        idle = [
            stack.enter_context(closing(_Process(gpus[number % len(gpus)] if gpus else None)))
            for number in range(min(ctx.workers, len(shards)))
        ]
        for process in idle:
            process.send(spec)
        busy: dict[Any, tuple[_Process, Shard]] = {}
        while True:
            while idle and waiting:
                process, shard = idle.pop(), waiting.popleft()
                process.send(pickle.dumps(shard))
                busy[process.connection] = process, shard
            if not busy:
                return
            # An error that another thread raises in this one, as Prefect does, comes only between two waits.
            with ctx.meter.idle():
                answered = wait(list(busy), timeout=1)
            for connection in answered:
                process, shard = busy[connection]
                message = _receive(process, shard)
                if isinstance(message, logging.LogRecord):
                    log_record(message)
                elif message is not None:
                    raise message.error()
                else:
                    yield shard
                    idle.append(process)
                    del busy[connection]


def _receive(process: "_Process", shard: Shard) -> Message:
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
        self.connection, remote = Pipe()
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        with remote:
            self._process = subprocess.Popen(
                # -P: keep the current folder out of sys.path, so that its files do not shadow the program's modules
                [sys.executable, "-P", "-m", "tasks.executors.process_pool", str(remote.fileno())],
                pass_fds=[remote.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=2,  # standard output is reserved for the result
                env=os.environ | {"PYTHONPATH": path} | ({} if gpu is None else {"CUDA_VISIBLE_DEVICES": gpu}),
            )

    def send(self, message: bytes) -> None:
        """Send a message; a dead receiver shows when its answer is read."""
        with contextlib.suppress(ConnectionError):
            self.connection.send_bytes(message)

    def close(self) -> int:
        """End the process, if it still runs. Return its exit status."""
        if self._process.poll() is None:
            self._process.kill()
        self.connection.close()
        return self._process.wait()


def main() -> None:
    """Run the shards that arrive on a pipe, one after the other; exit when it closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes of a terminal; the first ends the rest
    connection, received, lock = Connection(int(sys.argv[1])), SimpleQueue[bytes](), threading.Lock()

    def listen() -> None:
        while True:
            try:
                received.put(connection.recv_bytes())
            except (EOFError, OSError):  # the driver has ended, in whatever way; nothing is left to do
                os._exit(1)

    def send(message: Message) -> None:
        with lock:  # any thread may log
            connection.send(message)

    threading.Thread(target=listen, daemon=True).start()
    forward_logs(send)
    worker = Worker(received.get(), is_child=True)
    while True:
        send(worker.run(pickle.loads(received.get())))


if __name__ == "__main__":
    main()
