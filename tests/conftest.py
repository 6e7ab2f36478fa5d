"""Every test gets a Prefect home of its own, no telemetry and checked shapes; a run begins with its slowest files."""

import math
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from jaxtyping import config, install_import_hook

import tests.support.shapes  # noqa: F401  the hook finds it by its name

install_import_hook("lightgen_core", "tests.support.shapes.typechecker")  # checks shapes and dtypes in annotations

HOME = Path(tempfile.mkdtemp(prefix="lightgen-tests-"))
os.environ["PREFECT_HOME"] = str(HOME / "prefect")
os.environ["HF_HOME"] = str(HOME / "huggingface")  # the user's own cache is neither read nor written
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["MKL_CBWR"] = "AUTO,STRICT"  # as lightgen_core.device sets it, here before any test's first product
os.environ.setdefault("LIGHTGEN_THREADS", "2")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # several processes share the cores: threads that wait must sleep


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the slow files, the slowest first: the last of several workers would else be busy alone for long."""
    items.sort(key=rank)


def rank(item: pytest.Item) -> float:
    """Return the rank that the `slow` marker of a test's file gives; all others come last."""
    slow = item.get_closest_marker("slow")
    return slow.kwargs["rank"] if slow else math.inf


@pytest.fixture
def unchecked_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    """No shapes are checked: the compiler cannot trace the check."""
    monkeypatch.setattr(config, "jaxtyping_disable", True)


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """PyTorch on one thread: sums over another number of threads round differently, and small models only wait."""
    import torch  # not at the top: most tests need no second for it

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
