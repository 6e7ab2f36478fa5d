"""What a run is asked for, understood in one way: on the command line, in the Prefect UI and on a schedule."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flows.distill import STAGES
from flows.load import load_recipe
from flows.plan import plan, require_inputs
from flows.selection import Selection, select
from storage.store import Store, open_store
from tasks.config.recipe import Recipe
from tasks.config.settings import Settings
from tasks.executors.select import check as check_engine
from tasks.tracking.trackers import require_trackers


@dataclass(frozen=True)
class Request:
    """A run that may begin."""

    recipe: Recipe
    settings: Settings
    store: Store
    selection: Selection

    @property
    def on_device(self) -> bool:
        """Whether one of the chosen stages works on the accelerator."""
        return any(stage.on_device(self.recipe) for stage in STAGES if stage.name in self.selection.chosen)


def understand(
    recipe: str,
    store: str | None = None,
    overrides: Mapping[str, Any] | Sequence[str] | None = None,
    only: str | None = None,
    from_stage: str | None = None,
    until: str | None = None,
    refresh: Sequence[str] = (),
) -> Request:
    """Check all that can be wrong with a run before anything of it is made, the settings of this machine included.

    Raises:
        one of `flows.errors.MISTAKES`.
    """
    selection, settings = select(only, from_stage, until, refresh), Settings()
    require_trackers(settings.trackers)
    loaded, place = load_recipe(recipe, overrides), open_store(store or settings.store)
    check_engine(settings, place)
    require_inputs(plan(loaded, place), selection)
    return Request(loaded, settings, place, selection)
