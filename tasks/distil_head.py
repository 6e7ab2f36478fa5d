"""distil_head: the last student and the tokens -> that student, and beside it one of few head evaluations a token."""

import json

from lightgen_core.launch.job import StudentCheckpoint, TrainingJob
from lightgen_core.seeds import derive_seed
from storage.artifact import Artifact
from storage.plural import pluralize
from tasks.config.distil_head import DistilHead
from tasks.config.recipe import Recipe
from tasks.context.context import StageContext
from tasks.stage import stage
from tasks.training import cpu_processes, training_location
from tasks.training_weights import TrainingRows, rows_of


def config_of(recipe: Recipe) -> DistilHead:
    """Return the stage's section, which recipes with this stage have."""
    assert recipe.distil_head is not None, "the plan has this stage for recipes with its section only"
    return recipe.distil_head


@stage(version=2, config_sections=("seed", "distil_head", "sampler", "pretrain", "tokens"), on_device=True)
def distil_head(ctx: StageContext, student: Artifact, tokens: Artifact, dedup: Artifact) -> None:
    """Write `student/`, the one that was given and a few-step student as one file more; `log.json`, its loss curve.

    It learns from the images of the last phase of pre-training.
    """
    from lightgen_core.launch.run import launch
    from lightgen_core.model.save import load_info

    recipe, section = ctx.recipe, config_of(ctx.recipe)
    folder = ctx.local_folder(student, "student/")
    sampler = section.few_step_sampler(recipe.pretrain.head, recipe.sampler)
    config = section.config(recipe.pretrain.head, recipe.sampler)
    processes = cpu_processes(ctx.settings, recipe.pretrain.model.width, config)
    training = TrainingJob(
        student=StudentCheckpoint(folder=folder, weights="ema"),
        **rows_of(ctx, TrainingRows(tokens, dedup), len(recipe.phases) - 1),
        config=config,
        seed=derive_seed(recipe.seed, "distil_head"),
        info=load_info(folder) | {"sampler": sampler.model_dump(mode="json")},
        location=training_location(ctx, processes=processes),
    )
    ctx.log("%s of %s", pluralize(config.steps, "step"), pluralize(config.batch_size, "image"))
    outcome = launch(training, ctx.progress(config.steps), ctx.meter)
    ctx.add_folder(training.location.output_dir, "student/")
    ctx.write("log.json", json.dumps(outcome.rows, sort_keys=True).encode())
    ctx.counts = {"rows": outcome.examples, "steps": outcome.step, "parameters": outcome.parameters}
    ctx.metrics = {"final_loss": outcome.rows[-1]["loss"]}
