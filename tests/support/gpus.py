"""Marks of tests that need GPUs."""

import os

import pytest
import torch

REQUIRED = os.environ.get("LIGHTGEN_REQUIRE_GPU") == "1"


def needs_gpus(count: int, what: str) -> list[pytest.MarkDecorator]:
    """Mark a test `cuda`, and skip it with fewer GPUs; `what` is not tested then.

    With LIGHTGEN_REQUIRE_GPU=1 tests of one GPU run all the same, and fail without it.
    """
    found = torch.cuda.device_count()
    here = found >= count or (REQUIRED and count == 1)
    reason = f"needs {'a GPU' if count == 1 else f'{count} GPUs, found {found}'}: {what} not tested here"
    return [pytest.mark.cuda, pytest.mark.skipif(not here, reason=reason)]
