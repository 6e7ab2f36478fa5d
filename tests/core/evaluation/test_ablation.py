"""Scores over seeds and prompts against closed forms, and paired differences."""

import numpy as np
import pytest
from scipy.stats import t

from lightgen_core.evaluation.ablation import paired_difference, paired_differences, seed_scores, single_scores
from lightgen_core.evaluation.prompt import Prompt
from lightgen_core.intervals import crossed_mean, crossed_rate, wilson_interval

PROMPTS = [Prompt(f"{category} {number}", category, "") for category in ("counting", "colors") for number in range(20)]


def verdicts(rates: list[float], seed: int = 0) -> np.ndarray:
    """Return verdicts (seeds, prompts, 2) of students that are right this often."""
    rng = np.random.default_rng(seed)
    return (rng.random((len(rates), len(PROMPTS), 2)) < np.array(rates)[:, None, None]).astype(np.int64)


def test_equal_prompts_leave_the_t_interval_over_seeds():
    means = np.array([0.2, 0.5, 0.6])
    interval = crossed_mean({"": (np.repeat(means[:, None], 40, axis=1), range(40))})
    half = t.ppf(0.975, 2) * means.std(ddof=1) / np.sqrt(3)
    assert (interval.low, interval.high) == pytest.approx((means.mean() - half, means.mean() + half))


def test_equal_seeds_leave_the_normal_interval_over_prompts():
    values = np.random.default_rng(0).random(200)
    interval = crossed_mean({"": (np.tile(values, (4, 1)), range(200))})
    half = 1.959964 * values.std(ddof=1) / np.sqrt(200)
    assert (interval.low, interval.high) == pytest.approx((values.mean() - half, values.mean() + half))
    assert interval.n == 800


def test_one_seed_has_the_interval_over_prompts_alone():
    values = np.random.default_rng(1).random((1, 100))
    half = 1.959964 * values.std(ddof=1) / 10
    assert crossed_mean({"": (values, range(100))}).high == pytest.approx(values.mean() + half)


def test_seeds_that_agree_by_chance_are_not_certain():
    """Two seeds of one score, each right where the other is wrong: no variance between seeds, nor of prompts' means."""
    values = np.array([[1, 0] * 20, [0, 1] * 20])
    assert crossed_mean({"": (values, range(40))}).high > 0.5
    score = crossed_rate(values, range(40))
    assert 0.3 < score.low < score.value == 0.5 < score.high < 0.7


def test_copies_of_a_prompt_narrow_nothing():
    values = np.random.default_rng(2).random((3, 50))
    once = crossed_mean({"": (values, range(50))})
    twice = crossed_mean({"": (np.repeat(values, 2, axis=1), np.repeat(np.arange(50), 2).tolist())})
    assert (twice.low, twice.high) == pytest.approx((once.low, once.high))


def test_overall_is_the_mean_of_categories_and_of_seeds():
    table = verdicts([0.3, 0.6, 0.9])
    scores, single = seed_scores(table, PROMPTS), single_scores(table, PROMPTS)
    assert scores["overall"].value == pytest.approx(table.mean()) == np.mean([seed["overall"] for seed in single])
    assert list(scores) == ["overall", "counting", "colors"] == list(single[0])
    assert scores["colors"].value == pytest.approx(table[:, 20:].mean())
    assert scores["overall"].low == 0 and scores["overall"].high == 1, "three seeds this far apart say little"


def test_a_category_at_the_end_has_wilsons_interval_over_prompts():
    score = seed_scores(np.ones((3, 40, 2), np.int64), PROMPTS)["colors"]
    assert (score.low, score.high) == (pytest.approx(wilson_interval(20, 20).low), 1)


def test_independent_images_have_wilsons_interval_copies_do_not():
    rng = np.random.default_rng(4)
    alone = (rng.random((1, 400)) < 0.1).astype(int)
    score, expected = crossed_rate(alone, range(400)), wilson_interval(int(alone.sum()), 400)
    assert (score.low, score.high) == pytest.approx((expected.low, expected.high), abs=1e-4)
    copies = crossed_rate(np.repeat(alone, 2, axis=1), np.repeat(np.arange(400), 2).tolist())
    assert (copies.low, copies.high) == pytest.approx((score.low, score.high)) and copies.n == 800


def test_equal_verdicts_leave_a_difference_uncertain_both_ways():
    """As if one prompt of 20 might have changed."""
    table = np.ones((2, 40, 2), np.int64)
    difference = paired_difference(table, table, PROMPTS)
    assert difference["colors"].high == -difference["colors"].low == pytest.approx(1.959964 / 20)
    assert difference["overall"].high == pytest.approx(1.959964 / 20 / np.sqrt(2))


def test_pairing_takes_out_what_prompts_share():
    """Prompts are very easy or very hard; the better student gains on a tenth of all."""
    rng = np.random.default_rng(3)
    hard = rng.random((1, 40, 1)) < 0.5
    earlier = np.broadcast_to(~hard, (3, 40, 2)).astype(np.int64)
    later = np.maximum(earlier, rng.random((3, 40, 2)) < 0.2).astype(np.int64)
    (found,) = paired_differences([earlier, later], PROMPTS)
    difference = found.scores["overall"]
    assert (found.earlier, found.later) == (0, 1)
    assert difference.value == pytest.approx(later.mean() - earlier.mean())
    assert difference.low > 0
    alone = seed_scores(later, PROMPTS)["overall"]
    assert alone.low < seed_scores(earlier, PROMPTS)["overall"].high, "unpaired, the intervals overlap"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "no category"),
        ({"a": (np.zeros(3), range(3))}, r"shape \(3,\), expected \(seeds, 3\)"),
        ({"a": (np.zeros((2, 3)), range(3)), "b": (np.zeros((3, 3)), range(3))}, r"\[2, 3\] seeds"),
        ({"a": (np.full((2, 3), np.nan), range(3))}, "not finite"),
    ],
)
def test_what_cannot_be_crossed_is_refused(values, message):
    with pytest.raises(ValueError, match=message):
        crossed_mean(values)
