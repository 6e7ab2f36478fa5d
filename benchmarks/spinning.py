"""Spinning of OpenMP's waiting threads: images per second of the demo's training, alone and on shared cores.

    python -m benchmarks.spinning
    python -m benchmarks.spinning --beside 2 --rounds 9     as many busy threads of another process
    python -m benchmarks.spinning --processes 2 --threads 1 trainings that wait for nobody: what the cores give at most

Each setting is a process of its own, since OpenMP reads it once. They train for a moment in turns, each turn once alone
and once beside the busy process, so that other programs disturb all alike. Listed are medians, and medians of the ratio
to the best setting of the same turn. Where others are at work too, `--real-time` (Linux, as root) stands in for idle
cores: when alone, the training then goes before them.
"""

import argparse
import hashlib
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

SETTINGS: dict[str, dict[str, str]] = {
    "GOMP's default (300,000)": {},
    "GOMP_SPINCOUNT=100000": {"GOMP_SPINCOUNT": "100000"},
    "GOMP_SPINCOUNT=50000": {"GOMP_SPINCOUNT": "50000"},
    "GOMP_SPINCOUNT=30000": {"GOMP_SPINCOUNT": "30000"},
    "GOMP_SPINCOUNT=20000": {"GOMP_SPINCOUNT": "20000"},
    "GOMP_SPINCOUNT=10000": {"GOMP_SPINCOUNT": "10000"},
    "GOMP_SPINCOUNT=1000": {"GOMP_SPINCOUNT": "1000"},
    "passive": {"OMP_WAIT_POLICY": "passive"},
}
VARIABLES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")


def main() -> None:
    """Measure and print, or be one of the measured processes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="turns of each setting")
    parser.add_argument("--seconds", type=float, default=1.5, help="of a turn")
    parser.add_argument("--beside", type=int, default=2, help="threads of the busy process")
    parser.add_argument("--images", type=int, default=24, help="of a step")
    parser.add_argument("--threads", type=int, default=2, help="of the training")
    parser.add_argument("--processes", type=int, default=1, help="trainings at once, whose rates are added up")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--only", nargs="*", help="settings that contain one of these words")
    parser.add_argument("--real-time", action="store_true", help="alone at a real-time priority")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        train_on_demand(args.threads, args.precision, args.images)
        return
    chosen = [name for name in SETTINGS if not args.only or any(word in name for word in args.only)]
    rates: dict[tuple[str, bool], list[float]] = {(name, shared): [] for shared in (False, True) for name in chosen}
    with ExitStack() as stack:
        workers = {
            name: [stack.enter_context(worker(SETTINGS[name], args)) for _ in range(args.processes)] for name in chosen
        }
        for turn in range(args.rounds + 1):  # the first is not counted
            for shared in (False, True):
                for name, processes in workers.items():
                    with busy(args.beside if shared else 0):
                        if args.real_time:
                            schedule(processes, os.SCHED_OTHER if shared else os.SCHED_RR)
                        rate = ask(processes, args.seconds)
                    if args.real_time:
                        schedule(processes, os.SCHED_OTHER)
                    print(f"{name:25} {'beside' if shared else 'alone':6} {rate:6.1f}", file=sys.stderr)
                    rates[name, shared] += [rate] if turn else []
    report(chosen, rates, args)


@contextmanager
def worker(variables: dict[str, str], args: argparse.Namespace) -> Iterator[subprocess.Popen[str]]:
    """Start a process that trains when it is asked to."""
    environment = {name: value for name, value in os.environ.items() if name not in VARIABLES} | variables
    command = [sys.executable, "-m", "benchmarks.spinning", "--worker", "--threads", str(args.threads)]
    command += ["--precision", args.precision, "--images", str(args.images)]
    process = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        assert process.stdin is not None
        process.stdin.close()
        process.wait()


def ask(processes: list[subprocess.Popen[str]], seconds: float) -> float:
    """Return the images per second of processes that train for some seconds at once, together."""
    for process in processes:
        assert process.stdin is not None
        print(seconds, file=process.stdin, flush=True)
    return sum(float(process.stdout.readline()) for process in processes if process.stdout is not None)


def schedule(processes: list[subprocess.Popen[str]], policy: int) -> None:
    """Set the scheduling policy of all threads of processes."""
    for process in processes:
        for thread in Path(f"/proc/{process.pid}/task").iterdir():
            os.sched_setscheduler(int(thread.name), policy, os.sched_param(1 if policy == os.SCHED_RR else 0))


@contextmanager
def busy(threads: int) -> Iterator[None]:
    """Keep a process with so many threads at work."""
    code = f"from benchmarks.spinning import hash_for_ever; hash_for_ever({threads})"
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.DEVNULL) if threads else None
    if process:
        time.sleep(0.3)  # until it has started
    try:
        yield
    finally:
        if process:
            process.kill()
            process.wait()


def hash_for_ever(threads: int) -> None:
    """Compute, in threads that hold no interpreter lock."""
    data = bytes(1 << 24)

    def work() -> None:
        while True:
            hashlib.sha256(data)

    for _ in range(threads):
        threading.Thread(target=work).start()


def train_on_demand(threads: int, precision: str, images: int) -> None:
    """Train the demo's student for the seconds that each line of standard input gives; print images per second."""
    import numpy as np
    import torch

    from flows.load import load_recipe
    from lightgen_core.config import TrainConfig
    from lightgen_core.data.batches import Batch
    from lightgen_core.device import pick_device
    from lightgen_core.diffusion.objectives import get_objective
    from lightgen_core.model.mar import new_student
    from lightgen_core.train.pretrain import MaskedDenoisingCriterion
    from lightgen_core.train.train_step import TrainStep

    device, recipe = (
        pick_device("cpu", threads),
        load_recipe("demo", [f"pretrain.{line}" for line in (f"precision={precision}", f"batch_size={images}")]),
    )
    config = TrainConfig(**recipe.pretrain.model_dump(include=set(TrainConfig.model_fields)))
    side, text_tokens = 3, 16  # as the demo has them, or nearly
    mar = recipe.pretrain.model.resolve(token_width=64, text_width=128, position_grid=side)
    student = new_student(mar, recipe.pretrain.head, seed=0)
    criterion = MaskedDenoisingCriterion(mar.token_width, get_objective(student.head.config.objective), config)
    train_step = TrainStep(student.train(), criterion, seed=0, device=device)
    generator = torch.Generator().manual_seed(0)
    batch = Batch(
        np.arange(images),
        (side, side),
        torch.randn(images, side * side, mar.token_width, generator=generator),
        torch.randn(images, text_tokens, mar.text_width, generator=generator),
        torch.ones(images, text_tokens, dtype=torch.bool),
    )

    class SameRows:
        batch_size = images

        def batch(self, step: int, start: int = 0, stop: int | None = None) -> Batch:
            return batch

    number = 0
    for line in sys.stdin:
        start, first = time.perf_counter(), number
        while time.perf_counter() - start < float(line):
            train_step.step(number % config.steps, train_step.prepare(number % config.steps, SameRows()))
            number += 1
        print(images * (number - first) / (time.perf_counter() - start), flush=True)


def report(chosen: list[str], rates: dict[tuple[str, bool], list[float]], args: argparse.Namespace) -> None:
    """Print a table: images per second and the share of the best, alone and beside the busy process."""
    run = f"demo, batch {args.images}, {args.precision}, {args.threads} threads"
    print(f"{run}; medians of {args.rounds} turns of {args.seconds} s\n")
    shared_head = f"beside {args.beside} threads" if args.beside else "shared"
    print(f"| setting | alone | of the best | {shared_head} | of the best |\n| --- | --- | --- | --- | --- |")
    for name in chosen:
        cells = []
        for shared in (False, True):
            best = [max(rates[each, shared][turn] for each in chosen) for turn in range(args.rounds)]
            shares = [rate / most for rate, most in zip(rates[name, shared], best, strict=True)]
            cells += [f"{statistics.median(rates[name, shared]):.0f}", f"{100 * statistics.median(shares):.0f} %"]
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
