"""Stages made in this process, without Prefect."""

from flows.distill import STAGES
from flows.plan import plan
from storage.artifact import Artifact
from storage.store import Store
from tasks.config.recipe import Recipe
from tasks.config.settings import Settings


def make_stages(store: Store, recipe: Recipe, *names: str) -> dict[str, Artifact]:
    """Make some stages of a recipe; return all artifacts by stage."""
    planner = plan(recipe, store)
    artifacts = {name: artifact for name, (artifact, _) in planner.statuses.items()}
    for stage in STAGES:
        if stage.name in names:
            inputs = tuple(artifacts[name] for name in planner.inputs[stage.name])
            stage.run(recipe, Settings(), inputs, artifacts[stage.name])
    return artifacts
