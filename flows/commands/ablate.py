"""`lightgen ablate`: compare variants of a recipe, over seeds."""

import json
import shlex
from typing import Any

import click
from click.shell_completion import CompletionItem

from flows.commands.options import POSITIVE, complete_recipe, json_option, set_option, store_option
from flows.environment import quiet_prefect
from flows.terminal import waiting_bar


def complete_axis(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return the named axes, and the sections and fields, that begin as what was typed."""
    from flows.ablation_axes import FIELDS
    from flows.commands.recipe_info import complete_section

    fields = complete_section(context, parameter, incomplete)
    known = {item.value for item in fields}
    return [*(CompletionItem(name) for name in FIELDS if name.startswith(incomplete) and name not in known), *fields]


@click.command()
@click.argument("recipe", shell_complete=complete_recipe)
@click.option(
    "--axis",
    "axes",
    multiple=True,
    required=True,
    metavar="NAME|FIELD",
    shell_complete=complete_axis,
    help="captions, volume, iterations, checkpoints, dedup, preference, or a field of the recipe; twice for a grid.",
)
@click.option(
    "--values",
    multiple=True,
    metavar="V1,V2,...",
    help="Values of the axis before it, in order; without any, few against the recipe's own.",
)
@click.option("--seeds", type=POSITIVE, default=3, help="Trainings of each point; they share all data.")
@click.option(
    "--student",
    type=click.Choice(["pretrain", "dpo"]),
    help="Which student is scored; the tuned one where an axis is about tuning, the pre-trained one elsewhere.",
)
@store_option
@set_option
@click.option("--throughput", multiple=True, metavar="STAGE=N", help="Items per second of a stage, for the estimate.")
@click.option("--tflops", type=click.FloatRange(min=0, min_open=True), help="Peak of the device, for the estimate.")
@click.option("--mfu", type=click.FloatRange(0, 1, min_open=True), default=0.4, help="Share of it that is reached.")
@click.option("--dry-run", is_flag=True, help="Print the estimate alone.")
@json_option
def ablate(
    recipe: str,
    axes: tuple[str, ...],
    values: tuple[str, ...],
    seeds: int,
    student: str | None,
    store_uri: str | None,
    overrides: tuple[str, ...],
    throughput: tuple[str, ...],
    tflops: float | None,
    mfu: float,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Compare variants of RECIPE over seeds.

    What runs have in common is made once, what is done is kept, and an ablation that was killed goes on where it
    stopped. Prints a time estimate, then scores and paired differences with 95 % intervals.

    \b
    lightgen ablate demo --axis captions
    lightgen ablate demo --axis captions --values 60,300,4000
    lightgen ablate demo --axis preference --values none,sft,nft --seeds 5
    lightgen ablate demo --axis captions --values 60,4000 --axis volume --values 3000,12000
    lightgen ablate demo --axis checkpoints --values 250,500,1000
    lightgen ablate demo --axis pretrain.batch_size --values 48,96
    """
    from flows.ablation import validate_ablation
    from flows.ablation_axes import default_values, parse_values
    from flows.commands.ablation_estimate import default_rates, describe_ablation_estimate, estimate_ablation
    from flows.commands.estimate import parse_throughput
    from flows.errors import UserError
    from flows.load import load_recipe

    if values and len(axes) != len(values):
        raise UserError(f"found {len(axes)} --axis and {len(values)} --values; every axis needs its values")
    if values:
        grid = [{"axis": axis, "values": parse_values(text)} for axis, text in zip(axes, values, strict=True)]
    else:
        base = load_recipe(recipe, overrides)
        grid = [{"axis": axis, "values": default_values(axis, base)} for axis in axes]
    parameters: dict[str, Any] = {"recipe": recipe, "axes": grid, "seeds": seeds, "store": store_uri}
    parameters |= {"overrides": list(overrides), "student": student}
    request = validate_ablation(**parameters)
    estimate = estimate_ablation(request, default_rates(parse_throughput(throughput), tflops, mfu))
    if not dry_run:
        click.echo(describe_ablation_estimate(estimate), err=True)
    else:
        click.echo(json.dumps({"estimate": estimate}) if as_json else describe_ablation_estimate(estimate))
        return
    result = _run(request, parameters) | {"estimate": estimate}
    if as_json:
        click.echo(json.dumps(result))
        return
    click.echo(_describe(result))
    if request.plan.check("report").state == "done":
        given = [word for line in overrides for word in ("--set", line)] + (["--store", store_uri] if store_uri else [])
        click.echo(f"in the report: {shlex.join(['lightgen', 'open', recipe, *given])}")


def _run(request: Any, parameters: dict[str, Any]) -> dict[str, Any]:
    """Return the result at once where nothing is to do and no server records it, or run the flow."""
    from flows.ablation_outcome import cached_ablation
    from flows.operations.configured import is_server_configured

    quiet_prefect()
    if not is_server_configured() and (result := cached_ablation(request)) is not None:
        return result
    with waiting_bar("server"):
        from flows.ablate import ablate as flow  # within: to load Prefect takes as long as its server
        from flows.operations.server import ensure_server

        ensure_server()
        return flow(**parameters | {"store": request.store.uri})


def _describe(result: dict[str, Any]) -> str:
    """Return the table, where everything is, and how much work was shared."""
    from tasks.ablation_table import ablation_table

    stages = result["stages"]
    shared = f"{stages['of_all_runs']} stages of all runs were {stages['different']} different ones"
    return "\n".join(
        [
            ablation_table(result["results"]),
            f"{shared}: {stages['ran']} made, {stages['cached']} cached, in {result['seconds']:.0f} s",
            f"figure: {result['figure']}",
            f"results: {result['uri']}",
        ]
    )
