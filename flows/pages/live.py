"""Live page of a stage in the Prefect UI."""

import contextvars
import logging
import re
import threading
import time
from types import TracebackType
from typing import Any, Self
from uuid import UUID

import httpx
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import ArtifactCreate
from prefect.exceptions import PrefectException

from flows.pages.progress_log import ProgressLog, StageResult
from tasks.context.progress import Progress

log = logging.getLogger("lightgen")

POLL_SECONDS, SLOW_POLL_SECONDS, SLOW_AFTER_SECONDS = 3.0, 30.0, 300.0
"""Interval between two updates of a page, of a stage that has run for long, and the age from which it counts."""

CLOSE_TIMEOUT_SECONDS = 30.0
"""Longest wait of a stage at its end for its page to be updated."""

API_ERRORS = (httpx.HTTPError, PrefectException)
"""Errors of a server that is unreachable or refuses a request."""


def page_key(recipe: str, of: str) -> str:
    """Return the key of a page; the UI shows pages of one key as versions."""
    return re.sub("[^a-z0-9]+", "-", f"{recipe}-{of}".lower())


class UiArtifact:
    """One artifact in Prefect's UI, created at the first update, then changed in place."""

    def __init__(self, kind: str, **fields: Any) -> None:
        self._fields = {"type": kind} | fields
        self._id: UUID | None = None

    @property
    def shown(self) -> bool:
        """True once the artifact is created."""
        return self._id is not None

    def show(self, data: str | float) -> None:
        """Show new content. Raises API_ERRORS if the server does not accept it."""
        client = get_client(sync_client=True)  # the run's own, by the context
        if self._id is None:
            self._id = client.create_artifact(ArtifactCreate(data=data, **self._fields)).id
        else:
            # client.update_artifact would also send the whole content as an event, and events are kept for a week.
            client.request("PATCH", "/artifacts/{id}", path_params={"id": self._id}, json={"data": data})


class StagePage:
    """Page of a stage in the UI: `with StagePage(...) as page: stage.run(..., on_progress=page.progress)`.

    The stage's loop only records its progress. A thread wakes every few seconds, renders the newest and calls the API;
    it ends with the stage and then shows `result`, if that is set. Its errors are logged, and the stage continues.
    """

    def __init__(self, stage: str, uri: str, key: str, description: str, **run: UUID) -> None:
        self.stage, self.uri, self.progress = stage, uri, ProgressLog()
        self.result: StageResult | None = None
        self._page = UiArtifact("markdown", key=key, description=description, **run)
        self._shown: tuple[float, Progress] | None = None
        self._error: BaseException | None = None
        self._over, self._warned = threading.Event(), False
        copied = contextvars.copy_context().run  # the run's client and logger are found by the context
        self._thread = threading.Thread(target=copied, args=(self._watch,), name=f"live-{stage}", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._error = error
        self._over.set()
        self._thread.join(CLOSE_TIMEOUT_SECONDS)
        if self._thread.is_alive():
            seconds = CLOSE_TIMEOUT_SECONDS
            log.warning("%s: its page in the Prefect UI is not up to date after %.0f s", self.stage, seconds)

    def _watch(self) -> None:
        progress = self.progress
        try:
            from flows.pages.stage_page import done_page, failed_page, working_page

            while not self._over.wait(
                POLL_SECONDS if time.monotonic() - progress.started < SLOW_AFTER_SECONDS else SLOW_POLL_SECONDS
            ):
                if not self._page.shown or progress.latest is not self._shown:
                    self._shown = progress.latest
                    self._show(working_page(self.stage, self.uri, progress))
            if self._error is not None:
                self._show(failed_page(self.stage, self.uri, progress, self._error))
            elif self.result is not None:
                self._show(done_page(self.result))
            elif self._page.shown:  # it waited for another run that made it, or was long in verifying what is there
                self._show(f"### {self.stage} is done\n\nThere was nothing to do: `{self.uri}`")
        except Exception:  # a page that cannot be drawn must not end a run of hours
            log.exception(
                "%s: its page in the Prefect UI could not be drawn; the stage is not touched by that", self.stage
            )

    def _show(self, page: str) -> None:
        try:
            self._page.show(page)
        except API_ERRORS as error:
            if not self._warned:
                log.warning("%s: Prefect's server does not take its page (%s); the stage goes on", self.stage, error)
            self._warned = True
