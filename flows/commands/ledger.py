"""`lightgen ledger`: what a student has cost, stage by stage, beside what was estimated."""

import json
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import click

from flows.commands.console import format_bytes, table
from flows.commands.options import complete_recipe, json_option, set_option, store_option

if TYPE_CHECKING:
    from flows.commands.estimate import Rates
    from flows.plan import PlannedStage
    from storage.cost import Cost
    from tasks.config.recipe import Recipe
    from tasks.config.settings import Settings

NOT_OF_STUDENT = ("evaluation", "report")
ROUND = re.compile(r"[a-z_]+(-\d+)?")
"""Labels of the student's stages and rounds; those of the control name its objective too, `dpo-sft-2`."""


@click.command()
@click.argument("name", metavar="RECIPE|STAGE/KEY", shell_complete=complete_recipe)
@store_option
@set_option
@click.option("--throughput", multiple=True, metavar="STAGE=N", help="Items per second of a stage, for the estimate.")
@click.option(
    "--tflops", type=click.FloatRange(min=0, min_open=True), default=989.0, help="Peak of the device, for the estimate."
)
@click.option("--mfu", type=click.FloatRange(0, 1, min_open=True), default=0.4, help="Share of it that is reached.")
@json_option
def ledger(
    name: str,
    store_uri: str | None,
    overrides: tuple[str, ...],
    throughput: tuple[str, ...],
    tflops: float,
    mfu: float,
    as_json: bool,
) -> None:
    """Say what a student has cost, captions to last tuning.

    Of RECIPE every stage and round, unfinished ones too, beside its estimate; of STAGE/KEY all that the artifact was
    made from. LIGHTGEN_PRICES gives the money of an hour of each device.

    \b
    lightgen ledger demo
    lightgen ledger dpo/41c0 --json
    """
    from flows.commands.estimate import Rates, parse_throughput
    from flows.distill import ALL_NAMES
    from flows.errors import UserError
    from tasks.config.settings import Settings

    settings, (stage, slash, _) = Settings(), name.partition("/")
    if slash and stage in ALL_NAMES:
        if overrides:
            raise UserError(f"--set changes a recipe, and {name} is an artifact; name the recipe, or drop --set")
        result = ledger_of_artifact(name, store_uri, settings)
    else:
        rates = Rates(parse_throughput(throughput), tflops, mfu)
        result = ledger_of_recipe(name, overrides, store_uri, settings, rates)
    click.echo(json.dumps(result) if as_json else describe_ledger(result))


def ledger_of_recipe(
    name: str, overrides: tuple[str, ...], store_uri: str | None, settings: "Settings", rates: "Rates"
) -> dict[str, Any]:
    """Return the ledger of a recipe's stages in a store, with the estimate of each. Raises UserError if all are new."""
    from flows.errors import UserError
    from flows.load import load_recipe
    from flows.plan import plan
    from storage.open_store import open_store

    planner = plan(load_recipe(name, overrides), open_store(store_uri or settings.store))
    rows, costs = [], {}
    for label, planned in planner.stages.items():
        row, cost = _planned_row(label, planned, planner.check(label).state, settings)
        rows.append(row)
        costs[label] = cost
    if not any(cost.attempts for cost in costs.values()):
        raise UserError(
            f"nothing of {planner.recipe.name} as it stands is in {planner.store.uri} "
            f"({planner.explain('captions')}).\nName another store with --store, what was overridden with --set, or an "
            "artifact as STAGE/KEY; `lightgen store ls` lists them"
        )
    estimates, unknown = _estimates(planner.recipe, rates)
    rows = [row | {"estimate": estimates.get(row["stage"].partition("-")[0])} for row in rows]
    head = {"recipe": planner.recipe.name, "store": planner.store.uri}
    return head | _result(rows, costs, settings) | {"lost": [], "estimate_unknown": unknown}


def ledger_of_artifact(name: str, store_uri: str | None, settings: "Settings") -> dict[str, Any]:
    """Return the ledger of an artifact and of all that it was made from. Raises UserError if it is not finished."""
    from flows.commands.lineage import trace_lineage
    from flows.commands.store_commands import find_artifact
    from flows.errors import UserError
    from storage.artifact import CorruptArtifact
    from tasks.ledger import cost_of, ledger_row

    artifact = find_artifact(name, store_uri)
    try:
        lineage = trace_lineage(artifact)
    except CorruptArtifact as error:
        raise UserError(f"{error}. Run its recipe again to finish it, or name the recipe.") from error
    read = {key for manifest in lineage.manifests.values() for key in manifest.inputs.values()} | {artifact.key}
    manifests = {label: each for label, each in lineage.ordered.items() if each.key in read}
    rows = [ledger_row(label, each, settings.prices) | {"estimate": None} for label, each in manifests.items()]
    costs = {label: cost_of(each) for label, each in manifests.items()}
    head = {"artifact": artifact.path, "store": artifact.store.uri}
    return head | _result(rows, costs, settings) | {"lost": list(lineage.lost), "estimate_unknown": None}


def _planned_row(
    label: str, planned: "PlannedStage", state: str, settings: "Settings"
) -> tuple[dict[str, Any], "Cost"]:
    """Return the row and the cost of a stage, of an unfinished one what was spent on it so far."""
    from tasks.context.scratch import Scratch
    from tasks.context.spent import spent
    from tasks.ledger import cost_of, describe_cost, ledger_row

    artifact = planned.artifact
    if state == "done":
        manifest = artifact.manifest()
        return ledger_row(label, manifest, settings.prices), cost_of(manifest)
    cost = spent(artifact, Scratch(artifact, settings), on_device=planned.stage.on_device(planned.recipe))
    row = {"stage": label, "key": artifact.key, "state": state, "measured": True, "rows": 0, "reused": 0, "bytes": 0}
    return row | describe_cost(cost, settings.prices), cost


def _estimates(recipe: "Recipe", rates: "Rates") -> tuple[dict[str, dict[str, Any]], str | None]:
    """Return the estimate of each stage, of tuning that of one round; and the reason why there is none."""
    from flows.commands.estimate import estimate
    from flows.errors import UnknownModelSize

    try:
        result = estimate(recipe, rates)
    except UnknownModelSize as error:
        return {}, str(error)
    rounds = recipe.dpo.rounds * (1 if recipe.dpo.control == "none" else 2)
    found = {}
    for row in result["stages"]:
        share = rounds if row["stage"] in ("pairs", "dpo") else 1
        names = ("bytes", "flops", "device_hours")
        found[row["stage"]] = {name: None if row[name] is None else row[name] / share for name in names}
    return found, None


def _result(rows: list[dict[str, Any]], costs: Mapping[str, "Cost"], settings: "Settings") -> dict[str, Any]:
    """Return rows, totals of the student and of all, and the paper's figure beside them."""
    from tasks.ledger import PAPER, total_cost

    of_student = [
        cost for label, cost in costs.items() if label not in NOT_OF_STUDENT and ROUND.fullmatch(label.split(" ")[0])
    ]
    student, everything = (total_cost(each, settings.prices) for each in (of_student, costs.values()))
    pretrain = costs["pretrain"].device_seconds / 86400 if "pretrain" in costs else 0.0
    days = {"pretrain_device_days": pretrain, "student_device_days": student["device_seconds"] / 86400}
    return {"stages": rows, "student": student, "total": everything, "paper": PAPER | days}


def describe_ledger(result: Mapping[str, Any]) -> str:
    """Return a ledger as a table, and below it what it leaves out."""
    head = ("stage", "state", "runs", "processes", "time", "waiting", "at work", "CPU", "device", "FLOPs", "estimated")
    rows: list[tuple[str, ...]] = [(*head, "disk", "estimated", "energy", "money")]
    rows += [_cells(row["stage"], row) for row in result["stages"]]
    rows += [_cells("student", result["student"]), _cells("in all", result["total"])]
    shown = [column for column in range(len(rows[0])) if any(row[column] for row in rows[1:])]
    return "\n".join([*table([[row[column] for column in shown] for row in rows]), "", *_notes(result)])


def _cells(name: str, row: Mapping[str, Any]) -> tuple[str, ...]:
    from lightgen_core.report.formats import format_duration

    def count(value: float | None) -> str:
        return "" if value is None else format(value, ".3g")

    expected = row.get("estimate") or {"flops": None, "bytes": None}
    seconds = ("seconds", "waiting_seconds", "busy_seconds", "cpu_seconds", "device_seconds")
    return (
        name,
        row.get("state", ""),
        str(row["attempts"]),
        str(row["processes"]),
        *(format_duration(row[column]) for column in seconds),
        count(row["flops"]),
        count(expected["flops"]),
        format_bytes(row.get("bytes", row["bytes_written"])),
        "" if expected["bytes"] is None else format_bytes(expected["bytes"]),
        "" if row["joules"] is None else f"{row['joules'] / 3.6e6:.3g} kWh",
        "" if row["money"] is None else f"{row['money']:,.4g}",
    )


def _notes(result: Mapping[str, Any]) -> Iterator[str]:
    paper, total, rows = result["paper"], result["total"], result["stages"]
    yield "student: without its evaluation, the report and the control of preference tuning"
    yield (
        f"paper: {paper['device_days']} {paper['device']}-days of {paper['of']}; here "
        f"{paper['pretrain_device_days']:.4g} device-days of it, "
        f"{paper['student_device_days']:.4g} of the student in all"
    )
    yield from (f"device: {device['name']}, {device['id']}" for device in total["devices"])
    if reused := sum(row["reused"] for row in rows):
        yield f"{reused:,} rows came from earlier artifacts; their cost is in the ledger of those"
    yield from (f"not measured: {reason}" for reason in total["not_measured"])
    if total["unpriced"]:
        yield f"without a price in LIGHTGEN_PRICES: {', '.join(total['unpriced'])}"
    if result["lost"]:
        yield f"no longer in the store, so not counted: {', '.join(result['lost'])}"
    if result["estimate_unknown"]:
        yield f"no estimate: {result['estimate_unknown']}"
