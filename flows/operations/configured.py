"""Detection of a configured Prefect server, without Prefect where none can be: its import takes seconds."""

import os
import sys
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

NAME = "PREFECT_API_URL"


def is_server_configured() -> bool:
    """Return whether Prefect has the address of a server. Prefect itself is asked only where it may have one."""
    if "prefect" not in sys.modules and not may_be_configured():
        return False
    from prefect.settings import get_current_settings

    return bool(get_current_settings().api.url)


def may_be_configured() -> bool:
    """Return False if none of the places that Prefect reads gives an address of a server.

    They are the environment; in the current folder .env, prefect.toml and pyproject.toml; and the active profile. A
    file that moves the profiles elsewhere, or that is not valid, counts as one that may give an address.
    """
    environment = {name.upper(): value for name, value in os.environ.items()}
    if environment.get(NAME) or "PREFECT_" in _read(Path(".env")).upper():
        return True
    try:
        for settings in _settings_of_folder():
            if "profiles_path" in settings or "url" in settings.get("api", {}):
                return True
        return NAME in _active_profile(environment)
    except (tomllib.TOMLDecodeError, AttributeError):  # no TOML, or a value in place of a section
        return True


def _settings_of_folder() -> Iterator[Mapping[str, Any]]:
    yield tomllib.loads(_read(Path("prefect.toml")))
    yield tomllib.loads(_read(Path("pyproject.toml"))).get("tool", {}).get("prefect", {})


def _active_profile(environment: Mapping[str, str]) -> Mapping[str, Any]:
    home = Path(environment.get("PREFECT_HOME") or "~/.prefect").expanduser()
    path = Path(environment.get("PREFECT_PROFILES_PATH") or home / "profiles.toml")
    profiles = tomllib.loads(_read(path))
    active = environment.get("PREFECT_PROFILE") or profiles.get("active", "")
    return profiles.get("profiles", {}).get(active, {})


def _read(path: Path) -> str:
    """Return a file's text; none where there is no such file."""
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
