"""What every test gets: no telemetry, a Prefect home of its own, and shapes in annotations checked at run time."""

import os
import tempfile
from pathlib import Path

import pytest

HOME = Path(tempfile.mkdtemp(prefix="lightgen-tests-"))
os.environ["PREFECT_HOME"] = str(HOME / "prefect")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("LIGHTGEN_THREADS", "2")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # several processes share the cores: threads that wait must sleep

LONGEST = [
    "test_stack",
    "test_ray_train",
    "test_failure",
    "test_real_components",
    "test_deployments",
    "test_pipeline",
    "test_ui",
    "test_engine",
    "test_phases",
    "test_launch",
    "test_no_outside",
    "test_distributed",
    "test_device_limit",
    "test_engine_on_ray",
    "test_synthesis",
]
"""These files begin the run, in this order: the last of several workers would else be busy with one alone for long."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.stem, len(LONGEST)))
