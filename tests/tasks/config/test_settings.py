"""Settings from the environment."""

import pytest

from tasks.config.settings import Settings


@pytest.mark.parametrize("name", ["STORE", "DEVICE", "WORKERS", "THREADS", "TRAIN__PROCESSES", "DEVICE_LIMIT"])
def test_an_empty_variable_is_one_that_is_not_set(monkeypatch, name):
    monkeypatch.delenv(f"LIGHTGEN_{name}", raising=False)
    default = Settings()
    monkeypatch.setenv(f"LIGHTGEN_{name}", "")
    assert Settings() == default
    assert Settings().store not in ("", ".")
