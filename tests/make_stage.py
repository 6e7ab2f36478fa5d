"""Makes one stage of a recipe in a process of its own, without Prefect: something that a test can kill."""

import sys

from flows.console import log_to_stderr
from flows.distill import STAGES
from flows.load import load_recipe
from flows.plan import plan
from storage.store import Store
from tasks.settings import Settings


def main(store: str, name: str, *overrides: str) -> None:
    log_to_stderr()
    recipe, place = load_recipe("smoke", overrides), Store(store)
    planner = plan(recipe, place)
    stage = next(stage for stage in STAGES if stage.name == name)
    inputs = tuple(planner.found[given][0] for given in planner.inputs[name])
    stage.make(recipe, Settings(), inputs, planner.found[name][0])


if __name__ == "__main__":
    main(*sys.argv[1:])
