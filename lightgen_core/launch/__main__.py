"""One process of a training job: `torchrun --standalone --nproc-per-node=2 -m lightgen_core.launch JOB.json`.

JOB.json is a `TrainingJob`. The first process writes the student to the job's `output`, and `outcome.json` to its
`folder`. With `--launched` standard input is held open by the launcher, and its end is the end of this process.
"""

import argparse
import logging
import os
import signal
import sys
import threading
from pathlib import Path

import torch
import torch.distributed as dist

from lightgen_core.launch.job import COST, OUTCOME, TrainingJob
from lightgen_core.launch.messages import LauncherLogHandler, error_message, send
from lightgen_core.launch.run import train
from lightgen_core.metering.meter import Meter, save_to


def main() -> int:
    """Run a process of a job; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m lightgen_core.launch", description=__doc__)
    parser.add_argument("job", type=Path, help="file that holds a TrainingJob as JSON")
    parser.add_argument("--launched", action="store_true", help="end when standard input does")
    arguments = parser.parse_args()
    if arguments.launched:
        threading.Thread(target=_end_with_launcher, daemon=True).start()
    job = TrainingJob.model_validate_json(arguments.job.read_bytes())
    meter = Meter(save_to(job.location.workdir / COST), attempt=job.location.attempt, is_child=True)
    if dist.is_torchelastic_launched():
        _connect(job.location.device)
    first = int(os.environ.get("RANK", 0)) == 0
    if first:
        logging.basicConfig(handlers=[LauncherLogHandler()])
        logging.getLogger("lightgen_core").setLevel(logging.INFO)
    try:
        with meter.running():
            outcome = train(job, lambda row: send("row", row), meter)
    except (RuntimeError, ValueError, OSError) as error:
        send("error", error_message(error))
        return 1  # and nothing that waits for the other processes: torchrun ends them
    if first:
        (job.location.workdir / OUTCOME).write_text(outcome.model_dump_json())
    if dist.is_initialized():
        dist.destroy_process_group()
    return 0


def _connect(device: str) -> None:
    """Join the other processes, on a machine with GPUs bound to this one's own before any tensor is made.

    NCCL otherwise guesses the device at the first message, and by then a context on the first GPU may exist. A process
    without a GPU of its own is left to `train`, whose error says so.
    """
    if device == "cpu" or not torch.cuda.is_available():
        dist.init_process_group("gloo")
        return
    local_rank = int(os.environ.get("LOCAL_RANK", 0))
    own = torch.device("cuda", local_rank) if local_rank < torch.cuda.device_count() else None
    if own is not None:
        torch.cuda.set_device(own)
    dist.init_process_group("cpu:gloo,cuda:nccl", device_id=own)


def _end_with_launcher() -> None:
    """Kill this process when the launcher's end of the pipe closes."""
    while os.read(0, 1):
        pass
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main())
