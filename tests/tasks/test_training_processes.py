"""The processes that a training starts, asked or unasked."""

import pytest

from lightgen_core.config import ParallelConfig, UpdatesConfig
from tasks.config.settings import Settings
from tasks.training import cpu_processes

LONG = UpdatesConfig(steps=2600, batch_size=96)


@pytest.mark.parametrize(
    ("threads", "batch_size", "expected"),
    [(1, 96, 1), (2, 96, 2), (3, 96, 3), (4, 90, 3), (16, 96, 4), (16, 97, 1)],
)
def test_a_small_student_has_a_process_for_each_thread(threads: int, batch_size: int, expected: int) -> None:
    config = UpdatesConfig(steps=2600, batch_size=batch_size)
    assert cpu_processes(Settings(threads=threads, device="cpu"), 96, config) == expected


@pytest.mark.parametrize(
    ("changes", "width", "config", "expected"),
    [
        ({"train": ParallelConfig(processes=1)}, 96, LONG, 1),
        ({"train": ParallelConfig(processes=3)}, 1024, LONG, 3),
        ({"train": ParallelConfig(parallel="fsdp")}, 96, LONG, 1),
        ({"engine": "ray"}, 96, LONG, 1),
        ({}, 768, LONG, 1),
        ({}, 96, UpdatesConfig(steps=500, batch_size=96), 1),
        ({"train": ParallelConfig(compile=True)}, 96, LONG, 2),
    ],
    ids=["asked for one", "asked for three", "fsdp", "ray", "wide", "short", "another setting"],
)
def test_processes_are_as_set_where_they_would_not_pay(
    changes: dict, width: int, config: UpdatesConfig, expected: int
) -> None:
    assert cpu_processes(Settings(**{"threads": 2, "device": "cpu", **changes}), width, config) == expected


def test_a_variable_that_is_set_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIGHTGEN_TRAIN__PROCESSES", "1")
    assert cpu_processes(Settings(threads=2, device="cpu"), 96, LONG) == 1
    monkeypatch.delenv("LIGHTGEN_TRAIN__PROCESSES")
    assert cpu_processes(Settings(threads=2, device="cpu"), 96, LONG) == 2
