"""How a flow run is called in the Prefect UI: after its recipe and the key of what it ends with."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prefect.context import FlowRunContext

from flows.distill import NAMES
from flows.errors import MISTAKES
from flows.load import load_recipe
from flows.plan import plan
from flows.selection import select
from storage.store import open_store
from tasks.config.settings import Settings

SHORT = 8
"""Digits of a key that are shown: enough to tell runs apart, and to find the artifact by."""


def run_name() -> str:
    """Return the name of the flow run that begins, for Prefect."""
    context = FlowRunContext.get()
    assert context is not None and context.parameters is not None, "Prefect asks within the run"
    return name_of(**context.parameters)


def name_of(
    recipe: str,
    store: str | None = None,
    overrides: Any = None,
    only: str | None = None,
    from_stage: str | None = None,
    until: str | None = None,
    refresh: Sequence[str] = (),
) -> str:
    """Return recipe and key: `demo-1a2b3c4d` by the report, or `demo-tokens-1a2b3c4d` by the last stage that runs.

    Equal names mean equal results. Where the request is wrong there is no key; the run itself says what is wrong.
    """
    try:
        chosen = select(only, from_stage, until, refresh).chosen
        loaded = load_recipe(recipe, overrides)
        artifacts = plan(loaded, open_store(store or Settings().store)).artifacts
    except MISTAKES:
        return Path(recipe).stem
    last = max(chosen, key=NAMES.index)
    whole = last == NAMES[-1]
    return "-".join([loaded.name, *([] if whole else [last]), artifacts[last].key[:SHORT]])
