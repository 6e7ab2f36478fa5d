"""From a recipe's name or path and overrides to a validated `Recipe`, or to an error a person can act on."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from ruamel.yaml import YAML, YAMLError
from ruamel.yaml.error import MarkedYAMLError

from flows.did_you_mean import did_you_mean
from flows.errors import UserError
from flows.recipes import FOLDER, recipe_names
from tasks.config.recipe import Recipe


def load_recipe(name_or_path: str, overrides: Mapping[str, Any] | Sequence[str] | None = None) -> Recipe:
    """Read a recipe and apply overrides.

    Args:
        overrides: lines `section.field=value`, or nested mappings of sections and fields as the form in the Prefect UI
            gives them, in which None leaves a field as the recipe says.

    Raises:
        UserError: no such recipe, no YAML mapping, an unknown key, a value out of range.
    """
    path = _recipe_path(name_or_path)
    raw = {"name": path.stem} | _read(path)
    if isinstance(overrides, Mapping):
        for names, value in _form_fields(overrides, Recipe):
            _set_field(raw, names, value, ".".join(names))
    else:
        for line in overrides or ():
            _apply_override(raw, line)
    try:
        return Recipe.model_validate(raw)
    except ValidationError as error:
        raise UserError(_explain(f"{path} with its overrides" if overrides else str(path), error)) from error


def _read(path: Path, below: tuple[Path, ...] = ()) -> dict[str, Any]:
    """Return the fields of a recipe's file, on top of those of the recipe that it `extends`, which keeps its name."""
    try:
        raw = parse_yaml(path.read_text())
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not a text in UTF-8, so no recipe") from error
    except YAMLError as error:
        raise UserError(f"{path} is not YAML: {_without_content(error)}") from error
    if not isinstance(raw, dict):
        raise UserError(f"{path} holds {type(raw).__name__}, not a mapping of recipe sections such as 'captions:'")
    if (base := raw.pop("extends", None)) is None:
        return raw
    if not isinstance(base, str):
        raise UserError(f"{path}: extends is {base!r}; expected a recipe's name, or the path of a file")
    extended = _recipe_path(base, path.parent)
    chain = (*below, path.resolve())
    if extended.resolve() in chain:
        raise UserError(f"{path} extends {base}, which extends it: {' -> '.join(each.name for each in chain)}")
    fields = _read(extended, chain)
    fields.pop("name", None)
    return _merge(fields, raw)


def _merge(base: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return nested mappings with changes on top; anything that is no mapping is replaced as a whole."""
    merged = dict(base)
    for name, value in changes.items():
        below = _as_section(name, merged.get(name))
        merged[name] = _merge(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return merged


def _as_section(name: str, value: Any) -> Any:
    """Return a section as a mapping: a model may be given by the name of its preset alone."""
    return {"preset": value} if name == "model" and isinstance(value, str) else value


def _recipe_path(name: str, folder: Path = Path()) -> Path:
    """Return the file of a recipe that comes along, or of a path, relative to a folder."""
    for path in (FOLDER / f"{name}.yaml", folder / name):
        if path.is_file():
            return path
    names = ", ".join(recipe_names())
    if "/" in name or name.endswith((".yaml", ".yml")):
        raise UserError(f"there is no file {name!r}; give a recipe's YAML file, or one that comes along: {names}")
    hint = did_you_mean(name, recipe_names())
    raise UserError(f"there is no recipe {name!r}.{hint} Known: {names}; or give the path of a YAML file.")


def parse_yaml(text: str) -> Any:
    """Return the value of a YAML 1.2 text: no key twice, `yes` is a string and 010 is ten."""
    return YAML(typ="safe", pure=True).load(text)


def _without_content(error: YAMLError) -> str:
    """Describe an error without a line of the file: it may be a secret that was named by mistake."""
    if isinstance(error, MarkedYAMLError) and (mark := error.problem_mark):
        problem = str(error.problem).partition(" with value ")[0]  # of a key that is there twice
        return f"{problem}, in line {mark.line + 1}, column {mark.column + 1}"
    return type(error).__name__


def _apply_override(raw: dict[str, Any], override: str) -> None:
    name, separator, text = override.partition("=")
    if not separator or not name:
        raise UserError(f"--set {override!r} is not of the form section.field=value, for example pretrain.steps=2000")
    try:
        value = parse_yaml(text)
    except YAMLError as error:
        raise UserError(f"--set {override!r}: {text!r} is not a YAML value") from error
    _set_field(raw, tuple(name.split(".")), value, f"--set {override!r}")


def override_lines(overrides: Mapping[str, Any]) -> list[str]:
    """Return overrides as lines `section.field=value`.

    Args:
        overrides: fields by dotted name, in sections or both: {"pretrain.steps": 100}, {"pretrain": {"steps": 100}}.

    Raises:
        UserError: a value that is not plain data.
    """
    lines = []
    for name, value in _flat_fields(overrides, Recipe):
        try:
            lines.append(f"{name}={json.dumps(value, ensure_ascii=False, allow_nan=False)}")
        except (TypeError, ValueError) as error:
            raise UserError(
                f"{name} is set to {value!r}: {error}; a field takes a number, a text, true or false, a list or a "
                "mapping"
            ) from error
    return lines


def _flat_fields(fields: Mapping[str, Any], model: type[BaseModel] | None) -> Iterator[tuple[str, Any]]:
    """Yield dotted name and value of every field; a mapping that is no section is a value."""
    for name, value in fields.items():
        section = model
        for part in name.split("."):
            section = _section(section, part)
        if section is not None and isinstance(value, Mapping):
            yield from ((f"{name}.{inner}", below) for inner, below in _flat_fields(value, section))
        else:
            yield name, str(value) if isinstance(value, Path) else value


def _form_fields(form: Mapping[str, Any], model: type[BaseModel] | None) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield path and value of every field that a form sets; a mapping that is no section is a value."""
    for name, value in form.items():
        section = _section(model, name)
        if section is not None and isinstance(value, Mapping):
            yield from (((name, *names), inner) for names, inner in _form_fields(value, section))
        elif value is not None:
            yield (name,), value


def _set_field(raw: dict[str, Any], names: tuple[str, ...], value: Any, origin: str) -> None:
    *sections, field = names
    for section in sections:
        raw[section] = {} if raw.get(section) is None else _as_section(section, raw[section])
        raw = raw[section]
        if not isinstance(raw, dict):
            raise UserError(f"{origin}: {section!r} is a value, not a section")
    raw[field] = value


def _explain(origin: str, error: ValidationError) -> str:
    lines = [f"recipe {origin} is not valid:"]
    for fault in error.errors():
        name = ".".join(str(part) for part in fault["loc"]) or "the recipe"
        if fault["type"] == "extra_forbidden":
            lines.append(f"  {name}: unknown field.{_nearest(fault['loc'])}")
        elif fault["type"] == "model_type":
            lines.append(f"  {name}: found {fault['input']!r}; a section takes its fields, as in {name}.field=value")
        elif fault["type"] == "missing":
            lines.append(f"  {name}: is missing, and has no default")
        else:
            # Of a whole section the message names the fields that do not fit; the others would bury it.
            found = "" if _names_section(fault["loc"]) else f"found {fault['input']!r}; "
            message = fault["msg"].removeprefix("Value error, ")
            lines.append(f"  {name}: {found}{message[:1].lower() + message[1:]}")
    return "\n".join(lines)


def _nearest(location: tuple[int | str, ...]) -> str:
    """Return the field that an unknown one may mean, or all fields of its section."""
    model: type[BaseModel] | None = Recipe
    for part in location[:-1]:
        model = _section(model, str(part))
    if model is None:
        return ""
    if new := getattr(model, "renamed", {}).get(location[-1]):
        return f" It is now called {new}."
    fields = model.model_fields
    if len(location) == 1 and (homes := _sections_with(str(location[0]))):
        return f" Did you mean {' or '.join(homes)}?"
    return did_you_mean(str(location[-1]), fields) or f" Known here: {', '.join(fields)}."


def _sections_with(field: str) -> list[str]:
    """Return the fields of this name in the sections of a recipe, as section.field."""
    sections = {name: _section(Recipe, name) for name in Recipe.model_fields}
    return [f"{name}.{field}" for name, section in sections.items() if section and field in section.model_fields]


def _names_section(location: tuple[int | str, ...]) -> bool:
    """Return whether a location is the recipe or a section of it."""
    model: type[BaseModel] | None = Recipe
    for part in location:
        model = _section(model, str(part))
    return model is not None


def _section(model: type[BaseModel] | None, name: str) -> type[BaseModel] | None:
    """Return the type of a model's field if it is a section, or an optional one."""
    if model is None or name not in model.model_fields:
        return None
    annotation = model.model_fields[name].annotation
    types = [each for each in (annotation, *get_args(annotation)) if isinstance(each, type)]
    return next((each for each in types if issubclass(each, BaseModel)), None)
