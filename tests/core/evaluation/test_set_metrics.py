"""Metrics of sets of images against closed forms and cases whose value is known."""

import numpy as np
import pytest
from scipy.linalg import sqrtm

from lightgen_core.dedup.diversity import vendi_score
from lightgen_core.evaluation.distances import CMMD_SCALE, FrechetDistance, cmmd, kid
from lightgen_core.evaluation.half_samples import TooFewImages, half_sample_interval
from lightgen_core.evaluation.manifold import Recall, precision
from lightgen_core.evaluation.memorisation import nearest_training
from lightgen_core.evaluation.references import frechet_distance

RNG = np.random.default_rng(0)


def rows(n: int) -> np.ndarray:
    return np.arange(n)


def exact(n: int, mean: np.ndarray, root: np.ndarray) -> np.ndarray:
    """A set whose sample mean and covariance are exactly `mean` and `root @ root.T`."""
    values = np.random.default_rng(1).normal(size=(n, len(mean)))
    values -= values.mean(0)
    white = values @ np.linalg.inv(np.linalg.cholesky(np.cov(values, rowvar=False))).T
    return white @ root.T + mean


def test_frechet_distance_of_known_gaussians_is_the_formula():
    one, other = np.diag([1.0, 2, 3]), np.array([[2.0, 0.3, 0], [0, 1, 0.5], [0.2, 0, 1]])
    means = np.array([0.0, 1, 2]), np.array([1.0, 1, 0])
    found = FrechetDistance(exact(50, means[0], one), exact(80, means[1], other))(rows(50))
    left, right = one @ one.T, other @ other.T
    expected = 5 + np.trace(left + right - 2 * sqrtm(left @ right).real)
    assert found == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("n", "width"), [(30, 8), (8, 30)])
def test_frechet_distance_is_that_of_the_stage(n, width):
    images, references = RNG.normal(size=(n, width)), RNG.normal(1, 2, size=(20, width))
    assert FrechetDistance(images, references)(rows(n)) == pytest.approx(frechet_distance(images, references))
    assert FrechetDistance(images, images)(rows(n)) == pytest.approx(0, abs=1e-9)


def test_kid_is_the_unbiased_sum_over_pairs():
    x, y = RNG.normal(size=(5, 3)), RNG.normal(size=(4, 3))

    def k(a, b):
        return (a @ b / 3 + 1) ** 3

    own = np.mean([k(x[i], x[j]) for i in range(5) for j in range(5) if i != j])
    other = np.mean([k(y[i], y[j]) for i in range(4) for j in range(4) if i != j])
    cross = np.mean([k(a, b) for a in x for b in y])
    assert kid(x, y)(rows(5)) == pytest.approx(own + other - 2 * cross, rel=1e-5)


def test_kid_of_equal_distributions_has_mean_zero():
    """200 pairs of sets: the mean is within four standard errors of 0, and of both signs."""
    rng = np.random.default_rng(2)
    found = [kid(rng.normal(size=(20, 4)), rng.normal(size=(30, 4)))(rows(20)) for _ in range(200)]
    assert abs(np.mean(found)) < 4 * np.std(found) / np.sqrt(200)
    assert min(found) < 0 < max(found)


def test_cmmd_of_two_directions_is_its_closed_form():
    """Unit vectors at right angles: squared distance 2, kernel exp(-2 / 200), and 1 within each set."""
    x, y = np.tile([1.0, 0], (3, 1)), np.tile([0.0, 5], (4, 1))
    assert cmmd(x, y)(rows(3)) == pytest.approx(CMMD_SCALE * (2 - 2 * np.exp(-0.01)), rel=1e-4)
    assert cmmd(x, x)(rows(3)) == pytest.approx(0, abs=1e-4)


def test_precision_and_recall_of_known_sets():
    """References on a line at 0, 1, .., 7; k = 1 gives radii of 1. Half of the images lie far outside."""
    references = np.stack([np.arange(8.0), np.zeros(8)], axis=1)
    images = np.array([[0.5, 0], [3, 0.9], [7, 0], [6, 1], [50, 0], [51, 0], [3, 2], [60, 0]])
    assert precision(images, references, 1).tolist() == [True, True, True, True, False, False, False, False]
    line = np.array([[0.0, 0], [1, 0], [2, 0], [3, 0]])
    assert Recall(line, references, 1)(rows(4)) == 5 / 8  # 0 to 3, and 4, which is 1 away from 3


def test_a_set_meets_itself_whole():
    values = RNG.normal(size=(40, 5))
    assert precision(values, values).all()
    assert Recall(values, values)(rows(40)) == 1


def test_vendi_counts_different_images():
    assert vendi_score(np.eye(7)) == pytest.approx(7)
    assert vendi_score(np.tile(np.eye(7)[:1], (7, 1))) == pytest.approx(1)


def test_the_interval_of_a_mean_is_that_of_its_standard_error():
    values = np.random.default_rng(3).normal(size=400)
    found = half_sample_interval(lambda at: float(values[at].mean()), range(400), seed=0, halves=2000)
    assert found.value == pytest.approx(values.mean())
    assert found.high - found.value == pytest.approx(1.96 * values.std() / 20, rel=0.05)


def test_images_of_a_prompt_are_drawn_together():
    """Four equal images of each prompt are no more evidence than one."""
    values = np.repeat(np.random.default_rng(4).normal(size=50), 4)
    grouped = half_sample_interval(lambda at: float(values[at].mean()), np.repeat(np.arange(50), 4), seed=0)
    assert grouped.high - grouped.value == pytest.approx(1.96 * values.std() / np.sqrt(50), rel=0.2)


def test_too_few_prompts_have_no_interval():
    with pytest.raises(TooFewImages, match="images of 3 prompts"):
        half_sample_interval(lambda at: 0.0, ["a", "b", "c"], seed=0)


@pytest.mark.parametrize("metric", [kid, FrechetDistance])
def test_intervals_hold_the_value_of_other_images(metric):
    """Of 40 sets of 80 images, 95 % of intervals hold the mean over 200 sets: at least 34 of 40."""
    rng = np.random.default_rng(5)
    references = rng.normal(size=(60, 4))

    def images():
        return rng.normal(0.3, 1.2, size=(80, 4))

    truth = np.mean([metric(images(), references)(rows(80)) for _ in range(200)])
    found = [half_sample_interval(metric(images(), references), range(80), seed=0) for _ in range(40)]
    assert sum(interval.low <= truth <= interval.high for interval in found) >= 34


def test_a_training_image_is_found_again_and_named():
    training = RNG.normal(size=(30, 6))
    images = np.stack([2 * training[7], -training[3]])
    found = nearest_training(images, training, seed=0)
    assert (found.row[0], found.distance[0]) == (7, pytest.approx(0, abs=1e-9))
    assert found.distance[1] > 0.05
    assert found.closest(["a.png", "b.png"], [f"t{n}" for n in range(30)], 1)[0]["training"] == "t7"


def test_the_control_leaves_out_the_image_itself():
    training = np.array([[1.0, 0], [1, 0], [0, 1]])
    assert sorted(nearest_training(training, training, seed=0).control.round(9).tolist()) == [0, 0, 1]
