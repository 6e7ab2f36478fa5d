"""Time left of a run of shards: that of the shards, not of the models that the first ones load."""

import pytest

from tasks.context import progress
from tasks.context.progress import TimeLeft


@pytest.fixture
def clock(monkeypatch):
    """Make a clock that stands still until its hand, the only item, is set."""
    hand = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: hand[0])
    return hand


def run(clock, time_left: TimeLeft, *finished_at: float) -> list[float | None]:
    left = []
    for done, at in enumerate(finished_at, 1):
        clock[0] = at
        left.append(time_left.after(done))
    return left


def test_loading_of_the_first_shard_is_not_multiplied(clock):
    assert run(clock, TimeLeft(6), 20, 26, 32, 38, 44, 50) == [None, 24.0, 18.0, 12.0, 6.0, 0.0]


def test_all_workers_load_before_the_pace_is_known(clock):
    assert run(clock, TimeLeft(6, workers=2), 20, 20, 26, 26, 32, 32) == [None, None, 18.0, 6.0, 4.0, 0.0]


def test_shards_longer_than_any_loading_tell_the_pace_at_once(clock):
    assert run(clock, TimeLeft(3), 600) == [1200.0]
