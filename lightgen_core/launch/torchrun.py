"""Does a training job: in this process, in several on this machine that torchrun starts, or on a Ray cluster."""

import os
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path

from lightgen_core.launch.job import OUTCOME, Outcome, TrainingJob
from lightgen_core.launch.messages import LaunchError, Listener, read
from lightgen_core.launch.ray_train import train_on_ray
from lightgen_core.launch.run import run
from lightgen_core.train.parallel import check_layout

ROOT = Path(__file__).parents[2]
LINES_KEPT = 40


def execute(job: TrainingJob, on_log: Callable[[dict], None] | None = None) -> Outcome:
    """Trains in this process, or in the `layout.processes` that `place.launcher` starts; see `run` for what is done.

    Started processes end with this one, however it ends, and a later call goes on from their last checkpoint.

    Args:
        on_log: called with each new row of the log and its timing, once for a row.

    Raises:
        NonFiniteLossError, CheckpointError, DataError, StudentError, ValueError: as `run` does.
        LaunchError: a process died; the message ends with what was printed last.
        ClusterError: `ray` is to start them, and there is no Ray or no cluster.
    """
    if job.place.launcher == "ray":
        return train_on_ray(job, on_log)
    folder, processes = job.place.folder, job.place.layout.processes
    if processes == 1:
        return run(job, on_log)
    check_layout(job.config, job.place.layout, processes)
    folder.mkdir(parents=True, exist_ok=True)
    description, outcome = folder / "job.json", folder / OUTCOME
    description.write_text(job.model_dump_json(indent=1))
    outcome.unlink(missing_ok=True)
    listener = Listener(on_log)
    with _torchrun(description, processes) as process:
        last = _follow(process.stdout or [], listener)
    error = listener.error
    if error is None and process.returncode == 0:
        return Outcome.model_validate_json(outcome.read_bytes())
    listener.raise_known()
    what = f"{error['kind']}: {error['text']}" if error else f"exit status {process.returncode}, no message"
    raise LaunchError(
        f"training in {processes} processes failed: {what}. A process that is killed without a message has "
        "often run out of memory; a rerun goes on from the last checkpoint. Printed last:\n" + "\n".join(last)
    )


def _torchrun(description: Path, processes: int) -> subprocess.Popen:
    """torchrun over the job's processes. They hold the other end of its standard input, and end when it closes."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    command += ["-m", "lightgen_core.launch", str(description), "--launched"]
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


def _follow(lines: Iterable[str], listener: Listener) -> list[str]:
    """Lets a listener hear what the processes say until they end. Returns the last lines of other output."""
    last = deque[str](maxlen=LINES_KEPT)
    for line in lines:
        message = read(line)
        if message is None:
            last.append(line.rstrip())
        else:
            listener.hear(message)
    return [line for line in last if line]
