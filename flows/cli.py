"""The command line. Results go to standard output, everything else to standard error; torch and Prefect load late."""

import json
import os
import sys
import traceback
from pathlib import Path
from typing import Any

import click

from flows import console
from flows.load import load_recipe
from flows.mistakes import MISTAKES
from flows.plan import plan as make_plan
from flows.plan import require_inputs
from flows.selection import select
from flows.store_commands import store as store_group
from storage.files import StoreUnavailable
from storage.store import Store
from tasks.engine import check as check_engine
from tasks.settings import Settings
from tasks.trackers import require_trackers

store_option = click.option(
    "--store", "store_uri", metavar="URI", help="Folder or fsspec URL of the artifacts; LIGHTGEN_STORE by default."
)
set_option = click.option(
    "--set", "overrides", multiple=True, metavar="FIELD=VALUE", help="Override one field, e.g. pretrain.steps=2000."
)
file_argument = click.Path(path_type=Path, exists=True, dir_okay=False)
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else.")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="lightgen")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def cli(debug: bool) -> None:
    """Distil a text-to-image teacher into a small student."""


@cli.command()
@click.argument("recipe")
@store_option
@set_option
@click.option("--only", metavar="STAGE", help="Run this one stage.")
@click.option("--from", "from_stage", metavar="STAGE", help="Run this stage and all after it.")
@click.option("--until", metavar="STAGE", help="Run all stages up to this one.")
@click.option("--refresh", multiple=True, metavar="STAGE", help="Make a finished stage again; 'all' for every one.")
@click.option("--engine", type=click.Choice(["local", "ray"]), help="Who makes shards, and trains.")
@json_option
def run(
    recipe: str,
    store_uri: str | None,
    overrides: tuple[str, ...],
    only: str | None,
    from_stage: str | None,
    until: str | None,
    refresh: tuple[str, ...],
    engine: str | None,
    as_json: bool,
) -> None:
    """Run RECIPE (a name or a YAML file). Finished stages are kept; a killed run goes on where it stopped."""
    # What is wrong with the request is said at once, before the minute that a Prefect server may take to start.
    settings = Settings()
    loaded, place = load_recipe(recipe, overrides), Store(store_uri or settings.store)
    require_inputs(make_plan(loaded, place), select(only, from_stage, until, refresh))
    require_trackers(settings.trackers)
    if engine:
        os.environ["LIGHTGEN_ENGINE"] = engine
    check_engine(Settings(), place)
    console.quiet_prefect()
    from flows.run import run as flow
    from flows.server import ensure_server

    ensure_server()
    result = flow(recipe, place.uri, overrides, only, from_stage, until, refresh)
    click.echo(json.dumps(result) if as_json else console.describe_run(result))


@cli.command()
@click.argument("recipe")
@click.option("--cron", required=True, metavar="SCHEDULE", help="When it runs: '0 3 * * *' is every night at three.")
@click.option("--timezone", default="UTC", show_default=True, help="In which the schedule is meant: Europe/Berlin.")
@store_option
@set_option
@click.option("--limit", type=click.IntRange(min=1), default=1, show_default=True, help="Runs at once; more wait.")
@click.option("--name", help="Of the deployment in the Prefect UI; the recipe's by default.")
def serve(recipe: str, cron: str, store_uri: str | None, **options: Any) -> None:
    """Run RECIPE on a schedule, in this one process; watch it, and start further runs, in the Prefect UI.

    Reports to the Prefect server of PREFECT_API_URL, or to the one of this machine; where there is none it starts one,
    which ends with it.
    """
    console.quiet_prefect()
    from flows.serve import serve as serve_until_stopped

    serve_until_stopped(recipe, cron, store=store_uri, **options)


@cli.command()
@click.argument("recipe")
@store_option
@set_option
@json_option
def plan(recipe: str, store_uri: str | None, overrides: tuple[str, ...], as_json: bool) -> None:
    """Say what a run of RECIPE would do, and why."""
    loaded, place = load_recipe(recipe, overrides), Store(store_uri or Settings().store)
    found = make_plan(loaded, place).found
    stages = [
        {"stage": name, "key": artifact.key, "state": check.state, "why": check.why}
        for name, (artifact, check) in found.items()
    ]
    result = {"recipe": loaded.name, "store": place.uri, "stages": stages}
    click.echo(json.dumps(result) if as_json else console.describe_plan(result))


@cli.command()
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.argument("prompts", nargs=-1, required=True, metavar='"A PROMPT" ...')
@click.option(
    "-o", "--output", type=click.Path(path_type=Path, file_okay=False), default=Path(), help="Folder for the PNG files."
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--num-images", type=click.IntRange(min=1), default=1, show_default=True, help="Images of each prompt.")
@click.option("--steps", type=click.IntRange(min=1), help="Iterations of the reveal.")
@click.option("--cfg", type=click.FloatRange(min=1), help="Classifier-free guidance; 1 is none.")
@click.option("--height", type=click.IntRange(min=1), help="Pixels.")
@click.option("--width", type=click.IntRange(min=1), help="Pixels.")
@click.option(
    "--set", "overrides", multiple=True, metavar="FIELD=VALUE", help="Override a field of the sampler: head_steps=12."
)
def sample(checkpoint: Path, prompts: tuple[str, ...], **options: Any) -> None:
    """Sample images from CHECKPOINT: a folder with a student, such as `STORE/report/KEY/model`."""
    from flows.sample import sample_to_files

    for path in sample_to_files(checkpoint, prompts, **options):
        click.echo(path)


@cli.command("eval")
@click.argument("model", metavar="CHECKPOINT|diffusers:MODEL")
@click.option("--benchmark", type=click.Choice(["scene", "geneval"]), help="By default the recipe's, or scene.")
@click.option("--recipe", metavar="RECIPE", help="Take world, sampler, seed and numbers from here.")
@click.option("--images", type=click.IntRange(min=1), help="Images of each prompt.")
@click.option("--per-category", type=click.IntRange(min=1), help="Prompts of each category, at most.")
@click.option("--seed", type=click.IntRange(min=0), help="Of prompts and images.")
@click.option("--steps", type=click.IntRange(min=1), help="Iterations of a student, denoising steps of a pipeline.")
@click.option("--cfg", type=click.FloatRange(min=0), help="Classifier-free guidance.")
@click.option(
    "--metadata",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    metavar="FILE",
    help="GenEval's own evaluation_metadata.jsonl; without it, prompts of the same form.",
)
@click.option(
    "-o", "--output", type=click.Path(path_type=Path, file_okay=False), help="Keep the images in this folder."
)
@json_option
def evaluate(model: str, as_json: bool, **options: Any) -> None:
    """Score a student (a folder, such as `STORE/report/KEY/model`) or a diffusers pipeline (folder or hub id).

    With --recipe NAME a student is asked and sampled exactly as that recipe's own evaluation does it.
    """
    from flows.evaluate import evaluate as score

    result = score(model, **options)
    click.echo(json.dumps(result) if as_json else console.describe_evaluation(result))


@cli.command()
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.argument("image", type=file_argument)
@click.argument("mask", type=file_argument)
@click.argument("prompt", metavar='"A PROMPT"')
@click.option(
    "-o", "--output", type=click.Path(path_type=Path, dir_okay=False), help="PNG file; IMAGE-inpainted.png by default."
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--steps", type=click.IntRange(min=1), help="Iterations of the reveal.")
@click.option("--cfg", type=click.FloatRange(min=1), help="Classifier-free guidance; 1 is none.")
@click.option(
    "--keep-pixels/--decode-all",
    default=True,
    show_default=True,
    help="Outside the mask's tokens: IMAGE's own pixels, or what the autoencoder makes of them.",
)
def inpaint(checkpoint: Path, image: Path, mask: Path, prompt: str, **options: Any) -> None:
    """Sample the part of IMAGE anew that is white in MASK, to fit A PROMPT and what is around it.

    MASK is a picture of IMAGE's size. A token (a square of pixels) is sampled anew if any of its pixels is white; all
    others are kept.
    """
    from flows.inpaint import inpaint_to_file

    click.echo(inpaint_to_file(checkpoint, image, mask, prompt, **options))


@cli.command("import-upstream")
@click.argument("file", type=file_argument)
@click.option("-o", "--output", type=click.Path(path_type=Path, file_okay=False), required=True, metavar="CHECKPOINT")
@click.option("--weights", type=click.Choice(["ema", "raw"]), help="Take only these; by default both, where FILE has.")
@click.option(
    "--num-heads", type=click.IntRange(min=1), help="Attention heads; the released sizes have 12 (base) and 16."
)
@click.option(
    "--codec",
    default="stabilityai/stable-diffusion-3.5-large/vae",
    show_default=True,
    metavar="REF",
    help="Image autoencoder: hub id or folder.",
)
@click.option(
    "--text-encoder", default="google/flan-t5-xxl", show_default=True, metavar="REF", help="Hub id or folder."
)
@click.option(
    "--max-words", type=click.IntRange(min=1), default=128, show_default=True, help="Text tokens; captions are padded."
)
def import_upstream(file: Path, **options: Any) -> None:
    """Turn the released weights in FILE (.pth or .safetensors) into CHECKPOINT, a folder that `sample` takes."""
    from flows.import_upstream import import_to_folder

    click.echo(import_to_folder(file, **options))


@cli.command()
@click.argument("recipe")
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
    show_default=True,
    help="Peak of the device in TFLOP/s; the default is an H100's in bf16.",
)
@click.option(
    "--mfu",
    type=click.FloatRange(0, 1, min_open=True),
    default=0.4,
    show_default=True,
    help="Share of that peak which is reached.",
)
@click.option("--words", type=click.IntRange(min=1), help="Text tokens of a caption; tokens.max_words by default.")
@click.option("--price", type=click.FloatRange(min=0), help="Of one device-hour, in any currency.")
@json_option
def estimate(
    recipe: str,
    overrides: tuple[str, ...],
    throughput: tuple[str, ...],
    tflops: float,
    mfu: float,
    words: int | None,
    price: float | None,
    as_json: bool,
) -> None:
    """Say what RECIPE will take - images, tokens, disk, FLOPs, device-hours, money - before anything runs."""
    from flows.estimate import Rates, parse_throughput
    from flows.estimate import estimate as make_estimate

    rates = Rates(parse_throughput(throughput), tflops, mfu, price)
    result = make_estimate(load_recipe(recipe, overrides), rates, words)
    click.echo(json.dumps(result) if as_json else console.describe_estimate(result))


@cli.command()
@click.argument("recipe", required=False)
@json_option
def doctor(recipe: str | None, as_json: bool) -> None:
    """Say whether this machine is ready, and what is missing."""
    from flows.doctor import examine

    findings = examine(load_recipe(recipe) if recipe else None, Settings())
    click.echo(json.dumps({"checks": findings}) if as_json else console.describe_checks(findings))
    if any(finding["state"] == "missing" for finding in findings):
        raise SystemExit(1)


cli.add_command(store_group)


def main() -> None:
    """Run the command line and turn errors into exit codes: 2 for the caller's input, 1 for a failed stage."""
    console.log_to_stderr()
    arguments = [word for word in sys.argv[1:] if word != "--debug"]  # it may stand anywhere
    debug = len(arguments) < len(sys.argv) - 1
    try:
        cli(arguments, standalone_mode=False)
    except click.ClickException as error:
        error.show(sys.stderr)
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo("stopped; what is finished is kept, and the same command goes on from there", err=True)
        sys.exit(1)
    except MISTAKES as error:
        _explain(error, debug)
        sys.exit(1 if isinstance(error, StoreUnavailable) else 2)
    except Exception as error:
        _explain(error, debug)
        sys.exit(1)


def _explain(error: Exception, debug: bool) -> None:
    click.echo(f"lightgen: {error or type(error).__name__}", err=True)
    if debug:
        traceback.print_exception(error)
    else:
        click.echo("`lightgen --debug ...` shows the traceback.", err=True)
