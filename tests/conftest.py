"""What every test gets: no telemetry, a Prefect home of its own, and shapes in annotations checked at run time."""

import os
import tempfile
from pathlib import Path

import pytest

HERE = Path(__file__).parent
HOME = Path(tempfile.mkdtemp(prefix="lightgen-tests-"))
os.environ["PREFECT_HOME"] = str(HOME / "prefect")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("LIGHTGEN_THREADS", "2")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # several processes share the cores: threads that wait must sleep

LONGEST = [
    "system/test_stack",
    "core/launch/test_ray_train",
    "system/test_failure",
    "system/test_real_components",
    "system/test_deployments",
    "system/test_pipeline",
    "system/test_ui",
    "tasks/executors/test_process_pool",
    "tasks/test_phases",
    "core/launch/test_torchrun",
    "system/test_no_outside",
    "core/train/test_distributed",
    "flows/operations/test_device_limit",
    "tasks/executors/test_ray_actors",
    "tasks/test_synthesis",
]
"""These files begin the run, in this order: the last of several workers would else be busy with one alone for long."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.relative_to(HERE).with_suffix("").as_posix(), len(LONGEST)))
