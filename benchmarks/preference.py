"""Stability of preference tuning: short runs over rates, strengths, batch sizes and seeds, and what becomes of each.

    lightgen run scene-preference --until pairs --set dpo.rounds=1 --store STORE
    python -m benchmarks.preference --recipe scene-preference --store STORE

Each run tunes the recipe's pre-trained student on its first round's pairs, with guards. Then the averaged student is
measured anew, on pairs and noise that are the same for all: by how much the error of winners rose over the reference's.
A run is `stopped` if a guard ended it, and has `escaped` if that rise is beyond twice the tolerance or not finite,
whether a guard ended it or not.
"""

import argparse
import itertools
import math
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any, NamedTuple

import torch

from flows.load import load_recipe
from flows.plan import plan
from lightgen_core.config import DpoConfig
from lightgen_core.data.batches import PairSource
from lightgen_core.launch.job import RunLocation, StudentCheckpoint, TrainingJob
from lightgen_core.launch.run import train
from lightgen_core.model.save import load_student
from lightgen_core.train.dpo import DpoCriterion
from lightgen_core.train.step_noise import step_generator
from lightgen_core.train.train_step import NonFiniteLossError
from storage.open_store import open_store

RATES = (1e-5, 3e-5, 1e-4, 3e-4, 1e-3)
"""Two decades."""
STRENGTHS: tuple[dict[str, Any], ...] = (
    {"objective": "dpo", "beta": 50},
    {"objective": "dpo", "beta": 500},
    {"objective": "dpo", "beta": 5000},
    {"objective": "nft", "contrast": 0.5},
    {"objective": "nft", "contrast": 1.0},
)
BATCHES, SEEDS = (8, 48), (0, 1)
MEASURED_PAIRS = 128


class Outcome(NamedTuple):
    """End of a run: the guard's reason, None without one, and the winners' relative rise of error."""

    stopped: str | None
    rise: float

    def escaped(self, tolerance: float) -> bool:
        """Return whether the student left behind is beyond twice the tolerance."""
        return not self.rise <= 2 * tolerance


def main() -> None:
    """Run the grid, and print a row for each strength and rate."""
    arguments = _arguments()
    torch.set_num_threads(arguments.threads)
    recipe = load_recipe(arguments.recipe)
    artifacts = plan(recipe, open_store(arguments.store)).artifacts
    pairs, student = artifacts["pairs"], artifacts["pretrain"]
    pairs_folder, folder = (each.store.local_path(each.path) for each in (pairs, student))
    assert folder is not None and pairs_folder is not None, "the store is a local folder"
    files = tuple(pairs_folder / name for name in pairs.names("^pairs"))
    rows: dict[tuple[str, float], list[Outcome]] = defaultdict(list)
    started = time.monotonic()
    grid = list(itertools.product(STRENGTHS, RATES, BATCHES, SEEDS))[:: arguments.every]
    for strength, rate, batch, seed in grid:
        config = _config(recipe.dpo, arguments.steps, rate, batch, strength)
        name = " ".join(str(value) for value in strength.values())
        rows[name, rate].append(run(folder / "student", files, config, seed))
    tolerance = recipe.dpo.tolerance
    print(f"{len(grid)} runs of {arguments.steps} steps in {time.monotonic() - started:.0f} s; tolerance {tolerance:g}")
    print(f"{'objective':10s} {'rate':>8s} {'runs':>5s} {'stopped':>8s} {'escaped':>8s} {'worst rise':>11s}")
    for (name, rate), outcomes in rows.items():
        stopped, escaped = sum(one.stopped is not None for one in outcomes), sum(o.escaped(tolerance) for o in outcomes)
        worst = max(outcomes, key=lambda one: math.inf if math.isnan(one.rise) else one.rise).rise
        print(f"{name:10s} {rate:8.0e} {len(outcomes):5d} {stopped:8d} {escaped:8d} {worst:11.1%}")
    print(f"escaped in all: {sum(one.escaped(tolerance) for each in rows.values() for one in each)}")


def run(folder: Path, files: tuple[Path, ...], config: DpoConfig, seed: int) -> Outcome:
    """Tune a student; return what became of it."""
    with tempfile.TemporaryDirectory() as scratch:
        location = RunLocation(workdir=Path(scratch) / "run", output_dir=Path(scratch) / "student", device="cpu")
        start = StudentCheckpoint(folder=folder, weights="ema")
        job = TrainingJob(student=start, files=files, config=config, seed=seed, location=location)
        try:
            stopped = train(job).stopped
        except NonFiniteLossError as error:
            return Outcome(str(error), 0.0)  # the update was not made, and the student stays
        return Outcome(stopped, rise_of(location.output_dir, folder, files, config, Path(scratch) / "rows"))


@torch.no_grad()
def rise_of(tuned: Path, reference: Path, files: tuple[Path, ...], config: DpoConfig, scratch: Path) -> float:
    """Return the relative rise of the winners' error from a reference to a tuned student, at fixed pairs and noise."""
    old, info = load_student(reference, weights="ema")
    new, _ = load_student(tuned, weights="ema")
    source = PairSource(files, patch=info["patch"], batch_size=MEASURED_PAIRS, seed=1, scratch=scratch)
    criterion = DpoCriterion.create(old, source, config.model_copy(update={"batch_size": MEASURED_PAIRS}))
    criterion.prepare(new, torch.device("cpu"))
    batch = source.batch(0).to(torch.device("cpu"))
    noise = criterion.sample_noise(batch.grid, (0, MEASURED_PAIRS), step_generator(1, 0))
    metrics = criterion.losses(new, batch, noise).metrics
    return float(metrics["winner_delta"].mean() / metrics["reference_error"].mean())


def _config(base: DpoConfig, steps: int, rate: float, batch: int, strength: dict[str, Any]) -> DpoConfig:
    optimizer = base.optimizer.model_copy(update={"learning_rate": rate, "warmup_steps": 5})
    changes = {"steps": steps, "batch_size": batch, "optimizer": optimizer, "log_every": 2, "checkpoint_every": 6}
    guard = {"displacement_guard": "sdpo"} if strength["objective"] == "dpo" else {"displacement_guard": "none"}
    return base.model_copy(update=changes | guard | strength)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="scene-preference")
    parser.add_argument("--store", required=True, help="a local folder in which the recipe's pairs are made")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--every", type=int, default=1, help="every nth run of the grid alone")
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


if __name__ == "__main__":
    main()
