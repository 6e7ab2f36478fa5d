"""The command `eval`: its options, and how its result is printed."""

import json
from typing import Any

import click

from flows.commands.options import FILE, FOLDER, POSITIVE, SEED, complete_recipe, json_option, store_option

_BENCHMARKS = [
    "scene",
    "geneval",
    "prompts",
    "dpg",
    "geneval2",
    "geneval2-tifa",
    "t2i-compbench",
    "t2i-compbench-mllm",
]


@click.command("eval")
@click.argument("model", metavar="CHECKPOINT|diffusers:MODEL|images:PATH|endpoint:URL|peer:NAME")
@click.option("--benchmark", type=click.Choice(_BENCHMARKS), help="By default the recipe's, or scene.")
@click.option(
    "--recipe",
    metavar="RECIPE",
    shell_complete=complete_recipe,
    help="Take world, sampler, seed and numbers from here.",
)
@click.option("--images", type=POSITIVE, help="Images of each prompt.")
@click.option("--per-category", type=POSITIVE, help="Prompts of each category, at most.")
@click.option("--seed", type=SEED, help="Seed of prompts and images.")
@click.option("--steps", type=POSITIVE, help="Iterations of a student, denoising steps of a pipeline.")
@click.option("--cfg", type=click.FloatRange(min=0), help="Classifier-free guidance.")
@click.option("--size", type=POSITIVE, metavar="PX", help="Side of a pipeline's or an endpoint's images.")
@click.option(
    "--metadata",
    type=FILE,
    metavar="FILE",
    help="GenEval's own evaluation_metadata.jsonl; without it, prompts of the same form.",
)
@click.option(
    "--prompts",
    type=FILE,
    metavar="FILE",
    help="Own prompts, .txt or .jsonl, which nobody judges.",
)
@click.option(
    "--questions",
    type=FILE,
    metavar="FILE",
    help="dpg_bench.csv, geneval2_data.jsonl or T2I-CompBench's CATEGORY_val.txt of their authors.",
)
@click.option(
    "--judge",
    metavar="MODEL",
    help="Who answers them: transformers:MODEL, a name at LIGHTGEN_VLM_URL, or for t2i-compbench blip:MODEL.",
)
@click.option("--detector", metavar="MODEL", help="OWLv2 that finds the objects of t2i-compbench, by folder or hub id.")
@click.option(
    "--parser",
    metavar="NAME",
    default="en_core_web_sm",
    show_default=True,
    help="spaCy's pipeline that splits the prompts of t2i-compbench, or a folder.",
)
@click.option("--metrics", metavar="NAME,...", help="Over all images: fd, kid, cmmd, precision, recall, vendi, ...")
@click.option("--references", metavar="SET", help="Images to compare with: folder, Parquet, or synthesis/KEY.")
@click.option("--training", metavar="SET", help="Images that may be memorised; by default those it was trained on.")
@click.option(
    "--features",
    default="efficientnet_lite0",
    show_default=True,
    help="Space of the metrics; or clip:REF, timm:NAME, inception:FILE.",
)
@click.option(
    "--clip", metavar="REF", help="CLIP of clip and cmmd, by default the recipe's; of t2i-compbench, OpenAI's."
)
@click.option("--limit", type=POSITIVE, default=5000, help="References and training images that are read, at most.")
@click.option("--memorised-below", type=click.FloatRange(min=0), default=0.05, help="1 - cosine of a memorised image.")
@click.option(
    "-o",
    "--output",
    type=FOLDER,
    help="Keep images and results in this folder; the same command continues there.",
)
@store_option
@json_option
def evaluate(model: str, as_json: bool, **options: Any) -> None:
    """Score a student, a pipeline, an endpoint or images.

    CHECKPOINT is a recipe, a short key or a folder such as STORE/report/KEY/model; diffusers:MODEL a folder or hub id;
    images:PATH images with captions (GenEval's folders, a folder, Parquet); endpoint:URL an OpenAI-compatible server,
    endpoint:MODEL one at LIGHTGEN_IMAGES_URL; peer:NAME a model of the published tables, such as peer:sdxl, with its
    authors' steps and guidance. With --recipe prompts, seeds and sampler are those of that recipe's own
    evaluation.

    \b
    lightgen eval demo --recipe demo -o scored
    lightgen eval diffusers:MODEL --benchmark geneval
    lightgen eval demo --recipe demo --images 2 --metrics fd,recall,diversity --references synthesis/KEY
    lightgen eval images:FOLDER --benchmark geneval --metadata evaluation_metadata.jsonl
    """
    from flows.commands.evaluate import evaluate as score
    from flows.commands.evaluate_tables import describe_evaluation

    result = score(model, **options)
    click.echo(json.dumps(result) if as_json else describe_evaluation(result))
