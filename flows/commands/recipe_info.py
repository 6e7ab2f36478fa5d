"""Commands that show recipes: which there are, what one resolves to, and which fields they can have."""

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Any, get_args

import click
from click.shell_completion import CompletionItem

from flows.commands.console import table
from flows.commands.options import complete_recipe, json_option, set_option

if TYPE_CHECKING:
    from pydantic import BaseModel
    from pydantic.fields import FieldInfo

MAX_DEFAULT_CHARACTERS = 40
"""Length of a default that `fields` prints whole; --json has all."""


@click.command()
@json_option
def recipes(as_json: bool) -> None:
    """List the recipes that come along."""
    from flows.load import load_recipe, recipe_names

    found = [{"name": name, "purpose": load_recipe(name).purpose} for name in recipe_names()]
    click.echo(json.dumps(found) if as_json else "\n".join(table([tuple(row.values()) for row in found])))


@click.command()
@click.argument("recipe", shell_complete=complete_recipe)
@set_option
@click.option("--all", "everything", is_flag=True, help="Also the fields that have their default.")
@json_option
def show(recipe: str, overrides: tuple[str, ...], everything: bool, as_json: bool) -> None:
    """Print the recipe that RECIPE resolves to.

    With what it extends, its presets and every --set; the output is a recipe itself, which means the same.

    \b
    lightgen show demo > mine.yaml
    """
    import yaml

    from flows.load import load_recipe

    loaded = load_recipe(recipe, overrides)
    fields = {"name": loaded.name} | loaded.model_dump(mode="json", exclude_defaults=not everything)
    student = {part: getattr(loaded.pretrain, part).model_dump(exclude_none=True) for part in ("model", "head")}
    fields["pretrain"] = fields.get("pretrain", {}) | student  # whole: their defaults are the preset's
    click.echo(json.dumps(fields) if as_json else yaml.safe_dump(fields, sort_keys=False, width=120).rstrip())


def complete_section(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return the sections and fields that begin as what was typed, down to the next dot."""
    from tasks.config.recipe import Recipe

    depth = incomplete.count(".") + 1
    names = {".".join(row["field"].split(".")[:depth]) for row in field_rows(Recipe)}
    return [CompletionItem(name) for name in sorted(names) if name.startswith(incomplete)]


@click.command()
@click.argument("section", required=False, metavar="[SECTION|FIELD]", shell_complete=complete_section)
@json_option
def fields(section: str | None, as_json: bool) -> None:
    """Print the fields that a recipe can have.

    Each with its default and what it means; of one SECTION, such as pretrain or pretrain.optimizer, one FIELD, or all.
    """
    from flows.did_you_mean import did_you_mean
    from flows.errors import UserError
    from tasks.config.recipe import Recipe

    model: type[BaseModel] | None = Recipe
    for name in section.split(".") if section else ():
        known = list(model.model_fields) if model else []
        if model is None or name not in known:
            among = (
                f"{did_you_mean(name, known)} Known: {', '.join(known)}." if known else " A field has none below it."
            )
            raise UserError(f"there is no section or field {section!r}.{among}")
        model = _section_of(model.model_fields[name])
    rows = [row for row in field_rows(Recipe) if section is None or f"{row['field']}.".startswith(f"{section}.")]
    click.echo(json.dumps(rows) if as_json else "\n".join(table([_shortened(row) for row in rows])))


def _shortened(row: dict[str, Any]) -> tuple[str, str, str]:
    """Return a row for a terminal, in which one long default would put the meanings of all out of sight."""
    return row["field"], shorten(row["default"], MAX_DEFAULT_CHARACTERS, placeholder=" ..."), row["means"]


def field_rows(
    model: "type[BaseModel]", prefix: str = "", section: "BaseModel | None" = None
) -> Iterator[dict[str, Any]]:
    """Yield name, default and description of each field, those of sections below included.

    section: the model as it is where a recipe says nothing: other defaults than the class' own may follow from where
    it stands, as those of `pretrain.model` do from its preset.
    """
    for name, field in model.model_fields.items():
        below, value = _section_of(field), _default_of(field) if section is None else getattr(section, name)
        if below is not None:
            yield from field_rows(below, f"{prefix}{name}.", value if isinstance(value, below) else None)
        else:
            yield {"field": f"{prefix}{name}", "default": _written(value), "means": field.description or ""}


def _section_of(field: "FieldInfo") -> "type[BaseModel] | None":
    from pydantic import BaseModel

    types = [each for each in (field.annotation, *get_args(field.annotation)) if isinstance(each, type)]
    return next((each for each in types if issubclass(each, BaseModel)), None)


def _default_of(field: "FieldInfo") -> Any:
    return field.get_default(call_default_factory=True, validated_data={})


def _written(value: Any) -> str:
    """Return a default as JSON, or "required"."""
    from pydantic import BaseModel
    from pydantic_core import PydanticUndefined

    if value is PydanticUndefined:
        return "required"
    return json.dumps(value, default=lambda each: each.model_dump() if isinstance(each, BaseModel) else str(each))


@click.command()
def schema() -> None:
    """Print the JSON schema of recipes, for editors.

    \b
    lightgen schema > recipe.schema.json
    # yaml-language-server: $schema=recipe.schema.json      as a recipe's first line
    """
    from tasks.config.recipe import Recipe

    click.echo(json.dumps(_for_files(Recipe.model_json_schema()), indent=1))


def _for_files(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of what may stand in a file: less than a whole recipe, since it may extend another."""
    from lightgen_core.model.presets import PRESETS

    items = re.findall(r'"items": {"\$ref": "#/\$defs/(\w+)"', json.dumps(schema))
    for name, section in [("", schema), *schema["$defs"].items()]:
        if name not in items:
            section.pop("required", None)
    schema["properties"]["extends"] = {"type": "string", "description": "recipe whose fields hold unless set here"}
    model = schema["$defs"]["Pretrain"]["properties"]["model"]
    model["anyOf"] = [{"enum": list(PRESETS)}, {"$ref": model.pop("$ref")}]
    return schema


@click.command()
@click.option("--pictures", metavar="LOCATION", help="Folder, file, s3:// address or hub data set of images.")
@click.option(
    "--captions", metavar="LOCATION", help="Table of captions that names the images, or a list of captions to take."
)
@click.option(
    "--from",
    "base",
    metavar="RECIPE",
    shell_complete=complete_recipe,
    help="Recipe to start from, which the new one extends.",
)
@click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False), required=True, help="File to write.")
def init(pictures: str | None, captions: str | None, base: str | None, output: Path) -> None:
    """Write a short recipe of one's own that runs.

    \b
    lightgen init --pictures photos -o photos.yaml     looks at sizes, captions and their number
    lightgen init --pictures Images --captions captions.txt -o photos.yaml     a table that names them
    lightgen init --from demo -o mine.yaml             extends a recipe that there is
    """
    from flows.commands.init import recipe_from, recipe_of_images
    from flows.errors import UserError
    from flows.load import load_recipe

    if (pictures is None) == (base is None):
        raise UserError("give --pictures LOCATION for a recipe of own images, or --from RECIPE for one that extends it")
    if captions and not pictures:
        raise UserError("--captions goes with --pictures: it says where their captions lie")
    if output.exists():
        raise UserError(f"{output} is there already; name another file with -o")
    output.parent.mkdir(parents=True, exist_ok=True)
    if base:
        text = recipe_from(base, load_recipe(base).purpose, output)
    else:
        text = recipe_of_images(str(pictures), captions, output)
    output.write_text(text, encoding="utf-8")
    load_recipe(str(output))
    quoted = shlex.quote(str(output))
    click.echo(f"{output} is written; next:\nlightgen doctor {quoted}\nlightgen run {quoted}")


RECIPE_INFO = (init, recipes, show, fields, schema)
