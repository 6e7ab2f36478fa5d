"""What a run would do, and why, without doing it."""

from dataclasses import dataclass, field
from typing import Any

from flows.distill import distill
from flows.load import UserError
from flows.selection import Selection
from storage.artifact import Artifact, ArtifactStatus
from storage.store import Store
from tasks.config.recipe import Recipe
from tasks.stage import Stage


@dataclass
class Planner:
    """Walks the pipeline and knows every artifact's place; it looks there when it is asked, once."""

    recipe: Recipe
    store: Store
    artifacts: dict[str, Artifact] = field(default_factory=dict)
    inputs: dict[str, tuple[str, ...]] = field(default_factory=dict)
    _stages: dict[str, Stage] = field(default_factory=dict)
    _checks: dict[str, ArtifactStatus] = field(default_factory=dict)

    def __call__(self, stage: Stage, *inputs: Artifact) -> Artifact:
        artifact = stage.artifact(self.recipe, self.store, inputs)
        self.artifacts[stage.name], self._stages[stage.name] = artifact, stage
        self.inputs[stage.name] = tuple(given.stage for given in inputs)
        return artifact

    def check(self, name: str) -> ArtifactStatus:
        """Return what is at the place of a stage's artifact."""
        if name not in self._checks:
            self._checks[name] = self.artifacts[name].check()
        return self._checks[name]

    def why(self, name: str) -> str:
        """Say of a stage's artifact why it is as it is; of one that is missing, what is unlike the nearest there is."""
        found = self.check(name)
        if found.state != "missing":
            return found.reason
        inputs = tuple(self.artifacts[given] for given in self.inputs[name])
        return self._stages[name].why_missing(self.recipe, inputs, self.artifacts[name])

    @property
    def found(self) -> dict[str, tuple[Artifact, ArtifactStatus]]:
        """Every artifact, and what is at its place."""
        return {name: (artifact, self.check(name)) for name, artifact in self.artifacts.items()}

    def scores(self) -> dict[str, Any]:
        """Return the scores of the students by name; nothing where the evaluation is not done.

        Where no scorer applies to the evaluation's captions, the names are there and their scores are None.
        """
        done = self.check("evaluation").state == "done"
        return self.artifacts["evaluation"].manifest().metrics["scores"] if done else {}

    def report(self) -> str | None:
        """Return the address of the report page; None where it is not done."""
        return self.artifacts["report"].uri_of("report.html") if self.check("report").state == "done" else None


def plan(recipe: Recipe, store: Store) -> Planner:
    """Return where every stage of a recipe stands in a store."""
    planner = Planner(recipe, store)
    distill(planner)
    return planner


def require_inputs(planner: Planner, selection: Selection) -> None:
    """Check that what the chosen stages need, and the run leaves out, is done, and that the store takes the rest.

    Raises:
        UserError: names the input and the stage to run first.
        StoreError: the store cannot be written to.
    """
    planner.check("report")  # a store that cannot be reached is told now, not when Prefect has started
    for name, inputs in planner.inputs.items():
        left_out = [needed for needed in inputs if needed not in selection.chosen]
        if name not in selection.chosen or not left_out:
            continue
        if name not in selection.refresh and planner.check(name).state == "done":
            continue
        for needed in left_out:
            given, state = planner.artifacts[needed], planner.check(needed)
            if state.state != "done":
                raise UserError(
                    f"{name} needs {needed} {given.key}, which is {state.state} in {planner.store.uri} "
                    f"({planner.why(needed)}).\n"
                    f"Run it first, with the same --set and --store: lightgen run {planner.recipe.name} --until "
                    f"{needed}; or drop --only and --from."
                )
    planner.store.require_writable()
