"""docker-compose.yml as data: its variables filled in, for tests and for running its services without Docker."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from tests.support.paths import ROOT

COMPOSE = ROOT / "docker-compose.yml"
EXAMPLE = ROOT / ".env.example"

_VARIABLE = re.compile(r"\$(?:(?P<dollar>\$)|\{(?P<name>\w+)(?::(?P<kind>[-?])(?P<rest>[^}]*))?\})")
"""`$$`, `${NAME}`, `${NAME:-default}` and `${NAME:?message}`; the file uses no other form."""


def compose() -> dict[str, Any]:
    """Return the file with its anchors merged and its variables as they stand."""
    return yaml.safe_load(COMPOSE.read_text())


def services() -> dict[str, dict[str, Any]]:
    """Return the services by name."""
    return compose()["services"]


def variables(value: Any) -> Iterator[tuple[str, str]]:
    """Yield name and kind (`-` with a default, `?` required, or nothing) of each variable in a part of the file."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list):
        for part in value:
            yield from variables(part)
    elif isinstance(value, str):
        yield from ((found["name"], found["kind"] or "") for found in _VARIABLE.finditer(value) if found["name"])


def filled(value: Any, given: Mapping[str, str]) -> Any:
    """Return a part of the file with its variables filled in as Compose does.

    Raises:
        KeyError: a variable without a default has no value.
    """
    if isinstance(value, Mapping):
        return {name: filled(part, given) for name, part in value.items()}
    if isinstance(value, list):
        return [filled(part, given) for part in value]
    return _VARIABLE.sub(lambda found: _value(found, given), value) if isinstance(value, str) else value


def _value(found: re.Match[str], given: Mapping[str, str]) -> str:
    if found["dollar"]:
        return "$"
    default = found["rest"] if found["kind"] == "-" else ""
    value = given.get(found["name"], "") or default
    if not value and found["kind"] != "-":
        raise KeyError(f"{found['name']} is not set: {found['rest'] or COMPOSE.name}")
    return value


def example() -> dict[str, str]:
    """Return the variables of .env.example, those of its comments too, with the values there."""
    return dict(re.findall(r"^(?:# )?([A-Z0-9_]+)=(.*)$", EXAMPLE.read_text(), re.MULTILINE))
