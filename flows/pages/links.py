"""Lines of the Prefect UI's pages that lead to a report: links a browser opens, or the command that does."""

import logging
import shlex

from storage.artifact import Artifact
from storage.open_store import open_store
from storage.store import Store
from tasks.config.settings import Settings

log = logging.getLogger("lightgen")

PAGE = "report.html"
KEY_DIGITS = 8
"""Digits of a key that a command names."""


def report_line(report: Artifact) -> str:
    """Return Markdown that leads to a finished report.

    A page of the UI cannot link to `file://` or `s3://`: browsers open neither from a page of http.
    """
    address = web_address(report, PAGE, Settings())
    if address is None:
        store = shlex.quote(report.store.uri)
        return f"Report: `lightgen open report/{report.key[:KEY_DIGITS]} --store {store}`"
    dot = " \N{MIDDLE DOT} "
    parts = {"Report": "", "samples as they come": "#grid", "time and cost": "#run"}
    return dot.join(f"[{name}]({address}{part})" for name, part in parts.items())


def web_address(artifact: Artifact, name: str, settings: Settings) -> str | None:
    """Return the address at which a browser finds a file; None if its store is not served."""
    if settings.store_url is None:
        return None
    if not _is_store_of(settings, artifact.store):
        log.warning(
            "LIGHTGEN_STORE_URL serves LIGHTGEN_STORE, which is %s; this run is in %s, so its pages hold no links",
            *(settings.store, artifact.store.uri),
        )
        return None
    path = artifact.uri_of(name).removeprefix(artifact.store.uri)
    return str(settings.store_url).rstrip("/") + path


def _is_store_of(settings: Settings, store: Store) -> bool:
    """Return whether a store is that of the settings; a remote one is not asked anything."""
    named = settings.store
    if "://" in named and not named.startswith("file://"):
        return named.rstrip("/") == store.uri
    return open_store(named).uri == store.uri
