"""`lightgen open`: show a recipe's report in the browser."""

import webbrowser

import click

from flows.commands.options import set_option, store_option


@click.command("open")
@click.argument("recipe")
@store_option
@set_option
def open_report(recipe: str, store_uri: str | None, overrides: tuple[str, ...]) -> None:
    """Open the report of RECIPE in a browser.

    \b
    lightgen open demo
    """
    from pathlib import Path

    from flows.errors import UserError
    from flows.load import load_recipe
    from flows.plan import plan
    from storage.open_store import open_store
    from tasks.config.settings import Settings

    settings = Settings()
    planner = plan(load_recipe(recipe, overrides), open_store(store_uri or settings.store))
    status = planner.check("report")
    if status.state != "done":
        raise UserError(
            f"the report of {recipe} is {status.state} in {planner.store.uri} ({planner.explain('report')}).\n"
            f"Make it, with the same --set and --store: lightgen run {recipe}"
        )
    page = planner.artifacts["report"].local("report.html", Path(settings.scratch).expanduser() / "inputs")
    click.echo(page.as_uri())
    webbrowser.open(page.as_uri())
