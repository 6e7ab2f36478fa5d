"""Turns of classes by weight: exact counting, even shares, nothing kept between positions."""

import numpy as np
import pytest

from lightgen_core.data.shuffle import weighted_turns


def test_turns_count_the_positions_before_of_the_same_class():
    classes, turns = weighted_turns(0, 5000, [3, 0, 1.5, 0.5], seed=7)
    for number in range(4):
        own = turns[classes == number]
        assert own.tolist() == list(range(len(own)))
    assert np.bincount(classes, minlength=4).tolist() == pytest.approx([3000, 0, 1500, 500], abs=2)


@pytest.mark.parametrize("weights", [[1], [0, 2, 0], [1, 1], [0.1, 0.2, 0.7]])
def test_a_later_range_is_the_end_of_the_whole(weights):
    whole = weighted_turns(0, 900, weights, seed=3)
    for start in (1, 450, 899):
        part = weighted_turns(start, 900, weights, seed=3)
        assert [each[start:].tolist() for each in whole] == [each.tolist() for each in part]


def test_shares_hold_in_every_hundred_positions():
    classes, _ = weighted_turns(0, 10_000, [9, 1], seed=0)
    assert set(classes.reshape(-1, 100).sum(axis=1).tolist()) <= {8, 9, 10, 11, 12}


def test_no_weight_is_an_error():
    with pytest.raises(ValueError, match=r"weights \[0, 0\]: expected one above 0"):
        weighted_turns(0, 5, [0, 0], seed=0)
