"""The flow's parameters as a form in the Prefect UI, derived from `Recipe`.

Each type here is lax in Python, so that a wrong value meets the same checks and messages as on the command line; its
JSON schema is what the UI draws and the server enforces. The UI draws `anyOf` as tabs titled after its members: an
empty object first keeps a section closed until it is opened. Choices and switches are drop-downs that begin with None;
a bare switch would be sent as false though nobody touched it. The UI refuses a default of null unless the schema
allows null, and draws the type null as `Property is type "None"`, so null is a choice.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import GetJsonSchemaHandler, WithJsonSchema
from pydantic_core import CoreSchema

from flows.distill import ALL_NAMES
from flows.load import recipe_names
from lightgen_core.config import Section
from tasks.config.recipe import Recipe

DESCRIPTIVE_FIELDS = ("name", "purpose", "smoke_test")
"""Fields that describe a recipe and do not affect its artifacts."""
UNCHANGED = {"title": "as in the recipe", "type": "object", "properties": {}, "additionalProperties": False}
NONE = {"title": "none", "enum": [None]}
MAX_DEFAULT_CHARACTERS = 80
"""Length of the longest default that is shown beside its field."""


def _tab(title: str, kind: str, **fields: Any) -> dict[str, Any]:
    return {"title": title, "type": kind, **fields}


_INCLUDED = _tab("comes with LightGen", "string", enum=recipe_names())
_STAGES = {"type": "string", "enum": ["all", *ALL_NAMES]}

RecipeName = Annotated[str, WithJsonSchema({"anyOf": [_INCLUDED, _tab("path of a YAML file", "string")]})]
StoreAddress = Annotated[
    str | None,
    WithJsonSchema({"anyOf": [_tab("folder or URL", "string"), {"title": "LIGHTGEN_STORE", "enum": [None]}]}),
]
StageName = Annotated[str | None, WithJsonSchema({"enum": [None, *ALL_NAMES]})]
StageNames = Annotated[Sequence[str], WithJsonSchema({"type": "array", "items": _STAGES, "uniqueItems": True})]


class _Changes(Section):
    recipe: Recipe  # inside another model its schema becomes a definition, as those of its sections do


class _RecipeSchema:
    """Schema of a recipe with every field optional, or lines `section.field=value`."""

    def __get_pydantic_json_schema__(self, given: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        changes = handler.resolve_ref_schema(handler(_Changes.__pydantic_core_schema__))
        recipe = changes["properties"]["recipe"]
        whole = _loosen(recipe, handler, set())
        whole["title"] = "form"
        for name in DESCRIPTIVE_FIELDS:
            del whole["properties"][name]
        lines = _tab("section.field=value", "array", items={"type": "string"})
        return {"anyOf": [NONE, recipe, lines]}


Overrides = Annotated[Mapping[str, Any] | Sequence[str] | None, _RecipeSchema()]
"""Changes to a recipe: nested mappings of its sections and fields, in which None changes nothing, or lines."""


def _loosen(reference: Mapping[str, Any], handler: GetJsonSchemaHandler, seen: set[str]) -> dict[str, Any]:
    """Make every field of a section and its subsections optional; return its schema."""
    section = handler.resolve_ref_schema(dict(reference))
    if reference["$ref"] in seen:
        return section
    seen.add(reference["$ref"])
    section.pop("required", None)
    section["title"] = "change"
    for name, field in section["properties"].items():
        (inner,) = [_loosen(kind, handler, seen) for kind in _kinds(field) if "$ref" in kind] or [{}]
        section["properties"][name] = {"title": name} | _optional(inner | field)
        for kind in _kinds(field):
            if "$ref" in (item := kind.get("items", {})):
                _choose_null(handler.resolve_ref_schema(dict(item)))
    return section


def _choose_null(item: dict[str, Any]) -> None:
    """Make null a choice in the fields of a list's items, which otherwise stay as they are."""
    for field in item["properties"].values():
        if "anyOf" in field:
            field["anyOf"] = [*_kinds(field), *([NONE] if len(_kinds(field)) < len(field["anyOf"]) else [])]


def _kinds(field: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the alternatives of a field, except null."""
    return [kind for kind in field.get("anyOf", (field,)) if kind.get("type") != "null"]


def _optional(field: Mapping[str, Any]) -> dict[str, Any]:
    """Return an optional field; its default is only described, since the form would send a value."""
    described = {"description": _describe(field)}
    kind = _kinds(field)[0]
    if "$ref" in kind:
        return described | {"anyOf": [UNCHANGED, {"$ref": kind["$ref"]}]}
    if kind["type"] == "boolean":
        return described | {"enum": [None, True, False]}
    if "enum" in kind:
        return described | {"enum": [None, *kind["enum"]]}
    return {key: value for key, value in kind.items() if key not in ("title", "default")} | described


def _describe(field: Mapping[str, Any]) -> str:
    """Return a field's description, and its default unless that is long."""
    meaning, default = field.get("description", ""), field.get("default", {})
    shown = "" if isinstance(default, dict) else _shown(default)
    return f"{meaning} (default {shown})" if 0 < len(shown) <= MAX_DEFAULT_CHARACTERS else meaning


def _shown(value: Any) -> str:
    """Return a default as the form shows it."""
    if isinstance(value, list):
        return ", ".join(map(_shown, value)) or "none"
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)
