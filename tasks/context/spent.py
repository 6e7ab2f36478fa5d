"""Cost of an unfinished artifact so far: the records of all processes of all attempts, added up.

Each process has a file of its own below `_progress/cost`, or, where it only trains, in the folder of the training. So
they stay when an attempt is killed, and the attempt that finishes the artifact counts them all.
"""

from collections.abc import Iterable, Sequence

from lightgen_core.metering.meter import Meter, ProcessRecord
from storage.artifact import PROGRESS, Artifact
from storage.cost import Cost, DeviceCost, total
from tasks.context.scratch import Scratch

COST = "cost"
"""Folder of records, below `_progress` and in the folders of trainings."""
_EARLIER = "earlier"
"""Beginning of the names of files that hold the cost of a making whose files were damaged since."""

Span = tuple[float, float]


def record_path(artifact: Artifact, name: str) -> str:
    """Return the path in the store of a process' record."""
    return f"{artifact.path}/{PROGRESS}/{COST}/{name}.json"


def driver_meter(artifact: Artifact) -> Meter:
    """Return the meter of the process that makes an artifact."""
    meter = Meter(lambda record: artifact.store.write(record_path(artifact, meter.id), record))
    return meter


def worker_meter(artifact: Artifact, attempt: str, *, is_child: bool) -> Meter:
    """Return the meter of a process that makes shards for the one that drives an attempt."""
    meter = Meter(
        lambda record: artifact.store.write(record_path(artifact, meter.id), record), attempt=attempt, is_child=is_child
    )
    return meter


def keep_cost(artifact: Artifact) -> None:
    """Keep the cost of a damaged artifact, for the manifest of the one that is made from what is left."""
    manifest = artifact.manifest()
    if manifest.cost is not None:
        name = f"{_EARLIER}-{manifest.created_at.replace(':', '')}"
        artifact.store.write(record_path(artifact, name), manifest.cost.model_dump_json().encode())


def started_at(artifact: Artifact) -> str | None:
    """Return the ISO 8601 time at which the first attempt at an unfinished artifact began; None if none has."""
    return min((record.began for record in _read(artifact)[0]), default=None)


def spent(artifact: Artifact, scratch: Scratch, *, on_device: bool, own: ProcessRecord | None = None) -> Cost:
    """Return the cost so far.

    scratch: holds the records of trainings, where it is on this machine. own: the newest record of this
    process, in place of the one that it wrote.
    """
    records, earlier = _read(artifact)
    if own is not None:
        records = [own, *(record for record in records if record.id != own.id)]
    files = sorted(scratch.path.glob(f"*/{COST}/*.json"))
    records += [ProcessRecord.model_validate_json(file.read_bytes()) for file in files]
    return Cost.sum([*earlier, add_up(records, on_device=on_device)])


def _read(artifact: Artifact) -> tuple[list[ProcessRecord], list[Cost]]:
    records, earlier, store = [], [], artifact.store
    folder = f"{artifact.path}/{PROGRESS}/{COST}"
    for name in store.files(folder):
        try:
            data = store.read(f"{folder}/{name}")
        except FileNotFoundError:  # another machine has finished the artifact, and tidied up
            continue
        if name.startswith(_EARLIER):
            earlier.append(Cost.model_validate_json(data))
        else:
            records.append(ProcessRecord.model_validate_json(data))
    return records, earlier


def add_up(records: Sequence[ProcessRecord], *, on_device: bool) -> Cost:
    """Add the records of processes."""
    drivers = [record for record in records if record.attempt == record.id]
    devices = _devices(records) if on_device else ()
    return Cost(
        attempts=len(drivers),
        processes=len(records),
        wall_seconds=round(sum(driver.seconds for driver in drivers), 3),
        waiting_seconds=round(sum(_waiting(driver, records) for driver in drivers), 3),
        busy_seconds=round(sum(_length(record.busy) for record in records), 3),
        cpu_seconds=round(_cpu_seconds(records), 3),
        flops=total(record.flops for record in records),
        bytes_written=sum(record.bytes for record in records),
        devices=devices,
        not_measured=_not_measured(records, devices),
    )


def _waiting(driver: ProcessRecord, records: Iterable[ProcessRecord]) -> float:
    """Return the seconds before an attempt, and those within it in which none of its processes was at work."""
    busy = [span for record in records if record.attempt == driver.id for span in record.busy]
    return driver.waited + max(0.0, driver.seconds - _union(busy))


def _cpu_seconds(records: Iterable[ProcessRecord]) -> float:
    """Return the CPU seconds of all.

    The system adds a child's seconds to its parent when it has ended; of one that lives, or whose parent was killed,
    there is only its own record. So of the two sums over an attempt's children the larger one is the fuller one.
    """
    own, children, ended = 0.0, dict[str, float](), dict[str, float]()
    for record in records:
        if record.is_child:
            children[record.attempt] = children.get(record.attempt, 0.0) + record.cpu_seconds
        else:
            own += record.cpu_seconds
            ended[record.attempt] = ended.get(record.attempt, 0.0) + record.child_cpu_seconds
    return own + sum(max(children.get(attempt, 0.0), ended.get(attempt, 0.0)) for attempt in {**children, **ended})


def _devices(records: Sequence[ProcessRecord]) -> tuple[DeviceCost, ...]:
    """Return the devices: GPUs, or, where no process used one, the machines."""
    with_gpu = [record for record in records if record.gpu is not None]
    by_id: dict[str, list[ProcessRecord]] = {}
    for record in with_gpu or records:
        by_id.setdefault(record.gpu.id if record.gpu else f"cpu@{record.host}", []).append(record)
    return tuple(_device(id_, same) for id_, same in sorted(by_id.items()))


def _device(id_: str, records: Sequence[ProcessRecord]) -> DeviceCost:
    """Return the cost of one device; processes that share it at one moment were told the same by its driver."""
    spans = [span for record in records for span in record.busy]
    seconds, uses = _union(spans), [record.gpu for record in records if record.gpu is not None]
    share = seconds / (_length(spans) or 1.0)
    busy, joules = total(use.busy_seconds for use in uses), total(use.joules for use in uses)
    return DeviceCost(
        id=id_,
        name=uses[0].name if uses else "cpu",
        seconds=round(seconds, 3),
        busy_seconds=None if busy is None else round(busy * share, 3),
        joules=None if joules is None else round(joules * share, 3),
    )


def _not_measured(records: Iterable[ProcessRecord], devices: Iterable[DeviceCost]) -> tuple[str, ...]:
    reasons = [f"energy: {record.gpu.unmeasured}" for record in records if record.gpu and record.gpu.unmeasured]
    if any(device.name == "cpu" for device in devices):
        reasons.append("energy: of a CPU it is not read")
    return tuple(dict.fromkeys(reasons))


def _length(spans: Iterable[Span]) -> float:
    return sum(end - start for start, end in spans)


def _union(spans: Iterable[Span]) -> float:
    """Return the length of what any of the spans covers."""
    covered, reached = 0.0, float("-inf")
    for start, end in sorted(spans):
        covered += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return covered
