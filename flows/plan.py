"""The plan of a run: every artifact, its state, and the reason."""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from flows.distill import distill
from flows.errors import UserError
from flows.selection import Selection
from flows.sizes import check_sizes
from storage.artifact import Artifact, ArtifactStatus
from storage.store import Store
from tasks.config.recipe import Recipe
from tasks.config.rounds import Round
from tasks.stage import Stage


def named(artifact: Artifact) -> dict[str, str]:
    """Return the fields that name a stage in `--json`; `label` where it is a later round of it."""
    label = {} if artifact.label == artifact.stage else {"label": artifact.label}
    return {"stage": artifact.stage, **label, "key": artifact.key}


class PlannedStage(NamedTuple):
    """A stage with its recipe, its inputs and the artifact that it makes of them.

    The recipe is the run's, or that of a round of preference tuning.
    """

    stage: Stage
    recipe: Recipe
    inputs: tuple[Artifact, ...]
    artifact: Artifact


@dataclass
class Planner:
    """Walks the pipeline and computes every artifact's key; looks at the store on demand, once per artifact.

    Stages are known by their artifact's label: their name, and in later rounds of preference tuning `pairs-2`, `dpo-2`.
    """

    recipe: Recipe
    store: Store
    stages: dict[str, PlannedStage] = field(default_factory=dict)
    _checks: dict[str, ArtifactStatus] = field(default_factory=dict)

    def __call__(self, stage: Stage, *inputs: Artifact, round_: Round | None = None) -> Artifact:
        recipe, suffix = round_ or (self.recipe, "")
        artifact = stage.artifact(recipe, self.store, inputs, suffix)
        if same := next((known for known in self.artifacts.values() if known.path == artifact.path), None):
            return same
        self.stages[artifact.label] = PlannedStage(stage, recipe, inputs, artifact)
        return artifact

    @property
    def artifacts(self) -> dict[str, Artifact]:
        """Every artifact by its label."""
        return {label: planned.artifact for label, planned in self.stages.items()}

    @property
    def inputs(self) -> dict[str, tuple[str, ...]]:
        """The labels of the artifacts that each stage reads."""
        return {label: tuple(given.label for given in planned.inputs) for label, planned in self.stages.items()}

    def chosen(self, selection: Selection) -> list[str]:
        """Return the labels of the stages that run, in order.

        A range reaches from the first round of its first stage to the last round of its last one.

        Raises:
            UserError: the only stage that was asked for is one that the recipe does not have.
        """
        labels = list(self.stages)
        rows = [row for row, label in enumerate(labels) if self.stages[label].stage.name in selection.chosen]
        if not rows:
            (name,) = selection.chosen
            raise UserError(
                f"{self.recipe.name} has no stage {name}; switch it on by its section: --set '{name}={{}}', or "
                f"{name}: {{}} in the recipe"
            )
        if len(selection.chosen) == 1:
            return [labels[row] for row in rows]
        return labels[rows[0] : rows[-1] + 1]

    def rechecked(self) -> "Planner":
        """Return the same plan, which looks at the store anew: for after a run."""
        return Planner(self.recipe, self.store, self.stages)

    def check(self, name: str) -> ArtifactStatus:
        """Return the status of a stage's artifact in the store."""
        if name not in self._checks:
            self._checks[name] = self.stages[name].artifact.check()
        return self._checks[name]

    def explain(self, name: str) -> str:
        """Explain an artifact's state; if it is missing, how it differs from the nearest that exists."""
        status, (stage, recipe, inputs, artifact) = self.check(name), self.stages[name]
        return stage.explain_missing(recipe, inputs, artifact) if status.state == "missing" else status.reason

    @property
    def statuses(self) -> dict[str, tuple[Artifact, ArtifactStatus]]:
        """Every artifact with its status."""
        return {name: (artifact, self.check(name)) for name, artifact in self.artifacts.items()}

    def scores(self) -> dict[str, Any]:
        """Return the students' scores by name, None without a judge; empty if the evaluation is not done."""
        return self._evaluation().get("scores", {})

    def differences(self) -> dict[str, Any]:
        """Return the paired differences of the students' scores; empty as `scores`, or where nobody judges."""
        return self._evaluation().get("differences", {})

    def _evaluation(self) -> dict[str, Any]:
        done = self.check("evaluation").state == "done"
        return self.artifacts["evaluation"].manifest().metrics if done else {}

    def report(self) -> str | None:
        """Return the address of the report page, or None if it is not done."""
        return self.artifacts["report"].uri_of("report.html") if self.check("report").state == "done" else None


def plan(recipe: Recipe, store: Store) -> Planner:
    """Walk the pipeline once and return the plan of a recipe in a store; UserError if its sizes contradict."""
    check_sizes(recipe)
    planner = Planner(recipe, store)
    distill(planner, recipe)
    return planner


def require_inputs(planner: Planner, selection: Selection) -> None:
    """Raise UserError if an input of the chosen stages is missing, StoreError if the store is not writable."""
    planner.check("report")  # a store that cannot be reached is reported now, not when Prefect has started
    chosen, inputs = planner.chosen(selection), planner.inputs
    for name in chosen:
        left_out = [needed for needed in inputs[name] if needed not in chosen]
        if not left_out:
            continue
        if planner.stages[name].stage.name not in selection.refresh and planner.check(name).state == "done":
            continue
        for needed in left_out:
            if (state := planner.check(needed).state) != "done":
                raise UserError(
                    f"{name} needs {needed} {planner.artifacts[needed].key}, which is {state} in {planner.store.uri} "
                    f"({planner.explain(needed)}).\n"
                    f"Run it first, with the same --set and --store: lightgen run {planner.recipe.name} --until "
                    f"{planner.stages[needed].stage.name}; or drop --only and --from."
                )
    planner.store.require_writable()
