"""What a run would do, and why, without doing it."""

from dataclasses import dataclass, field
from typing import Any

from flows.distill import distill
from flows.load import UserError
from flows.selection import Selection
from storage.artifact import Artifact, Check
from storage.store import Store
from tasks.recipe import Recipe
from tasks.stage import Stage


@dataclass
class Planner:
    """Walks the pipeline and looks at every artifact's place."""

    recipe: Recipe
    store: Store
    found: dict[str, tuple[Artifact, Check]] = field(default_factory=dict)
    inputs: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def __call__(self, stage: Stage, *inputs: Artifact) -> Artifact:
        artifact = stage.artifact(self.recipe, self.store, inputs)
        self.found[stage.name] = artifact, artifact.check()
        self.inputs[stage.name] = tuple(given.stage for given in inputs)
        return artifact

    def scores(self) -> dict[str, Any]:
        """Return the scores of the students by name; nothing where the evaluation is not done.

        Where no scorer applies to the evaluation's captions, the names are there and their scores are None.
        """
        artifact, check = self.found["evaluation"]
        return artifact.manifest().figures["scores"] if check.state == "done" else {}

    def report(self) -> str | None:
        """Return the address of the report page; None where it is not done."""
        artifact, check = self.found["report"]
        return f"{artifact.uri}/report.html" if check.state == "done" else None


def plan(recipe: Recipe, store: Store) -> Planner:
    """Return where every stage of a recipe stands in a store."""
    planner = Planner(recipe, store)
    distill(planner)
    return planner


def require_inputs(planner: Planner, selection: Selection) -> None:
    """Check that what the chosen stages need, and the run leaves out, is done.

    Raises:
        UserError: names the input and the stage to run first.
    """
    for name in planner.found:
        check = planner.found[name][1]
        if name not in selection.chosen or (check.state == "done" and name not in selection.refresh):
            continue
        for needed in planner.inputs[name]:
            given, state = planner.found[needed]
            if needed not in selection.chosen and state.state != "done":
                raise UserError(
                    f"{name} needs {needed} {given.key}, which is {state.state} in {planner.store.uri} ({state.why}).\n"
                    f"Run it first: lightgen run {planner.recipe.name} --until {needed}; or drop --only and --from."
                )
