"""Training on a Ray cluster by Ray Train's TorchTrainer, continued after machines are lost.

Ray schedules and connects the processes; they call `launch.run.train`, as everywhere. Checkpoints are the run's own, on
a shared disk, so Ray keeps none. Nor does Ray retry: to it a loss that is not finite is a failure like a lost machine.
"""

import contextlib
import logging
import os
import queue
import secrets
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from lightgen_core.launch.job import COST, NewStudent, TrainingJob, TrainingSummary
from lightgen_core.launch.messages import LauncherLogHandler, LaunchError, Message, MessageRelay, error_message
from lightgen_core.launch.ray_cluster import connect
from lightgen_core.metering.meter import Meter, save_to
from lightgen_core.train.parallel import check_parallel

if TYPE_CHECKING:
    from ray.util.queue import Queue

logger = logging.getLogger(__name__)

RESTARTS = 3
"""Times in a row that lost processes are started again without a step gained."""
SCHEDULING_TIMEOUT = 600
"""Seconds that processes wait for CPUs and GPUs that others are using."""
SHUTDOWN_TIMEOUT = 60
"""Seconds for which an interrupted launcher waits until its processes have ended."""
VISIBILITY_TIMEOUT = 30
"""Seconds until another machine sees a new file on a network file system."""
TOKEN = "shared-by"


class Workers(NamedTuple):
    """A number of processes, and the resources of each."""

    processes: int
    resources: dict[str, float]


Train = Callable[[TrainingJob, Callable[[dict], None], Meter], TrainingSummary]
"""Training in one connected process: `launch.run.train`."""


def train_on_ray(job: TrainingJob, train: Train, on_log: Callable[[dict], None] | None = None) -> TrainingSummary:
    """Train in processes of the cluster that `connect` joins or starts; see `launch` for errors.

    Each calls `train` and takes `threads` CPUs and, unless the device is the CPU or the cluster has none, a GPU.
    """
    check_parallel(job.config, job.location.parallel.processes)
    job = _absolute_paths(job)
    connect()
    listener, restarts, reached = MessageRelay(on_log), 0, 0
    while True:
        workers, nodes = _workers(job), _nodes()
        _check_room(workers, nodes)
        outcome, failure = _attempt(job, train, workers, listener)
        if outcome is not None:
            return TrainingSummary.model_validate_json(outcome)
        listener.raise_known()
        restarts = restarts + 1 if listener.step <= reached else 1
        reached = max(reached, listener.step)
        lost = [address for node, address in nodes.items() if node not in _nodes()]
        what = failure if listener.error is None else "{kind}: {text}".format(**listener.error)
        if restarts > RESTARTS:
            raise LaunchError(
                f"training in {workers.processes} processes on Ray failed {restarts} times without coming further than "
                f"step {reached}: {what}\nA rerun goes on from the last checkpoint; what the processes printed is in "
                "session_latest/logs of Ray's folder on their machines, /tmp/ray unless told otherwise"
            )
        logger.warning(
            "training broke off after step %d: %s; its processes start again from the last checkpoint (%d of %d)",
            listener.step,
            f"machine {', '.join(lost)} is lost" if lost else what.strip().splitlines()[-1],
            *(restarts, RESTARTS),
        )
        listener.error = None


def _absolute_paths(job: TrainingJob) -> TrainingJob:
    """Return the job with absolute paths and without the index of a GPU."""
    student, location = job.student, job.location
    name = "init_from" if isinstance(student, NewStudent) else "folder"
    path: Path | None = getattr(student, name)
    student = student.model_copy(update={name: path and path.absolute()})
    changes: dict[str, Any] = {"workdir": location.workdir.absolute(), "output_dir": location.output_dir.absolute()}
    location = location.model_copy(update=changes | {"device": location.device.partition(":")[0]})
    files = tuple(file.absolute() for file in job.files)
    projector = job.projector and job.projector.absolute()
    previews = job.previews and job.previews.model_copy(update={"folder": job.previews.folder.absolute()})
    update = {"student": student, "files": files, "location": location, "previews": previews, "projector": projector}
    return job.model_copy(update=update)


def _workers(job: TrainingJob) -> Workers:
    """Return the resources that the job needs."""
    import ray

    resources = {"CPU": float(job.location.threads)}
    if job.location.device != "cpu" and (job.location.device != "auto" or ray.cluster_resources().get("GPU")):
        resources["GPU"] = 1.0
    return Workers(job.location.parallel.processes, resources)


def _nodes() -> dict[str, str]:
    """Return the address of each machine that is alive, by its id in the cluster."""
    import ray

    return {node["NodeID"]: node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]}


def _check_room(workers: Workers, nodes: dict[str, str]) -> None:
    """Raise LaunchError if the machines could not hold the processes even if nobody else used them."""
    import ray

    machines = [node["Resources"] for node in ray.nodes() if node["NodeID"] in nodes]
    each = workers.resources.items()
    room = sum(min(int(machine.get(name, 0) // amount) for name, amount in each) for machine in machines)
    if room < workers.processes:
        needs = " and ".join(f"{amount:g} {name}" for name, amount in each)
        raise LaunchError(
            f"training wants {workers.processes} processes with {needs} each, and the {len(machines)} machines of the "
            f"Ray cluster have room for {room}. Start more machines, or change LIGHTGEN_TRAIN__PROCESSES (processes), "
            "LIGHTGEN_THREADS (CPUs of all of them) or LIGHTGEN_DEVICE; a rerun goes on from the last checkpoint"
        )


def _attempt(job: TrainingJob, train: Train, workers: Workers, listener: MessageRelay) -> tuple[str | None, str]:
    """Run the processes until they end. Return the outcome as JSON, or None and the failure."""
    import ray
    from ray.util.queue import Queue
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    # Messages are kept on this machine, whichever others are lost.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    messages = Queue(actor_options={"num_cpus": 0, "scheduling_strategy": here})
    token = secrets.token_hex(8)
    job.location.workdir.mkdir(parents=True, exist_ok=True)
    (job.location.workdir / TOKEN).write_text(token)
    config = {"job": job.model_dump_json(), "train": train, "messages": messages, "token": token}
    result: Future = Future()

    def fit() -> None:
        try:
            result.set_result(_fit(config, workers, job.location.workdir / "ray"))
        except BaseException as error:  # raised by result.result()
            result.set_exception(error)

    # In the main thread Ray would replace the handler of an interrupt; a pool's thread would be waited for at the end.
    threading.Thread(target=fit, daemon=True).start()
    try:
        done = False
        while not done:
            done = result.done()
            with contextlib.suppress(queue.Empty):
                while True:
                    listener.handle(messages.get(block=not done, timeout=1))
    finally:
        # After an interrupt the processes end when the queue is gone. Another attempt must not begin before on their
        # folder and their GPUs.
        messages.shutdown(force=True)
        wait([result], SHUTDOWN_TIMEOUT)
    return result.result()


def _fit(config: dict[str, Any], workers: Workers, folder: Path) -> tuple[str | None, str]:
    """Run the trainer, whose own files go to a folder. Return as `_attempt`."""
    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", str(SCHEDULING_TIMEOUT))
    os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")  # one process more, for Ray's checkpoints
    from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
    from ray.train.torch import TorchConfig, TorchTrainer

    gpu = "GPU" in workers.resources
    never = FailureConfig(max_failures=0, controller_failure_limit=0, max_preemption_failures=0)
    trainer = TorchTrainer(
        _work,
        train_loop_config=config,
        torch_config=TorchConfig(backend="cpu:gloo,cuda:nccl" if gpu else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=workers.processes, use_gpu=gpu, resources_per_worker=workers.resources
        ),
        run_config=RunConfig(name="train", storage_path=str(folder), failure_config=never),
    )
    try:
        return trainer.fit().return_value, ""
    except TrainingFailedError as error:
        return None, str(error)


def _work(config: dict[str, Any]) -> str:
    """Run one process of the job, connected by Ray with the others. Return the outcome as JSON."""
    messages, job = config["messages"], TrainingJob.model_validate_json(config["job"])

    def send(kind: str, content: dict[str, Any]) -> None:
        messages.put(Message(kind, content))

    threading.Thread(target=_end_with, args=(messages,), daemon=True).start()
    if os.environ["RANK"] == "0":
        program = logging.getLogger("lightgen_core")
        program.addHandler(LauncherLogHandler(send))
        program.setLevel(logging.INFO)
    try:
        _check_shared(job, config["token"])
        meter = Meter(save_to(job.location.workdir / COST), attempt=job.location.attempt)
        with meter.running():
            return config["train"](job, lambda row: send("row", row), meter).model_dump_json()
    except (RuntimeError, ValueError, OSError) as error:
        send("error", error_message(error))
        raise


def _end_with(messages: "Queue") -> None:
    """End this process when the launcher's queue is gone."""
    from ray.exceptions import RayError

    with contextlib.suppress(RayError):
        while True:
            messages.size()
            time.sleep(1)
    os._exit(1)


def _check_shared(job: TrainingJob, token: str) -> None:
    """Raise ValueError if this machine does not see the launcher's files."""
    path, until = job.location.workdir / TOKEN, time.monotonic() + VISIBILITY_TIMEOUT
    while not (seen := path.is_file() and path.read_text() == token) and time.monotonic() < until:
        time.sleep(0.5)
    missing = [path] if not seen else [file for file in job.files if not file.is_file()]
    if missing:
        raise ValueError(
            f"{socket.gethostname()} does not see {missing[0]} of the machine that started the training. The machines "
            "of a Ray cluster train on files that all of them see below one path: put LIGHTGEN_STORE, or for a remote "
            "store LIGHTGEN_SCRATCH, on a disk that they share"
        )
