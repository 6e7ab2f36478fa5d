"""A recipe that has run through all ten stages, as small as they go: by the notebook, once in a process of tests."""

import functools
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from storage.artifact import Artifact
from storage.open_store import open_store
from tests.support.paths import ROOT

RECIPE = """
extends: smoke
captions: {count: 24}
synthesis: {count: 48, shard_size: 48}
dedup: {recall_queries: 48, diversity_sample: 24, clusters: 4, centres: 2, copies: {planted: 4}}
pretrain: {steps: 4, batch_size: 4, log_every: 2, checkpoint_every: 4}
pairs: {count: 4, shard_size: 4}
dpo: {steps: 2, batch_size: 2, log_every: 1, checkpoint_every: 2}
evaluation: {per_category: 2, shard_size: 24}
"""


@dataclass(frozen=True)
class FinishedRun:
    """Address of the store, the recipe's file, and what the notebook showed. Tests read it, and change nothing."""

    store: str
    recipe: str
    shown: str

    @property
    def student(self) -> Path:
        """Folder of the student that the report exports."""
        return next(Path(self.store).glob("report/*/model"))

    def artifact(self, stage: str) -> Artifact:
        """Return a stage's artifact."""
        store = open_store(self.store)
        return Artifact(store, stage, *store.folders(stage))


@functools.cache
def finished_run() -> FinishedRun:
    """Return the run of this process, made by docs/lightgen.ipynb for the first that asks."""
    folder = Path(tempfile.mkdtemp(prefix="finished-run-"))
    (folder / "tiny.yaml").write_text(RECIPE)
    recipe, store = str(folder / "tiny.yaml"), str(folder / "store")
    command = [sys.executable, "-m", "tests.programs.run_notebook", str(ROOT / "docs/lightgen.ipynb")]
    environment = os.environ | {"LIGHTGEN_THREADS": "1"}  # small models only wait for more
    done = subprocess.run(
        [*command, f"recipe={recipe}", f"store={store}"], capture_output=True, text=True, cwd=ROOT, env=environment
    )
    assert done.returncode == 0, done.stderr
    return FinishedRun(store, recipe, done.stdout)
