"""Train in several processes of this machine, which torchrun starts and connects."""

import os
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path

from lightgen_core.launch.job import OUTCOME, TrainingJob, TrainingSummary
from lightgen_core.launch.messages import LaunchError, MessageRelay, read
from lightgen_core.train.parallel import check_parallel

ROOT = Path(__file__).parents[2]
LINES_KEPT = 40


def train_with_torchrun(job: TrainingJob, on_log: Callable[[dict], None] | None = None) -> TrainingSummary:
    """Train in processes of this machine; see `launch` for arguments and errors."""
    folder, processes = job.location.workdir, job.location.parallel.processes
    check_parallel(job.config, processes)
    folder.mkdir(parents=True, exist_ok=True)
    description, outcome = folder / "job.json", folder / OUTCOME
    description.write_text(job.model_dump_json(indent=1))
    outcome.unlink(missing_ok=True)
    listener = MessageRelay(on_log)
    with _torchrun(description, processes) as process:
        last = _follow(process.stdout or [], listener)
    error = listener.error
    if error is None and process.returncode == 0:
        return TrainingSummary.model_validate_json(outcome.read_bytes())
    listener.raise_known()
    what = f"{error['kind']}: {error['text']}" if error else f"exit status {process.returncode}, no message"
    raise LaunchError(
        f"training in {processes} processes failed: {what}. A process that is killed without a message has "
        "often run out of memory; a rerun goes on from the last checkpoint. Printed last:\n" + "\n".join(last)
    )


def _torchrun(description: Path, processes: int) -> subprocess.Popen:
    """Start torchrun; its processes hold the other end of its standard input, and end when it closes."""
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


def _follow(lines: Iterable[str], listener: MessageRelay) -> list[str]:
    """Relay the processes' messages until they end. Return the last lines of other output."""
    last = deque[str](maxlen=LINES_KEPT)
    for line in lines:
        message = read(line)
        if message is None:
            last.append(line.rstrip())
        else:
            listener.handle(message)
    return [line for line in last if line]
