"""Options and parameter types shared by several commands."""

from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

from flows.recipes import recipe_names

POSITIVE = click.IntRange(min=1)
SEED = click.IntRange(min=0)
FILE = click.Path(path_type=Path, exists=True, dir_okay=False)
FOLDER = click.Path(path_type=Path, file_okay=False)


def complete_recipe(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return the recipes that come along and begin as what was typed, else any file."""
    names = [CompletionItem(name) for name in recipe_names() if name.startswith(incomplete)]
    return names or [CompletionItem(incomplete, type="file")]


def complete_stage(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return the stages that begin as what was typed; those to refresh may be all."""
    from flows.distill import ALL_NAMES

    names = [*ALL_NAMES, *(["all"] if parameter.name == "refresh" else [])]
    return [CompletionItem(name) for name in names if name.startswith(incomplete)]


store_option = click.option(
    "--store", "store_uri", metavar="URI", help="Folder or fsspec URL of the artifacts; LIGHTGEN_STORE by default."
)
set_option = click.option(
    "--set", "overrides", multiple=True, metavar="FIELD=VALUE", help="Override one field, e.g. pretrain.steps=2000."
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else.")


def drop_unset(**options: Any) -> dict[str, Any]:
    """Return the options that are not None."""
    return {name: value for name, value in options.items() if value is not None}
