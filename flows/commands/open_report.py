"""`lightgen open`: show a report in the browser."""

import webbrowser
from typing import TYPE_CHECKING

import click

from flows.commands.options import complete_recipe, set_option, store_option

if TYPE_CHECKING:
    from storage.artifact import Artifact
    from storage.store import Store


@click.command("open")
@click.argument("what", metavar="RECIPE|report/KEY", shell_complete=complete_recipe)
@store_option
@set_option
def open_report(what: str, store_uri: str | None, overrides: tuple[str, ...]) -> None:
    """Open the report of a recipe in a browser.

    Where the store holds an earlier run of the same name, its student is shown beside this one: changed fields,
    scores with paired intervals, images of the same captions. Ablations of the student (`lightgen ablate`) are
    shown too: score against guidance, steps or any other field.

    \b
    lightgen open demo
    lightgen open report/8cf2       by the first digits of its key
    """
    from pathlib import Path

    from flows.commands.opened_report import page_to_open
    from storage.open_store import open_store
    from tasks.config.settings import Settings

    settings = Settings()
    report = _find_report(what, open_store(store_uri or settings.store), overrides)
    page = page_to_open(report, Path(settings.scratch).expanduser())
    click.echo(page.as_uri())
    webbrowser.open(page.as_uri())


def _find_report(what: str, store: "Store", overrides: tuple[str, ...]) -> "Artifact":
    """Return a finished report. Raises UserError."""
    from flows.checkpoint import find_artifact
    from flows.errors import UserError
    from flows.load import load_recipe
    from flows.plan import plan

    if what.startswith("report/"):
        if overrides:
            raise UserError(f"--set changes fields of a recipe, and {what} is a report: leave it out")
        report = find_artifact(store, "report", what.removeprefix("report/"))
        if (status := report.check()).state != "done":
            raise UserError(f"{report.uri} is {status.state} ({status.reason}). Run its recipe again to finish it.")
        return report
    planner = plan(load_recipe(what, overrides), store)
    status = planner.check("report")
    if status.state != "done":
        raise UserError(
            f"the report of {what} is {status.state} in {store.uri} ({planner.explain('report')}).\n"
            f"Make it, with the same --set and --store: lightgen run {what}"
        )
    return planner.artifacts["report"]
