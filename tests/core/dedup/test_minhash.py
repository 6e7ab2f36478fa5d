"""Near-duplicate captions: same words in the same order, and nothing else."""

import numpy as np
import pytest

from lightgen_core.dedup.minhash import bands_and_rows, near_duplicate_captions, topic_coverage

LONG = "a weathered wooden boat with a torn white sail drifting on a calm lake under heavy grey clouds at dawn"


def shingles(caption):
    words = ["<", *caption.lower().replace(",", "").replace(".", "").split(), ">"]
    return {tuple(words[at : at + size]) for size in (2, 3) for at in range(len(words) - size + 1)}


def jaccard(one, two):
    return len(shingles(one) & shingles(two)) / len(shingles(one) | shingles(two))


def test_the_order_of_words_matters():
    captions = ["a red circle left of a blue square", "a blue circle left of a red square"]
    assert jaccard(*captions) == 9 / 25
    assert near_duplicate_captions(captions, 0.5, seed=0).kept.tolist() == [True, True]
    found = near_duplicate_captions(captions, 9 / 25, seed=0)
    assert found.kept.tolist() == [True, False]
    assert found.similarity[1] == 9 / 25


def test_reversed_words_share_nothing():
    assert near_duplicate_captions(["red blue", "blue red"], 0.01, seed=0).kept.all()


def test_case_punctuation_and_spaces_do_not_matter():
    captions = ["A red circle, left of a blue square.", "a  red circle left of a blue square", "something else"]
    found = near_duplicate_captions(captions, 1.0, seed=0)
    assert found.kept.tolist() == [True, False, True]
    assert found.duplicate_of.tolist() == [-1, 0, -1]
    assert found.similarity[1] == 1.0


@pytest.mark.parametrize(
    "captions",
    [
        ["किला", "केला", "कोला"],  # Hindi: fort, banana, cola
        ["เสือ ในป่า", "เสื้อ ในป่า"],  # Thai: tiger, shirt
        ["כַּלָּה ליד הים", "כֻּלָּהּ ליד הים"],  # Hebrew: bride, all of her
        ["عَلَم", "عِلْم"],  # Arabic: flag, knowledge
        ["பல்", "பால்"],  # Tamil: tooth, milk
        ["I ❤️ cats", "I 💔 cats", "I cats"],
        ["👩‍🚀", "👨‍🚀", "🚀"],
        ["👍🏽", "👍🏿", "👍"],
        ["🇩🇪", "🇫🇷", "🇩🇪🇫🇷"],
    ],
)
def test_marks_and_emoji_tell_captions_apart(captions):
    assert near_duplicate_captions(captions, 0.9, seed=0).kept.all()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("I ❤️ cats", "I ❤ cats!"),  # an emoji's colour is a matter of the font
        ("café", "CAFE\u0301"),
        ("किला।", "किला"),
        ("co\u00adoperate", "cooperate"),
        ("(เสือ)", "เสือ"),
    ],
)
def test_captions_that_look_the_same_repeat_each_other(one, other):
    assert near_duplicate_captions([one, other], 1.0, seed=0).kept.tolist() == [True, False]


def test_similarity_is_the_exact_jaccard_index():
    """The closest caption that is kept is named."""
    farther = LONG.replace("grey", "dark").replace("torn", "patched")
    closer = LONG.replace("calm", "quiet")
    captions = [farther, closer, LONG]
    assert jaccard(farther, closer) < 0.6 < jaccard(farther, LONG) < jaccard(closer, LONG)
    found = near_duplicate_captions(captions, 0.6, seed=0)
    assert found.duplicate_of.tolist() == [-1, -1, 1]
    assert found.similarity[2] == pytest.approx(jaccard(closer, LONG))


def test_bands_agree_with_brute_force_on_a_thousand_captions():
    rng = np.random.default_rng(0)
    vocabulary = [f"w{number}" for number in range(60)]
    captions = [" ".join(rng.choice(vocabulary, 12)) for _ in range(700)]
    for original in rng.choice(700, 300):
        words = captions[original].split()
        for place in rng.integers(12, size=rng.integers(1, 4)):
            words[place] = str(rng.choice(vocabulary))
        captions.append(" ".join(words))
    threshold = 0.6
    kept = []
    for row, caption in enumerate(captions):
        if all(jaccard(caption, captions[other]) < threshold for other in kept if shares(captions, row, other)):
            kept.append(row)
    found = near_duplicate_captions(captions, threshold, seed=0)
    assert np.flatnonzero(found.kept).tolist() == kept
    assert 800 < len(kept) < 950


def shares(captions, one, two):
    """Cheap filter for the brute force: a pair at 0.6 shares most of its words."""
    return len(set(captions[one].split()) & set(captions[two].split())) >= 6


def test_duplicates_of_a_dropped_caption_name_the_kept_one():
    captions = [LONG, LONG.replace("grey", "dark"), LONG.replace("grey", "dark").upper() + "!"]
    found = near_duplicate_captions(captions, 0.7, seed=0)
    assert found.duplicate_of.tolist() == [-1, 0, 0]


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.7, 0.8, 0.9, 0.99])
def test_bands_overlook_at_most_one_pair_in_a_thousand(threshold):
    bands, rows = bands_and_rows(threshold)
    assert (1 - threshold**rows) ** bands <= 1e-3
    assert bands * rows <= 256


def test_captions_of_different_groups_are_never_duplicates():
    captions = [LONG, LONG.replace("grey", "dark"), LONG, LONG.replace("grey", "dark")]
    found = near_duplicate_captions(captions, 0.7, seed=0, groups=["p", "q", "q", "p"])
    assert found.duplicate_of.tolist() == [-1, -1, 1, 0]


def test_empty_captions_are_duplicates_of_each_other():
    assert near_duplicate_captions(["", "...", "a"], 0.8, seed=0).kept.tolist() == [True, False, True]
    assert near_duplicate_captions([], 0.8, seed=0).kept.tolist() == []


def test_a_threshold_outside_its_range_is_refused():
    with pytest.raises(ValueError, match="found threshold 0"):
        near_duplicate_captions(["a"], 0, seed=0)


def test_topic_coverage_counts_a_caption_once_per_topic():
    """Topics without a caption are named."""
    coverage = topic_coverage([["colour", "shape", "colour"], ["shape"], "size"], wanted=["size", "texture", "shape"])
    assert list(coverage.counts.items()) == [("shape", 2), ("colour", 1), ("size", 1)]
    assert coverage.unused == ("texture",)
