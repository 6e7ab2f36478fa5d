"""Makes one stage of a recipe in a process of its own: `python make_stage.py STORE STAGE KILL OVERRIDE...`.

There is no Prefect. It kills itself as soon as KILL pieces (shards, steps) are done; 0: never.
"""

import os
import signal
import sys

from flows.distill import STAGES
from flows.environment import log_to_stderr
from flows.load import load_recipe
from flows.plan import plan
from storage.open_store import open_store
from tasks.config.settings import Settings
from tasks.context.progress import Progress


def main(store: str, name: str, last: str, *overrides: str) -> None:
    log_to_stderr()
    recipe, place = load_recipe("smoke", overrides), open_store(store)
    planner = plan(recipe, place)
    stage = next(stage for stage in STAGES if stage.name == name)
    inputs = tuple(planner.statuses[given][0] for given in planner.inputs[name])

    def die(progress: Progress) -> None:
        if progress.done == int(last) > 0:
            os.kill(os.getpid(), signal.SIGKILL)

    stage.run(recipe, Settings(), inputs, planner.statuses[name][0], on_progress=die)


if __name__ == "__main__":
    main(*sys.argv[1:])
