"""Stages made in this process, without Prefect."""

from flows.distill import NAMES
from flows.plan import plan
from storage.artifact import Artifact
from storage.store import Store
from tasks.config.recipe import Recipe
from tasks.config.settings import Settings

UNTIL_TOKENS = ("captions", "synthesis", "embeddings", "dedup", "tokens")
"""Stages before the first training."""


def make_stages(store: Store, recipe: Recipe, *names: str) -> dict[str, Artifact]:
    """Make some stages of a recipe, in every round; return all artifacts by label."""
    planner = plan(recipe, store)
    for planned in planner.stages.values():
        if planned.stage.name in names:
            planned.stage.run(planned.recipe, Settings(), planned.inputs, planned.artifact)
    return planner.artifacts


def make_until(store: Store, recipe: Recipe, last: str = NAMES[-1]) -> dict[str, Artifact]:
    """Make all stages of a recipe up to one; return all artifacts by label."""
    return make_stages(store, recipe, *NAMES[: NAMES.index(last) + 1])
