"""An ablation's request and plan: the runs of every point and seed, and the stages that they share."""

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flows.ablation_axes import AxisPoint, Student, grid_points
from flows.distill import NAMES
from flows.errors import UserError
from flows.load import load_recipe
from flows.plan import PlannedStage, Planner, plan
from flows.request import KEY_DIGITS, Request
from flows.selection import Selection
from storage.artifact import Artifact
from storage.open_store import open_store
from storage.store import Store
from tasks.ablation import ablation
from tasks.config.ablation import AblatedRecipe, Grid, GridPoint
from tasks.config.recipe import Recipe
from tasks.config.rounds import without_control
from tasks.config.settings import Settings
from tasks.evaluation import evaluation
from tasks.executors.select import require_engine
from tasks.tracking.trackers import require_trackers


@dataclass(frozen=True)
class AblationRequest(Request):
    """An ablation that may begin: the plans of its runs, point by point and seed by seed, and its last stage.

    recipe and plan are those of the recipe that the points vary.
    """

    runs: tuple[Planner, ...]
    last: PlannedStage

    @property
    def chosen(self) -> list[PlannedStage]:
        """Every stage of every run once, in order, and the ablation itself: what runs have in common is made once."""
        stages = itertools.chain.from_iterable(run.stages.values() for run in self.runs)
        return [*{planned.artifact.path: planned for planned in stages}.values(), self.last]

    @property
    def stages_of_runs(self) -> int:
        """Stages of all runs if each were made alone."""
        return sum(len(run.stages) for run in self.runs)

    @property
    def run_name(self) -> str:
        """Recipe, axes and key: `demo-captions-1a2b3c4d`. Equal names mean equal results."""
        recipe = self.last.recipe
        assert isinstance(recipe, AblatedRecipe)
        return "-".join([recipe.name, *recipe.grid.axes, self.last.artifact.key[:KEY_DIGITS]])


def validate_ablation(
    recipe: str,
    axes: Sequence[Mapping[str, Any]],
    seeds: int = 1,
    store: str | None = None,
    overrides: Sequence[str] = (),
    student: Student | None = None,
) -> AblationRequest:
    """Check an ablation before any work starts. Raises one of `flows.errors.USER_ERRORS`.

    Args:
        axes: `{"axis": name, "values": [...]}`, one or two.
        seeds: trainings of each point; the first has the recipe's seed.
        overrides: lines `section.field=value` for all points.
    """
    settings = Settings()
    require_trackers(settings.trackers)
    base, opened = load_recipe(recipe, overrides), open_store(store or settings.store)
    require_engine(settings, opened)
    if base.evaluation.benchmark == "prompts":
        raise UserError(
            f"{base.name} has evaluation.benchmark prompts, which nobody judges: an ablation compares scores. Set "
            "it to scene or geneval."
        )
    if seeds < 1:
        raise UserError(f"found {seeds} seeds; each point is trained once or more")
    points = grid_points([(axis["axis"], axis["values"]) for axis in axes], student, base.pretrain.keep_steps)
    runs = [
        _plan_run(without_control(variant), opened, point.student)
        for point in points
        for variant in _variants(load_recipe(recipe, [*overrides, *point.overrides]), seeds)
    ]
    names = tuple(axis["axis"] for axis in axes)
    request = AblationRequest(
        base,
        settings,
        opened,
        Selection(frozenset(NAMES), frozenset()),
        plan(base, opened),
        tuple(runs),
        _last_stage(base, opened, names, points, seeds, runs),
    )
    opened.require_writable()
    return request


def _variants(recipe: Recipe, seeds: int) -> list[Recipe]:
    """Return a point's recipe with each training seed; the first is the recipe itself."""
    first = recipe.training.seed
    others = [(first + number) % 2**31 for number in range(1, seeds)]
    return [recipe, *(recipe.model_copy(update={"training_seed": seed}) for seed in others)]


def _plan_run(recipe: Recipe, store: Store, student: Student) -> Planner:
    """Plan a run up to the evaluation; one that scores the pre-trained student tunes none."""
    planner = plan(recipe, store)
    stages = planner.stages
    if student == "pretrain":
        stages = {name: stages[name] for name in NAMES[: NAMES.index("pretrain") + 1]}
        planner = Planner(recipe, store, stages)
        planner(evaluation, planner.artifacts["pretrain"])
        return planner
    return Planner(recipe, store, {label: planned for label, planned in stages.items() if label != "report"})


def _last_stage(
    recipe: Recipe,
    store: Store,
    axes: tuple[str, ...],
    points: Sequence[AxisPoint],
    seeds: int,
    runs: Sequence[Planner],
) -> PlannedStage:
    """Return the stage that compares all runs."""
    listed = [GridPoint(values=tuple(map(json.dumps, point.values)), student=point.student) for point in points]
    grid = Grid(axes=axes, points=tuple(listed), seeds=seeds)
    ablated = AblatedRecipe(**{name: getattr(recipe, name) for name in Recipe.model_fields}, grid=grid)
    inputs = []
    for number, run in enumerate(runs):
        scored, (point, seed) = run.artifacts["evaluation"], divmod(number, seeds)
        inputs.append(Artifact(store, scored.stage, scored.key, f"evaluation-{point + 1}-{seed + 1}"))
    artifact = ablation.artifact(ablated, store, tuple(inputs))
    return PlannedStage(ablation, ablated, tuple(inputs), artifact)
