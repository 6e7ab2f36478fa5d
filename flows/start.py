"""Start a run in this process: validate the request; if there is work, find a Prefect server and call the flow."""

from collections.abc import Mapping, Sequence
from typing import Any

from flows.environment import quiet_prefect
from flows.openmp import bound_spinning
from flows.operations.configured import is_server_configured
from flows.outcome import cached_result
from flows.request import hand_over, validate_request
from flows.terminal import waiting_bar


def start(
    recipe: str, store: str | None = None, overrides: Mapping[str, Any] | Sequence[str] | None = None, **stages: Any
) -> dict[str, Any]:
    """Run a recipe, or the chosen stages of it; return what `lightgen run --json` prints.

    What is wrong with the request is raised at once, before the minute that a Prefect server may take to start. With
    nothing to do and no server to record it, nothing of Prefect is loaded.

    stages: `only`, `from_stage`, `until` and `refresh` of `flows.run.run`.
    """
    bound_spinning()
    request = validate_request(recipe, store, overrides, **stages)
    parameters: dict[str, Any] = {"recipe": recipe, "store": request.store.uri, "overrides": overrides, **stages}
    quiet_prefect()
    if not is_server_configured() and (result := cached_result(request)) is not None:
        return result
    hand_over(request, parameters)
    with waiting_bar("server"):
        from flows.operations.server import ensure_server  # within: to load Prefect takes as long as its server
        from flows.run import run as flow

        ensure_server()
        return flow(**parameters)
