"""LightGen from Python: run a recipe, look at what it made, sample its student.

    import lightgen

    run = lightgen.run("demo", {"pretrain.steps": 100})
    run.scores["dpo"]["overall"]
    run.images("evaluation", student="dpo")[0].image

    student = lightgen.Student.from_pretrained("demo")
    student("a red circle", seed=0)[0].save("circle.png")

Importing this loads neither torch nor Prefect; `run` loads both, a student torch.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flows.environment import log_to_stderr
from flows.errors import StageFailed, UserError
from flows.load import load_recipe, override_lines
from flows.plan import plan
from flows.results import CaptionedImage, Run
from flows.start import start
from flows.student import Student
from storage.open_store import open_store
from storage.store import StoreError
from tasks.config.settings import Settings

__all__ = ["CaptionedImage", "Run", "StageFailed", "StoreError", "Student", "UserError", "load", "run"]


def run(
    recipe: str | Path,
    overrides: Mapping[str, Any] | None = None,
    *,
    store: str | Path | None = None,
    only: str | None = None,
    from_stage: str | None = None,
    until: str | None = None,
    refresh: Sequence[str] = (),
) -> Run:
    """Run a recipe and return what it made; what is done already stays as it is.

    The same as `lightgen run`: killed or interrupted, the same call continues. Progress goes to standard error.

    Args:
        recipe: name of one that comes along ("demo"), or the path of a YAML file.
        overrides: fields that differ, by dotted name or in sections: {"pretrain.steps": 100}.
        store: folder or URL of the artifacts; LIGHTGEN_STORE by default.
        only, from_stage, until: stages to run; all by default.
        refresh: stages to make again though they are done.

    Raises:
        UserError: the request is wrong; the message says what to change.
        StageFailed: a stage failed; its finished shards are kept.
        StoreError: the store cannot be used.
    """
    log_to_stderr()
    lines, where = override_lines(overrides or {}), None if store is None else str(store)
    start(str(recipe), where, lines, only=only, from_stage=from_stage, until=until, refresh=tuple(refresh))
    return load(recipe, overrides, store=store)


def load(recipe: str | Path, overrides: Mapping[str, Any] | None = None, *, store: str | Path | None = None) -> Run:
    """Return what a store holds of a recipe, without running anything.

    Args:
        recipe, overrides, store: as of `run`.

    Raises:
        UserError: the request is wrong, or nothing of the recipe is in the store.
        StoreError: the store cannot be used.
    """
    planner = plan(
        load_recipe(str(recipe), override_lines(overrides or {})), open_store(str(store or Settings().store))
    )
    found = Run(planner)
    if not found.artifacts:
        raise UserError(
            f"nothing of {planner.recipe.name} is finished in {found.store}: captions are {found.states['captions']} "
            f"({planner.explain('captions')}). lightgen.run with the same recipe, overrides and store makes it"
        )
    return found
