"""Runs the stages of an ablation without Prefect, and is killed while the stage of a number works.

python -m tests.programs.ablate_and_die RECIPE STORE NUMBER
"""

import os
import signal
import sys

from flows.ablation import validate_ablation
from tasks.context.context import StageContext
from tasks.context.shards import Shard


def main() -> None:
    """Run all stages before the one of the number, and begin that one."""
    recipe, store, number = sys.argv[1], sys.argv[2], int(sys.argv[3])
    request = validate_ablation(recipe, [{"axis": "iterations", "values": [2, 4]}], 2, store)
    for turn, planned in enumerate(request.chosen):
        if turn == number:
            StageContext.write = StageContext.add_folder = die  # type: ignore[method-assign, assignment]
        planned.stage.run(planned.recipe, request.settings, planned.inputs, planned.artifact)


def die(context: StageContext, *_: Shard) -> None:
    """End this process as kill -9 does."""
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    main()
