"""Intervals against known values and against simulation."""

import numpy as np
import pytest

from lightgen_core.intervals import Interval, bootstrap_mean, macro_mean, wilson_interval


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    # Newcombe 1998 (Statistics in Medicine 17), table I, method 3.
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_gives_the_published_intervals(successes, n, low, high):
    interval = wilson_interval(successes, n)
    assert (round(interval.low, 4), round(interval.high, 4)) == (low, high)
    assert interval.value == successes / n


def test_wilson_at_the_ends_has_a_width():
    assert wilson_interval(0, 10).low == 0.0
    assert wilson_interval(10, 10).high == 1.0
    assert wilson_interval(10, 10).low == pytest.approx(10 / (10 + 1.959964**2))


def test_an_interval_is_printed_with_four_fields():
    assert Interval(0.5, 0.4, 0.6, 10).as_dict() == {"value": 0.5, "low": 0.4, "high": 0.6, "n": 10}


def test_the_bootstrap_of_independent_values_is_normal():
    values = np.random.default_rng(0).normal(3, 2, size=2000)
    interval = bootstrap_mean(values, range(2000), seed=0)
    error = 1.96 * values.std() / np.sqrt(2000)
    assert interval.value == pytest.approx(values.mean())
    assert interval.low == pytest.approx(values.mean() - error, abs=0.1 * error)
    assert interval.high == pytest.approx(values.mean() + error, abs=0.1 * error)


def test_four_copies_of_each_prompt_do_not_narrow_the_interval():
    scores = np.random.default_rng(1).random(100) < 0.6
    once = bootstrap_mean(scores, range(100), seed=0)
    four = bootstrap_mean(np.repeat(scores, 4), np.repeat(np.arange(100), 4).tolist(), seed=0)
    assert (four.low, four.high) == pytest.approx((once.low, once.high))
    assert (once.n, four.n) == (100, 400)


def test_the_bootstrap_covers_the_truth_nineteen_times_in_twenty():
    rng = np.random.default_rng(2)
    prompts = np.repeat(np.arange(60), 4).tolist()
    hits = 0
    for seed in range(300):
        # Prompts differ in difficulty: images of one prompt go together, and the mean is 2 / 3.
        difficulty = rng.beta(2, 1, size=60)
        values = rng.random(240) < np.repeat(difficulty, 4)
        interval = bootstrap_mean(values, prompts, seed=seed, resamples=400)
        hits += interval.low <= 2 / 3 <= interval.high
    assert 0.90 <= hits / 300 <= 0.98


def test_the_interval_does_not_depend_on_the_order_of_values():
    rng = np.random.default_rng(3)
    values, prompts = rng.random(80), np.repeat(np.arange(20), 4)
    shuffle = rng.permutation(80)
    one = bootstrap_mean(values, prompts.tolist(), seed=0)
    two = bootstrap_mean(values[shuffle], prompts[shuffle].tolist(), seed=0)
    assert (one.low, one.high) == pytest.approx((two.low, two.high))


@pytest.mark.parametrize("value", [0, 1])
def test_a_score_at_the_end_is_not_certain(value):
    interval = bootstrap_mean([value] * 80, np.repeat(np.arange(20), 4).tolist(), seed=0)
    ends = wilson_interval(20 * value, 20)
    assert (interval.value, interval.n) == (value, 80)
    assert (interval.low, interval.high) == pytest.approx((ends.low, ends.high))


def test_overall_is_the_unweighted_mean_of_the_categories():
    by_category = {"single": ([1, 1, 1, 1, 1, 1], list("aabbcc")), "two": ([0, 1], list("de")), "none": ([0], ["f"])}
    interval = macro_mean(by_category, seed=0)
    assert interval.value == pytest.approx((1 + 0.5 + 0) / 3)
    assert interval.n == 9
    assert (interval.low, interval.high) == pytest.approx((1 / 3, 2 / 3))


def test_the_overall_interval_is_of_a_mean_over_categories():
    """Categories are independent and weigh the same, whatever their size or order."""
    rng = np.random.default_rng(4)
    by_category = {name: (rng.random(size) < 0.5, range(size)) for name, size in (("a", 100), ("b", 400), ("c", 900))}
    interval = macro_mean(by_category, seed=0)
    variance = sum(np.var(values) / len(values) for values, _ in by_category.values()) / 9
    assert interval.high - interval.low == pytest.approx(2 * 1.96 * np.sqrt(variance), rel=0.1)
    assert macro_mean(dict(reversed(by_category.items())), seed=0) == interval


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: wilson_interval(3, 2), "found 3 successes of 2"),
        (lambda: wilson_interval(0, 0), "n >= 1"),
        (lambda: wilson_interval(1, 2, level=95), "found confidence level 95"),
        (lambda: bootstrap_mean([], [], seed=0), "expected one each"),
        (lambda: bootstrap_mean([1, 2], ["a"], seed=0), "expected one each"),
        (lambda: bootstrap_mean([np.nan, 1], ["a", "b"], seed=0), "1 of 2 values are not finite"),
        (lambda: macro_mean({}, seed=0), "no category to average"),
    ],
)
def test_what_has_no_interval_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("value", [0, 1])
def test_an_overall_score_at_the_end_is_not_certain(value):
    names = list("abcd")
    interval = macro_mean({"x": ([value] * 4, names), "y": ([value] * 4, names)}, seed=0, resamples=100)
    wilson = wilson_interval(8 * value, 8)
    assert (interval.value, interval.n) == (value, 8)
    assert (interval.low, interval.high) == pytest.approx((wilson.low, wilson.high))


def test_two_students_that_agree_may_differ_on_other_prompts():
    interval = macro_mean({"x": ([0] * 20, range(20))}, seed=0, resamples=100, paired=True)
    assert interval.value == 0
    assert interval.high == -interval.low == pytest.approx(wilson_interval(0, 20).high)
    better = bootstrap_mean([1] * 20, range(20), seed=0, resamples=100, paired=True)
    assert better.high == 1 > better.low == pytest.approx(wilson_interval(20, 20).low)
