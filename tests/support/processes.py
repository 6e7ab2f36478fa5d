"""Processes that a test or a script starts, waits for and ends; none of them outlives it."""

import os
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.waiting import PATIENCE, wait_until

_LINES_OF_A_LOG = 40
_END_OF_ORPHANS = """
while read -r group; do groups="$groups -$group"; done
exec 2> /dev/null
kill -s INT -- $groups; sleep 5; kill -s KILL -- $groups; rm -rf -- "$0"
"""
"""Reads process groups until its input ends, which it does when the process that wrote them is gone."""


class ProcessFailed(Exception):
    """A process ended, failed or did not answer in time; the message ends with the last lines of its log."""


def stop(process: subprocess.Popen[bytes], seconds: float = 20) -> int:
    """Interrupt a process with a group of its own, as Ctrl-C does, and kill what of the group still runs then.

    Returns:
        Its exit status.
    """
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            process.wait(seconds)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    return process.wait()


def kill(process: subprocess.Popen) -> None:
    """End a process, and it alone, without a word."""
    process.send_signal(signal.SIGKILL)
    process.wait()


def is_running(pid: int) -> bool:
    """Return whether there is such a process, and not only its exit status that nobody has asked for."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def children(pid: int) -> list[int]:
    """Return what the first thread of a process has started."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


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

    def wait_until(self, ready: Callable[[], bool], seconds: float = PATIENCE) -> None:
        """Wait until `ready` says so. Raises ProcessFailed where the process ends, or the time."""

        def ready_or_gone() -> bool:
            if not (now := ready()) and self.popen.poll() is not None:
                raise self.failed(f"ended with status {self.popen.returncode}")
            return now

        try:
            wait_until(ready_or_gone, seconds)
        except AssertionError:
            raise self.failed(f"did not get ready within {seconds:g} s") from None

    def end(self) -> None:
        """Interrupt it as Ctrl-C does, and kill what still runs of it and its children after a while."""
        stop(self.popen)


@dataclass
class Processes:
    """Those of one script; as a context manager it ends them, the latest first, whatever happens.

    Where the script is killed, they are ended all the same, and the folder is removed.
    """

    folder: Path
    """The folder of the logs."""
    _ends: ExitStack = field(default_factory=ExitStack)

    def __enter__(self) -> "Processes":
        command = ["sh", "-c", _END_OF_ORPHANS, str(self.folder)]
        self._orphans = subprocess.Popen(command, stdin=subprocess.PIPE, bufsize=0, start_new_session=True)
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.close()
        kill(self._orphans)

    def start(
        self,
        name: str,
        command: Sequence[str],
        *,
        environment: Mapping[str, str] | None = None,
        user: str | None = None,
    ) -> Process:
        """Start a command in a process group of its own, so that Ctrl-C reaches it by `end` only."""
        log = self.folder / f"{name}.log"
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
        assert self._orphans.stdin is not None
        self._orphans.stdin.write(f"{popen.pid}\n".encode())
        return process

    def run(self, name: str, command: Sequence[str], *, seconds: float = PATIENCE, **options: object) -> None:
        """Run a command to its end. Raises ProcessFailed where that is not well, or takes too long."""
        process = self.start(name, command, **options)  # type: ignore[arg-type]
        with suppress(subprocess.TimeoutExpired):
            process.popen.wait(seconds)
        if process.popen.poll() != 0:
            raise process.failed(f"ended with status {process.popen.poll()}")
