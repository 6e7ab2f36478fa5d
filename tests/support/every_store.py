"""Fixtures for tests that hold for every kind of store, for a module with `pytest_plugins = [this module's name]`."""

import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache
from pathlib import Path

import pytest

from storage.open_store import open_store
from storage.store import Store
from tests.support.s3_server import s3_server

OF_A_USER = os.environ.get("LIGHTGEN_TEST_STORE")
"""Address of an empty place: the contract is tested there instead of on an S3 server of the tests' own."""

KINDS = ["local", "memory", OF_A_USER or "s3"]


@pytest.fixture(scope="module")
def empty() -> Iterator[Callable[[str, Path], Store]]:
    """A function `(kind, folder)` that gives an empty store; an S3 server is started for the first that asks."""
    with ExitStack() as stack:

        @cache
        def server() -> str:
            return stack.enter_context(s3_server())

        def make(kind: str, folder: Path) -> Store:
            name = uuid.uuid4().hex
            if kind == "local":
                return open_store(str(folder / name))
            return open_store(
                f"memory://{name}" if kind == "memory" else f"{server() if kind == 's3' else kind}/{name}"
            )

        yield make


@pytest.fixture(params=KINDS)
def store(request, empty, tmp_path) -> Iterator[Store]:
    """An empty store of each kind."""
    made = empty(request.param, tmp_path)
    yield made
    made.remove("")
