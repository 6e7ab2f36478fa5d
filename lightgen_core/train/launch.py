"""Does a training job: in this process, or in several on this machine that torchrun starts and watches."""

import logging
import os
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path

from lightgen_core.pretrained import StudentError
from lightgen_core.train.checkpoint import CheckpointError
from lightgen_core.train.data import DataError
from lightgen_core.train.job import OUTCOME, Outcome, TrainingJob
from lightgen_core.train.messages import read
from lightgen_core.train.parallel import check_layout
from lightgen_core.train.run import run
from lightgen_core.train.update import NonFiniteLossError

logger = logging.getLogger(__name__)

ROOT = Path(__file__).parents[2]
ERRORS = {error.__name__: error for error in (NonFiniteLossError, CheckpointError, DataError, StudentError, ValueError)}
LINES_KEPT = 40


class LaunchError(RuntimeError):
    """A training process ended without saying why, or with an error that this program does not expect."""


def execute(job: TrainingJob, on_log: Callable[[dict], None] | None = None) -> Outcome:
    """Trains in this process, or in the `layout.processes` that it starts; see `run` for what is done and raised.

    Started processes end with this one, however it ends, and a later call goes on from their last checkpoint.

    Raises:
        LaunchError: a process died; the message ends with what was printed last.
    """
    folder, processes = job.place.folder, job.place.layout.processes
    if processes == 1:
        return run(job, on_log)
    check_layout(job.config, job.place.layout, processes)
    folder.mkdir(parents=True, exist_ok=True)
    description, outcome = folder / "job.json", folder / OUTCOME
    description.write_text(job.model_dump_json(indent=1))
    outcome.unlink(missing_ok=True)
    with _torchrun(description, processes) as process:
        error, last = _follow(process.stdout or [], on_log)
    if error is None and process.returncode == 0:
        return Outcome.model_validate_json(outcome.read_bytes())
    if error is not None and error["kind"] in ERRORS:
        raise ERRORS[error["kind"]](error["text"])
    what = f"{error['kind']}: {error['text']}" if error else f"exit status {process.returncode}, no message"
    raise LaunchError(
        f"training in {processes} processes failed: {what}. A process that is killed without a message has "
        "often run out of memory; a rerun goes on from the last checkpoint. Printed last:\n" + "\n".join(last)
    )


def _torchrun(description: Path, processes: int) -> subprocess.Popen:
    """torchrun over the job's processes. They hold the other end of its standard input, and end when it closes."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    command += ["-m", "lightgen_core.train", str(description), "--launched"]
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env=os.environ | {"PYTHONPATH": path},
    )


def _follow(lines: Iterable[str], on_log: Callable[[dict], None] | None) -> tuple[dict | None, list[str]]:
    """Hands on what the processes say until they end. Returns the first error, and the last lines of other output."""
    error, last = None, deque[str](maxlen=LINES_KEPT)
    for line in lines:
        message = read(line)
        if message is None:
            last.append(line.rstrip())
        elif message.kind == "row" and on_log:
            on_log(message.content)
        elif message.kind == "log":
            logger.log(message.content["level"], "%s", message.content["text"])
        elif message.kind == "error" and error is None:
            error = message.content
    return error, [line for line in last if line]
