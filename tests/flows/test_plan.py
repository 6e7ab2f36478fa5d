"""A plan looks at the store no more than it must: on an object store every look is a request."""

import pytest

from flows.errors import UserError
from flows.load import load_recipe
from flows.plan import plan, require_inputs
from flows.selection import select
from storage.artifact import Artifact
from storage.open_store import open_store

RECIPE = load_recipe("smoke")


@pytest.fixture
def looked(monkeypatch):
    """The stages whose artifacts were looked at, in order."""
    stages: list[str] = []
    check = Artifact.check

    def counted(self: Artifact, **how):
        stages.append(self.stage)
        return check(self, **how)

    monkeypatch.setattr(Artifact, "check", counted)
    return stages


def test_a_run_is_planned_with_one_look_and_reported_with_two(tmp_path, looked):
    planner = plan(RECIPE, open_store(str(tmp_path)))
    assert looked == []
    require_inputs(planner, select())
    assert looked == ["report"]
    outcome = planner.rechecked()
    assert (outcome.scores(), outcome.report(), looked) == ({}, None, ["report", "evaluation", "report"])


def test_a_plan_looks_at_each_artifact_once(tmp_path, looked):
    planner = plan(RECIPE, open_store(str(tmp_path)))
    assert [check.state for _, check in planner.statuses.values()] == ["missing"] * 10
    assert list(planner.statuses) == looked


def test_the_first_stage_with_a_missing_input_is_named(tmp_path):
    """The first in the pipeline's order."""
    planner = plan(RECIPE, open_store(str(tmp_path)))
    with pytest.raises(UserError, match=r"^embeddings needs synthesis"):
        require_inputs(planner, select(from_stage="embeddings"))
