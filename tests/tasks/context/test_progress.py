"""Time left of a run of shards: that of the shards, not of the models that the first ones load."""

import pytest

from tasks.context import progress
from tasks.context.progress import TimeLeft, duration_in_words


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


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.2, "1 second"),
        (45, "45 seconds"),
        (59.7, "1 minute"),
        (95, "2 minutes"),
        (1684, "28 minutes"),
        (7100, "1 hour and 58 minutes"),
        (3 * 86_400 + 7300, "3 days and 2 hours"),
        (3600, "1 hour"),
        (57_500_000, "666 days"),
        (1e14, "1,157,407,407 days"),
    ],
)
def test_a_time_span_is_told_in_words(seconds, words):
    assert duration_in_words(seconds) == words
