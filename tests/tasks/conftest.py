"""Stages that train in a test's own process."""

import os
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="module")
def stages_on_one_thread() -> Iterator[None]:
    """Stages take one thread: two would wait for those of the other tests' process."""
    before, os.environ["LIGHTGEN_THREADS"] = os.environ["LIGHTGEN_THREADS"], "1"
    yield
    os.environ["LIGHTGEN_THREADS"] = before
