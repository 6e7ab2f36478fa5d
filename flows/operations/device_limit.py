"""Share one accelerator between runs by the concurrency limit that `device_limit` names."""

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

from prefect.client.orchestration import get_client
from prefect.client.schemas.responses import GlobalConcurrencyLimitResponse
from prefect.concurrency.sync import concurrency
from prefect.exceptions import ObjectNotFound

from flows.errors import UserError
from flows.operations.server import TEMPORARY_SERVER

log = logging.getLogger("lightgen")

LEASE_SECONDS = 180
"""Seconds until an unrenewed slot, such as a killed run's, is free again. Prefect renews it after three quarters of
that, so a server may be away for 45 s at any moment."""


class LeaseExpired(Exception):
    """The slot was not renewed, so another run may have the device by now; transient."""


def require_device_limit(name: str | None) -> None:
    """Raise UserError before the first stage if the limit does not exist."""
    if name:
        _read_limit(name)


def device_slot(name: str | None) -> Callable[[], AbstractContextManager[Any]]:
    """Return a context manager that holds the device; it does nothing if no limit is named."""
    return (lambda: _slot(name)) if name else contextlib.nullcontext


def _read_limit(name: str) -> GlobalConcurrencyLimitResponse:
    if TEMPORARY_SERVER in os.environ:
        raise UserError(
            f"LIGHTGEN_DEVICE_LIMIT={name} guards the device between runs, so they need a Prefect server in common: "
            "start one with `prefect server start` and set PREFECT_API_URL, or unset LIGHTGEN_DEVICE_LIMIT"
        )
    with get_client(sync_client=True) as client:
        try:
            return client.read_global_concurrency_limit_by_name(name)
        except ObjectNotFound as error:
            raise UserError(
                f"the Prefect server has no concurrency limit {name!r}, which LIGHTGEN_DEVICE_LIMIT names; "
                f"make it: prefect gcl create {name} --limit 1"
            ) from error


@contextlib.contextmanager
def _slot(name: str) -> Iterator[None]:
    """Hold a slot of a limit, waiting until one is free."""
    limit = _read_limit(name)
    if limit.active_slots >= limit.limit:
        log.info("waiting for the device (limit %s)", name)
    try:
        with concurrency(name, occupy=1, strict=True, lease_duration=LEASE_SECONDS):
            yield
    except asyncio.CancelledError as error:  # so Prefect ends a holder whose lease it cannot renew, and nobody else
        raise LeaseExpired(
            f"the Prefect server did not renew this stage's slot of {name}, so another run may have the device by now; "
            "what is finished is kept"
        ) from error
