"""Processes that a script starts, waits for and ends in reverse order, each with a log of its own."""

import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

from prefect_server import stop

_LINES_OF_A_LOG = 40


class ProcessFailed(Exception):
    """A process ended, failed or did not answer in time; the message ends with the last lines of its log."""


@dataclass(frozen=True)
class Process:
    """One that runs, and where it writes."""

    name: str
    log: Path
    popen: subprocess.Popen[bytes]

    def failed(self, what: str) -> ProcessFailed:
        """Return the error to raise: what happened, and the end of the log."""
        lines = self.log.read_text(errors="replace").splitlines()[-_LINES_OF_A_LOG:]
        return ProcessFailed("\n".join([f"{self.name} {what}; the end of {self.log}:", *lines]))

    def wait_until(self, ready: Callable[[], bool], seconds: float) -> None:
        """Wait until `ready` says so. Raises ProcessFailed where the process ends, or the time."""
        until = time.monotonic() + seconds
        while not ready():
            if self.popen.poll() is not None:
                raise self.failed(f"ended with status {self.popen.returncode}")
            if time.monotonic() > until:
                raise self.failed(f"did not get ready within {seconds:g} s")
            time.sleep(0.1)

    def end(self) -> None:
        """Interrupt it as Ctrl-C does, and kill what still runs of it and its children after a while."""
        stop(self.popen)


@dataclass
class Processes:
    """Those of one script; as a context manager it ends them, the latest first, whatever happens."""

    logs: Path
    _ends: ExitStack = field(default_factory=ExitStack)

    def __enter__(self) -> "Processes":
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.close()

    def start(
        self,
        name: str,
        command: Sequence[str],
        *,
        environment: Mapping[str, str] | None = None,
        user: str | None = None,
    ) -> Process:
        """Start a command in a process group of its own, so that Ctrl-C reaches it by `end` only."""
        log = self.logs / f"{name}.log"
        with log.open("ab") as file:
            popen = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                env=environment,
                user=user,
                group=user,
                extra_groups=None if user is None else [],
                start_new_session=True,
            )
        process = Process(name, log, popen)
        self._ends.callback(process.end)
        return process

    def run(self, name: str, command: Sequence[str], *, seconds: float = 300, **options: object) -> None:
        """Run a command to its end. Raises ProcessFailed where that is not well, or takes too long."""
        process = self.start(name, command, **options)  # type: ignore[arg-type]
        with suppress(subprocess.TimeoutExpired):
            process.popen.wait(seconds)
        if process.popen.poll() != 0:
            raise process.failed(f"ended with status {process.popen.poll()}")
