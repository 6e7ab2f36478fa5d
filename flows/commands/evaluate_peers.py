"""Models of the published tables by name: `peer:sdxl` is its pipeline with its authors' steps and guidance."""

from dataclasses import replace

from flows.commands.evaluate_options import EvaluationOptions
from flows.did_you_mean import did_you_mean
from flows.errors import UserError
from lightgen_core.evaluation.published import published

PREFIX = "peer:"


def resolve_peer(model: str, options: EvaluationOptions) -> tuple[str, EvaluationOptions]:
    """Return the source that a peer's name stands for, and the options with its steps and guidance; others unchanged.

    Raises:
        UserError: no peer of that name, or one whose own code would be needed.
    """
    if not model.startswith(PREFIX):
        return model, options
    name, models = model.removeprefix(PREFIX), published().models
    runnable = [each for each, peer in models.items() if peer.run]
    if name not in models:
        raise UserError(f"there is no {model}; expected {PREFIX} with one of {', '.join(runnable)}.{_near(name)}")
    run = models[name].run
    if run is None:
        raise UserError(
            f"{models[name].name} cannot be run here: {models[name].not_run}. Generate its images with its own code, "
            f"and score them by images:FOLDER; {PREFIX} runs {', '.join(runnable)}"
        )
    steps = run.steps if options.steps is None else options.steps
    cfg = run.cfg if options.cfg is None else options.cfg
    return run.source, replace(options, steps=steps, cfg=cfg)


def _near(name: str) -> str:
    return did_you_mean(name, published().models)
