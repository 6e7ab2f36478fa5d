"""From a recipe's name or path and overrides to a validated `Recipe`, or to an error a person can act on."""

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from tasks.recipe import Recipe

FOLDER = Path(__file__).parent / "recipes"


class UserError(Exception):
    """The caller's input is wrong; the message says what was found, what is wanted, and what to do next."""


def recipe_names() -> list[str]:
    """Return the names of the recipes that come with the package."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def load_recipe(name_or_path: str, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe and apply overrides of the form `section.field=value`.

    Raises:
        UserError: no such recipe, no YAML mapping, an unknown key, a value out of range.
    """
    path = _find(name_or_path)
    try:
        raw = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not YAML: {error}") from error
    if not isinstance(raw, dict):
        raise UserError(f"{path} holds {type(raw).__name__}, not a mapping of recipe sections such as 'captions:'")
    for override in overrides:
        _set(raw, override)
    try:
        return Recipe.model_validate({"name": path.stem, **raw})
    except ValidationError as error:
        raise UserError(_explain(path, error)) from error


def _find(name_or_path: str) -> Path:
    inside = FOLDER / f"{name_or_path}.yaml"
    for path in (inside, Path(name_or_path)):
        if path.is_file():
            return path
    near = difflib.get_close_matches(name_or_path, recipe_names(), n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    known = ", ".join(recipe_names())
    raise UserError(f"there is no recipe {name_or_path!r}.{hint} Known: {known}; or give the path of a YAML file.")


def _set(raw: dict[str, Any], override: str) -> None:
    name, separator, text = override.partition("=")
    if not separator or not name:
        raise UserError(f"--set {override!r} is not of the form section.field=value, for example pretrain.steps=2000")
    *sections, last = name.split(".")
    place = raw
    for section in sections:
        place = place.setdefault(section, {})
        if not isinstance(place, dict):
            raise UserError(f"--set {override!r}: {section!r} is a value, not a section")
    try:
        place[last] = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(f"--set {override!r}: {text!r} is not a YAML value") from error


def _explain(path: Path, error: ValidationError) -> str:
    lines = [f"recipe {path} is not valid:"]
    for fault in error.errors():
        name = ".".join(str(part) for part in fault["loc"]) or "the recipe"
        if fault["type"] == "extra_forbidden":
            lines.append(f"  {name}: unknown field.{_nearest(fault['loc'])}")
        elif fault["type"] == "missing":
            lines.append(f"  {name}: is missing, and has no default")
        else:
            found = f"found {fault['input']!r}; " if fault["loc"] else ""
            lines.append(f"  {name}: {found}{fault['msg'][:1].lower() + fault['msg'][1:]}")
    return "\n".join(lines)


def _nearest(location: tuple[int | str, ...]) -> str:
    """Name the known fields beside an unknown one, the nearest first."""
    model: type[BaseModel] = Recipe
    for part in location[:-1]:
        annotation = model.model_fields[str(part)].annotation
        sections = [
            each for each in (annotation, *get_args(annotation)) if isinstance(each, type)
        ]  # it may be optional
        model = next((each for each in sections if issubclass(each, BaseModel)), BaseModel)
        if model is BaseModel:
            return ""
    known = list(model.model_fields)
    near = difflib.get_close_matches(str(location[-1]), known, n=1)
    return f" Did you mean {near[0]!r}?" if near else f" Known here: {', '.join(known)}."
