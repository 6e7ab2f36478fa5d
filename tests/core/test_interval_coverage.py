"""95 % intervals hold the truth 93 to 97 % of the time, by simulation at the sizes in use.

`python -m benchmarks.interval_coverage` prints the whole table (docs/evidence.md); these are its corners.
"""

import pytest

from benchmarks.interval_coverage import World, bootstrap_overall, coverage, crossed, wilson_over_images


def held(*arguments, **options) -> float:
    return coverage(*arguments, **options)["overall"][0]


@pytest.mark.parametrize("seeds", [3, 5])
@pytest.mark.parametrize("deviation", [0.1, 0.4])
@pytest.mark.parametrize("paired", [False, True])
def test_the_interval_over_seeds_and_prompts_covers(seeds, deviation, paired):
    """Simulation's own error at 500 repetitions: 0.010, one standard deviation."""
    world = World(80, seed=deviation)
    assert 0.93 <= held(world, crossed, seeds=seeds, paired=paired, repetitions=500) <= 0.985


@pytest.mark.parametrize("paired", [False, True])
def test_the_bootstrap_over_prompts_covers_one_student(paired):
    assert 0.92 <= held(World(80), bootstrap_overall, paired=paired, repetitions=150) <= 0.99


def test_the_bootstrap_over_prompts_is_wrong_about_new_seeds():
    assert held(World(80, seed=0.4), bootstrap_overall, seeds=3, repetitions=60) < 0.8


def test_wilson_over_images_forgets_that_images_share_a_prompt():
    found = coverage(World(160), wilson_over_images, repetitions=200)
    assert found["color_attr"][0] < 0.94
