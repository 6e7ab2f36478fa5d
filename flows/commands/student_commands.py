"""Commands for students: sample, inpaint, eval, compare, import-upstream, export, serve-model, gallery."""

import json
from pathlib import Path
from typing import Any

import click

from flows.commands.evaluate_command import evaluate
from flows.commands.options import FILE, FOLDER, POSITIVE, SEED, complete_recipe, json_option, store_option


@click.command()
@click.argument("checkpoint", type=click.Path(path_type=Path), shell_complete=complete_recipe)
@click.argument("prompts", nargs=-1, required=True, metavar='"A PROMPT" ...')
@click.option("-o", "--output", type=FOLDER, help="Folder for the PNG files; this one by default.")
@click.option("--seed", type=SEED, default=0, help="Seed of a prompt's first image; each further image adds 1.")
@click.option("--num-images", type=POSITIVE, default=1, help="Images of each prompt.")
@click.option("--steps", type=POSITIVE, help="Sampling iterations.")
@click.option("--cfg", type=click.FloatRange(min=1), help="Classifier-free guidance; 1 is none.")
@click.option("--height", type=POSITIVE, help="Pixels.")
@click.option("--width", type=POSITIVE, help="Pixels.")
@click.option(
    "--set", "overrides", multiple=True, metavar="FIELD=VALUE", help="Override a field of the sampler: head_steps=12."
)
@click.option(
    "--rewrite", metavar="MODEL", help="Write prompts out first: transformers:MODEL, or one at LIGHTGEN_LLM_URL."
)
@store_option
def sample(checkpoint: Path, prompts: tuple[str, ...], **options: Any) -> None:
    """Draw prompts with the student in CHECKPOINT.

    CHECKPOINT is a recipe (its newest student), the short key of an artifact (`lightgen store ls` lists them), or a
    folder such as STORE/report/KEY/model.

    \b
    lightgen sample demo "a red circle" "two blue stars" -o out
    lightgen sample pretrain/ce55 "a red circle" --num-images 4
    """
    from flows.commands.sample import sample_to_files

    for path in sample_to_files(checkpoint, prompts, **options):
        click.echo(path)


@click.command()
@click.argument("checkpoint", type=click.Path(path_type=Path), shell_complete=complete_recipe)
@click.argument("image", type=FILE)
@click.argument("mask", type=FILE)
@click.argument("prompt", metavar='"A PROMPT"')
@click.option(
    "-o", "--output", type=click.Path(path_type=Path, dir_okay=False), help="PNG file; IMAGE-inpainted.png by default."
)
@click.option("--seed", type=SEED, default=0, help="A different seed gives a different image.")
@click.option("--steps", type=POSITIVE, help="Sampling iterations.")
@click.option("--cfg", type=click.FloatRange(min=1), help="Classifier-free guidance; 1 is none.")
@click.option(
    "--keep-pixels/--decode-all",
    default=True,
    help="Outside the mask's tokens: IMAGE's own pixels, or what the autoencoder makes of them.",
)
@store_option
def inpaint(checkpoint: Path, image: Path, mask: Path, prompt: str, **options: Any) -> None:
    """Redraw the part of IMAGE that is white in MASK.

    The new part follows A PROMPT and its surroundings. MASK is an image of IMAGE's size. A token (a square of pixels)
    is resampled if any of its pixels is white; all others are kept.

    \b
    lightgen inpaint STORE/report/KEY/model photo.png mask.png "a green star"
    """
    from flows.commands.inpaint import inpaint_to_file

    click.echo(inpaint_to_file(checkpoint, image, mask, prompt, **options))


@click.command("import-upstream")
@click.argument("file", type=FILE)
@click.option("-o", "--output", type=FOLDER, required=True, metavar="CHECKPOINT", help="Folder to write.")
@click.option("--weights", type=click.Choice(["ema", "raw"]), help="Take only these; by default both, where FILE has.")
@click.option("--num-heads", type=POSITIVE, help="Attention heads; the released sizes have 12 (base) and 16.")
@click.option(
    "--codec",
    default="stabilityai/stable-diffusion-3.5-large/vae",
    metavar="REF",
    help="Image autoencoder: hub id or folder.",
)
@click.option("--text-encoder", default="google/flan-t5-xxl", metavar="REF", help="Hub id or folder.")
@click.option("--max-text-tokens", type=POSITIVE, default=128, help="Text tokens; captions are padded.")
def import_upstream(file: Path, **options: Any) -> None:
    """Turn the paper's released weights into a CHECKPOINT.

    FILE is .pth or .safetensors; CHECKPOINT a folder that sample, inpaint, eval and `pretrain.init_from` take.

    \b
    lightgen import-upstream released.pth -o CHECKPOINT
    """
    from flows.commands.import_upstream import import_to_folder

    click.echo(import_to_folder(file, **options))


@click.command()
@click.argument("checkpoint", shell_complete=complete_recipe)
@click.argument("folder", type=FOLDER)
@click.option("--push", metavar="ORG/NAME", help="Also upload it to this model repository of the hub.")
@click.option("--private", is_flag=True, help="Make a new repository private.")
@click.option(
    "--components",
    type=click.Choice(["auto", "all", "none"]),
    default="auto",
    help="Autoencoder and text encoder inside the folder; auto: those that have no name on the hub.",
)
@click.option("--licence", metavar="ID", help="Of the model card; by default it follows from the sources.")
@store_option
def export(checkpoint: str, folder: Path, **options: Any) -> None:
    """Write the student in CHECKPOINT to FOLDER for diffusers.

    With a model card and a data card from its lineage. `lightgen sample FOLDER` gives the same images as CHECKPOINT.

    \b
    lightgen export demo tiny-student
    lightgen export report/8cf2 tiny-student --push someone/tiny-student
    """
    from flows.commands.export import export as write

    click.echo(write(checkpoint, folder, **options))


@click.command("serve-model")
@click.argument("checkpoint", shell_complete=complete_recipe)
@click.option("--host", default="127.0.0.1", help="Any but this machine's needs LIGHTGEN_SERVE_KEY.")
@click.option("--port", type=click.IntRange(0, 65535), default=8000, help="0: any that is free.")
@click.option("--name", help="Of the model, for requests; CHECKPOINT's last part by default.")
@click.option("--max-batch", type=POSITIVE, default=16, help="Images sampled at once.")
@click.option("--max-queue", type=POSITIVE, default=64, help="Images that may wait; more are refused with 429.")
@store_option
def serve_model(checkpoint: str, **options: Any) -> None:
    """Serve the student in CHECKPOINT over HTTP.

    Clients made for OpenAI's images can use it, and so can `synthesis.teacher: endpoint` of another recipe. SIGTERM
    ends it once all that was accepted is answered.

    \b
    lightgen serve-model demo
    curl 127.0.0.1:8000/v1/images/generations --json '{"prompt": "a red circle", "seed": 0}'
    """
    from flows.commands.serve_model import serve_model as serve

    serve(checkpoint, **options)


@click.command()
@click.argument("first", shell_complete=complete_recipe)
@click.argument("second", required=False, shell_complete=complete_recipe)
@click.option(
    "-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="SVG of their images side by side."
)
@store_option
@json_option
def compare(first: str, second: str | None, store_uri: str | None, output: Path | None, as_json: bool) -> None:
    """Compare the students FIRST and SECOND.

    By the fields of their recipes, the stages that they share, scores with paired intervals, time. Each is a recipe,
    STAGE/KEY, or a folder. Without SECOND: the run before FIRST under the same name, and FIRST.

    \b
    lightgen compare demo
    lightgen compare demo mine.yaml -o images.svg
    lightgen compare pretrain/3f2a report/8cf2
    """
    from flows.commands.compare import compare as run
    from flows.commands.console import describe_comparison

    result = run(first, second, store_uri, output)
    click.echo(json.dumps(result) if as_json else describe_comparison(result))


@click.command()
@click.argument("checkpoint", shell_complete=complete_recipe)
@click.option("--host", default="127.0.0.1", help="Any but this machine's needs LIGHTGEN_SERVE_KEY.")
@click.option("--port", type=click.IntRange(0, 65535), default=7860, help="0: any that is free.")
@store_option
def gallery(checkpoint: str, host: str, port: int, store_uri: str | None) -> None:
    """Try the student in CHECKPOINT on a page in the browser.

    Prompts, seeds, steps and guidance; a brush marks what is to be drawn anew, and an image can be continued beyond its
    edges. The page loads nothing from elsewhere.

    \b
    lightgen gallery demo
    """
    from flows.commands.serve_model import serve_model as serve

    serve(checkpoint, host, port, None, max_batch=16, max_queue=64, store_uri=store_uri, page=True)


STUDENT_COMMANDS = (sample, inpaint, evaluate, compare, import_upstream, export, serve_model, gallery)
