"""Commands on recipes: run, plan, serve, estimate, doctor."""

import json
import logging
import os
from typing import Any

import click

from flows.commands import console
from flows.commands.options import POSITIVE, complete_recipe, complete_stage, json_option, set_option, store_option
from flows.environment import quiet_prefect
from flows.terminal import show_prefect_states
from storage.store import StoreError

log = logging.getLogger("lightgen")


@click.command()
@click.argument("recipe", shell_complete=complete_recipe)
@store_option
@set_option
@click.option("--only", metavar="STAGE", shell_complete=complete_stage, help="Run this one stage.")
@click.option(
    "--from", "from_stage", metavar="STAGE", shell_complete=complete_stage, help="Run this stage and all after it."
)
@click.option("--until", metavar="STAGE", shell_complete=complete_stage, help="Run all stages up to this one.")
@click.option(
    "--refresh",
    multiple=True,
    metavar="STAGE",
    shell_complete=complete_stage,
    help="Make a finished stage again; 'all' for every one.",
)
@click.option("--engine", type=click.Choice(["local", "ray"]), help="Who makes shards, and trains.")
@click.option("--prefect-states", is_flag=True, help="Log Prefect's own states too.")
@json_option
def run(
    recipe: str,
    store_uri: str | None,
    overrides: tuple[str, ...],
    engine: str | None,
    prefect_states: bool,
    as_json: bool,
    **stages: Any,
) -> None:
    """Run RECIPE: make what is missing, keep what is done.

    RECIPE is the name of one that comes along (demo, smoke), or a YAML file of yours. A run that was killed goes on
    where it stopped.

    \b
    lightgen run demo
    lightgen run demo --set pretrain.steps=8000     make what depends on it again
    lightgen run demo --only dedup --refresh dedup
    """
    log.info("%s: looking at what is there", recipe)
    from flows.start import start

    if prefect_states:
        show_prefect_states()
    if engine:
        os.environ["LIGHTGEN_ENGINE"] = engine
    given = [word for line in overrides for word in ("--set", line)]
    given += ["--store", store_uri] if store_uri else []
    result = start(recipe, store_uri, overrides, **stages)
    if as_json:
        click.echo(json.dumps(result))
    else:
        prompt = _evaluation_prompt(recipe, overrides) if result["report"] else ""
        click.echo(console.describe_run(result, [recipe, *given], prompt))


def _evaluation_prompt(recipe: str, overrides: tuple[str, ...]) -> str:
    """Return a caption to try the student with."""
    from flows.load import load_recipe
    from tasks.evaluation_prompts import evaluation_prompts

    resolved = load_recipe(recipe, overrides)
    if resolved.evaluation.benchmark == "scene":
        return "a red circle"  # listing that world takes half a second
    return evaluation_prompts(resolved)[0].caption


@click.command()
@click.argument("recipe", shell_complete=complete_recipe)
@store_option
@set_option
@json_option
def plan(recipe: str, store_uri: str | None, overrides: tuple[str, ...], as_json: bool) -> None:
    """Say what a run of RECIPE would do, and why.

    \b
    lightgen plan demo --set pretrain.steps=8000
    """
    from flows.load import load_recipe
    from flows.plan import named
    from flows.plan import plan as make_plan
    from storage.open_store import open_store
    from tasks.config.settings import Settings

    planner = make_plan(load_recipe(recipe, overrides), open_store(store_uri or Settings().store))
    stages = [
        {**named(artifact), "state": check.state, "why": planner.explain(label)}
        for label, (artifact, check) in planner.statuses.items()
    ]
    result = {"recipe": planner.recipe.name, "store": planner.store.uri, "stages": stages}
    click.echo(json.dumps(result) if as_json else console.describe_plan(result))


@click.command()
@click.argument("recipe", shell_complete=complete_recipe)
@click.option("--cron", required=True, metavar="SCHEDULE", help="When it runs: '0 3 * * *' is every night at three.")
@click.option("--timezone", default="UTC", help="In which the schedule is meant: Europe/Berlin.")
@store_option
@set_option
@click.option("--limit", type=POSITIVE, default=1, help="Runs at once; more wait.")
@click.option("--name", help="Of the deployment in the Prefect UI; the recipe's by default.")
def serve(recipe: str, cron: str, store_uri: str | None, **options: Any) -> None:
    """Run RECIPE on a schedule, watched in the Prefect UI.

    This one process runs what is due, and what is started in the UI. It reports to the Prefect server of
    PREFECT_API_URL, or to the one of this machine; where there is none it starts one, which ends with it.

    \b
    lightgen serve demo --cron "0 3 * * *"     every night at three
    """
    quiet_prefect()
    from flows.commands.serve import serve as serve_until_stopped

    serve_until_stopped(recipe, cron, store=store_uri, **options)


@click.command()
@click.argument("recipe", shell_complete=complete_recipe)
@set_option
@click.option(
    "--throughput",
    multiple=True,
    metavar="STAGE=N",
    help="Measured items per second of a stage, e.g. pretrain=420; takes the place of FLOPs.",
)
@click.option(
    "--tflops",
    type=click.FloatRange(min=0, min_open=True),
    default=989.0,
    help="Peak of the device in TFLOP/s; the default is an H100's in bf16.",
)
@click.option(
    "--mfu", type=click.FloatRange(0, 1, min_open=True), default=0.4, help="Share of that peak which is reached."
)
@click.option("--words", type=POSITIVE, help="Text tokens of a caption; tokens.max_text_tokens by default.")
@click.option("--price", type=click.FloatRange(min=0), help="Of one device-hour, in any currency.")
@click.option("--teachers", is_flag=True, help="The recipe's images by each teacher that is known, instead.")
@store_option
@json_option
def estimate(
    recipe: str,
    overrides: tuple[str, ...],
    throughput: tuple[str, ...],
    words: int | None,
    teachers: bool,
    store_uri: str | None,
    as_json: bool,
    **rates: Any,
) -> None:
    """Say what RECIPE will take before anything runs.

    Images, tokens, disk, FLOPs, device-hours, with a --price money; and the time on this machine, as far as it has
    made such stages in the store before.

    \b
    lightgen estimate lightgen-0.7b-256 --price 2.50
    lightgen estimate demo --throughput pretrain=420     images per second, measured
    lightgen estimate lightgen-0.7b-256 --teachers       its images by FLUX, Qwen-Image and others
    """
    from flows.commands.estimate import Rates, parse_throughput
    from flows.commands.estimate import estimate as make_estimate
    from flows.commands.estimate_teachers import estimate_teachers
    from flows.commands.measured_here import measured_here
    from flows.load import load_recipe
    from storage.open_store import open_store
    from tasks.config.settings import Settings

    loaded, rates_ = load_recipe(recipe, overrides), Rates(parse_throughput(throughput), **rates)
    if teachers:
        compared = estimate_teachers(loaded, rates_, words)
        click.echo(json.dumps(compared) if as_json else console.describe_teachers(compared))
        return
    try:
        here = measured_here(open_store(store_uri or Settings().store), loaded)
    except StoreError as error:
        if store_uri:
            raise
        log.warning("speeds of this machine are not shown: %s", error)
        here = {}
    result = make_estimate(loaded, rates_, words, here)
    click.echo(json.dumps(result) if as_json else console.describe_estimate(result))


@click.command()
@click.argument("recipe", required=False, shell_complete=complete_recipe)
@store_option
@set_option
@json_option
def doctor(recipe: str | None, store_uri: str | None, overrides: tuple[str, ...], as_json: bool) -> None:
    """Say whether this machine is ready, and what is missing.

    With a RECIPE also whether its models, disk and device memory are there. Downloads nothing.
    """
    from flows.commands.doctor import check_machine
    from flows.errors import UserError
    from flows.load import load_recipe
    from tasks.config.settings import Settings

    if overrides and recipe is None:
        raise UserError("--set changes fields of a recipe: name one, as in lightgen doctor demo --set pretrain.steps=9")
    settings = Settings(store=store_uri) if store_uri else Settings()
    findings = check_machine(load_recipe(recipe, overrides) if recipe else None, settings)
    click.echo(json.dumps({"checks": findings}) if as_json else console.describe_checks(findings))
    if any(finding["state"] == "missing" for finding in findings):
        raise SystemExit(1)


RECIPE_COMMANDS = (run, plan, serve, estimate, doctor)
