"""`lightgen table`: the paper's tables and those of its peers, with own results beside them."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flows.commands.options import complete_recipe, json_option, store_option

if TYPE_CHECKING:
    from flows.commands.table_rows import TableRow
    from lightgen_core.evaluation.published import PublishedTable


@click.command()
@click.argument("name", required=False)
@click.argument("results", nargs=-1, metavar="[RESULT]...", shell_complete=complete_recipe)
@click.option("--commands", is_flag=True, help="Print the `lightgen eval` of each model that can be run.")
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="Write it to this file.")
@store_option
@json_option
def table(
    name: str | None,
    results: tuple[str, ...],
    commands: bool,
    output: Path | None,
    store_uri: str | None,
    as_json: bool,
) -> None:
    """Print a table of published scores, and yours beside them.

    NAME is 1, 2 or 3, the paper's tables, or peers; without it they are listed. RESULT is a folder that `lightgen
    eval -o` has written, or a student in a store with its evaluation: a recipe, STAGE/KEY, a folder. Results on the
    scene world stand apart, those of other benchmarks are refused.

    \b
    lightgen table 2
    lightgen table 2 scored demo
    lightgen table peers --commands
    """
    from flows.commands.table_markdown import describe_commands, describe_table
    from flows.errors import UserError

    if name is None:
        click.echo(_listed(as_json))
        return
    chosen = find_table(name)
    if commands and (results or as_json):
        raise UserError("--commands prints lines for a shell: give it without RESULT and --json")
    if commands:
        text = describe_commands(chosen)
    else:
        rows, scenes = table_with_results(chosen, results, store_uri)
        text = _as_json(name, chosen, rows, scenes) if as_json else describe_table(chosen, rows, scenes)
    if output is None:
        click.echo(text)
        return
    try:
        output.write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise UserError(f"{output} cannot be written: {error.strerror}") from error


def find_table(name: str) -> "PublishedTable":
    """Return a table by its name. Raises UserError."""
    from flows.did_you_mean import did_you_mean
    from flows.errors import UserError
    from lightgen_core.evaluation.published import published

    tables = published().tables
    if name not in tables:
        raise UserError(f"there is no table {name!r}; there are {', '.join(tables)}.{did_you_mean(name, tables)}")
    return tables[name]


def table_with_results(
    table: "PublishedTable", results: tuple[str, ...], store_uri: str | None
) -> tuple[list["TableRow"], list["TableRow"]]:
    """Return a table's rows with measured ones below the published row of the same model, and rows of the scene world.

    Raises:
        UserError: no such result, or one of another benchmark.
    """
    from flows.commands.table_rows import evaluated_rows, is_evaluation, published_rows
    from flows.commands.table_runs import run_rows
    from flows.errors import UserError

    rows, scenes = published_rows(table), []
    for result in results:
        found = evaluated_rows(result, table) if is_evaluation(result) else run_rows(result, store_uri, table)
        for row in found.rows:
            if row.benchmark == "scene":
                scenes.append(row)
            elif row.benchmark == table.benchmark:
                rows.insert(_place(rows, row), row)
            else:
                raise UserError(
                    f"{found.where} was scored by {row.benchmark}, and the rows of this table by {table.benchmark}: "
                    f"they do not compare. Score it with lightgen eval ... --benchmark {table.benchmark} -o FOLDER"
                )
    return rows, scenes


def _place(rows: list["TableRow"], row: "TableRow") -> int:
    """Return the index below the last row of the same model; the end for a model that the table does not have."""
    same = [number for number, other in enumerate(rows) if row.matches and other.matches == row.matches]
    return same[-1] + 1 if same else len(rows)


def _listed(as_json: bool) -> str:
    from flows.commands.console import table as aligned
    from lightgen_core.evaluation.published import published

    titles = {name: each.title for name, each in published().tables.items()}
    return json.dumps({"tables": titles}) if as_json else "\n".join(aligned(list(titles.items())))


def _as_json(name: str, table: "PublishedTable", rows: list["TableRow"], scenes: list["TableRow"]) -> str:
    from flows.commands.table_rows import SCENE_MARK

    result: dict[str, Any] = {"table": name, "title": table.title, "benchmark": table.benchmark, "note": table.note}
    result["rows"] = [row.as_dict() for row in rows]
    result["not_comparable"] = [row.as_dict() | {"mark": SCENE_MARK} for row in scenes]
    return json.dumps(result)
