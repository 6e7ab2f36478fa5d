"""A run's request, validated once: on the command line, or in the flow of a schedule or of the Prefect UI."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flows.distill import ALL_STAGES, NAMES
from flows.load import load_recipe
from flows.plan import PlannedStage, Planner, plan, require_inputs
from flows.selection import Selection, select
from storage.open_store import open_store
from storage.store import Store
from tasks.config.recipe import Recipe
from tasks.config.settings import Settings
from tasks.executors.select import require_engine
from tasks.tracking.trackers import require_trackers

KEY_DIGITS = 8
"""Digits of a key in a run's name: enough to tell runs apart, and to find the artifact by."""


@dataclass(frozen=True)
class Request:
    """A run that may begin: its recipe, its plan, and the stages chosen from it."""

    recipe: Recipe
    settings: Settings
    store: Store
    selection: Selection
    plan: Planner

    @property
    def on_device(self) -> bool:
        """True if one of the chosen stages uses the accelerator."""
        return any(stage.on_device(self.recipe) for stage in ALL_STAGES if stage.name in self.selection.chosen)

    @property
    def chosen(self) -> list[PlannedStage]:
        """The stages that run, in order."""
        return [self.plan.stages[label] for label in self.plan.chosen(self.selection)]

    @property
    def run_name(self) -> str:
        """Recipe and key: `demo-1a2b3c4d` by the report, `demo-tokens-1a2b3c4d` by the last stage that runs.

        Equal names mean equal results.
        """
        artifact = self.chosen[-1].artifact
        stage = [] if artifact.stage == NAMES[-1] else [artifact.label]
        return "-".join([self.recipe.name, *stage, artifact.key[:KEY_DIGITS]])


def validate_request(
    recipe: str,
    store: str | None = None,
    overrides: Mapping[str, Any] | Sequence[str] | None = None,
    only: str | None = None,
    from_stage: str | None = None,
    until: str | None = None,
    refresh: Sequence[str] = (),
) -> Request:
    """Check a run and this machine's settings before any work starts. Raises one of `flows.errors.USER_ERRORS`."""
    selection, settings = select(only, from_stage, until, refresh), Settings()
    require_trackers(settings.trackers)
    loaded, opened = load_recipe(recipe, overrides), open_store(store or settings.store)
    require_engine(settings, opened)
    planner = plan(loaded, opened)
    require_inputs(planner, selection)
    return Request(loaded, settings, opened, selection, planner)


_handed_over: dict[str, Request] = {}
"""The request that is about to run, by the flow's parameters."""


def hand_over(request: Request, parameters: Mapping[str, Any]) -> None:
    """Keep a validated request for the flow that is called with these parameters next."""
    _handed_over.clear()
    _handed_over[_identity(parameters)] = request


def peek(parameters: Mapping[str, Any]) -> Request:
    """Return the request of the flow that begins, validated by whoever asks first."""
    if (request := _handed_over.get(_identity(parameters))) is None:
        request = validate_request(**parameters)
        hand_over(request, parameters)
    return request


def take_over(parameters: Mapping[str, Any]) -> Request:
    """Return the request of the flow that begins; a later run in this process validates its own."""
    request = peek(parameters)
    _handed_over.clear()
    return request


def _identity(parameters: Mapping[str, Any]) -> str:
    """Return parameters as text; Prefect turns tuples into lists."""
    return json.dumps(parameters, sort_keys=True, default=str)
