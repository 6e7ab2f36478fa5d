"""Reasons to keep a caption out: evaluation prompts, and captions that mean the same."""

import numpy as np
import pytest

from lightgen_core.captioning.config import CaptionEmbedding, Decontamination
from lightgen_core.captioning.contamination import EvaluationPrompts, Match
from lightgen_core.captioning.dedup import lexical_dedup, semantic_dedup, similar_vectors
from lightgen_core.captioning.embedding import caption_embedder
from lightgen_core.captioning.select import Caption
from lightgen_core.dedup.search import nearest

PROMPTS = [
    "a photo of a bench",
    "a dog",
    "A red bus, left of a tree.",
    "two cats sleeping on the long blue sofa of an old house by the sea",
]
RULES = Decontamination(ngram=8, least_words=4)
ANGLE = {"north": 0.0, "nearly north": 10.0, "north east": 45.0, "east": 90.0}


def compass(texts):
    """Captions as directions in the plane."""
    angles = np.radians([ANGLE[text] for text in texts])
    return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


def unit(rows, seed=0):
    vectors = np.random.default_rng(seed).standard_normal((rows, 16)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def captions(*texts, meanings=None):
    return [Caption(text, "t", meaning) for text, meaning in zip(texts, meanings or texts, strict=True)]


@pytest.mark.parametrize(
    ("caption", "kind", "prompt"),
    [
        ("a photo of a bench", "exact", 0),
        ("A PHOTO of a bench!", "exact", 0),
        ("A dog", "exact", 1),
        ("a red bus left of a tree", "exact", 2),
        ("on a hill, a photo of a bench in the sun", "n-gram", 0),
        ("a dog on a chair", None, None),
        ("a photo of a cat", None, None),
        ("a red bus left of the tree", None, None),
        ("three cats sleeping on the long blue sofa of a new house", "n-gram", 3),
        ("two cats sleeping on the long blue chair", None, None),
        ("", None, None),
        ("🔥", None, None),
        ("A dog 🐶", "exact", 1),
        ("🔥 a photo 🔥 of a bench", "exact", 0),
    ],
)
def test_prompts_are_detected_whole_and_in_part(caption, kind, prompt):
    expected = Match(kind, PROMPTS[prompt], 1.0) if kind else None
    assert EvaluationPrompts(PROMPTS, RULES).matches([caption]) == [expected]


def test_a_prompt_of_emoji_is_no_prompt_without_words():
    prompts = EvaluationPrompts(["🔥", "किला"], RULES)
    found = [match.prompt if match else None for match in prompts.matches(["🔥!", "🐶", "...", "केला", "किला 🔥"])]
    assert found == ["🔥", None, None, None, "किला"]


def test_without_rules_only_whole_captions_are_compared():
    found = EvaluationPrompts(PROMPTS).matches(["on a hill, a photo of a bench", "a photo of a bench"])
    assert [match and match.method for match in found] == [None, "exact"]


def test_paraphrased_prompts_match_by_embedding():
    """The nearest evaluation prompt is named."""
    prompts = EvaluationPrompts(["north", "east"], RULES, compass, threshold=np.cos(np.radians(11)))
    found = prompts.matches(["north", "nearly north", "north east"])
    assert [match and (match.method, match.prompt) for match in found] == [
        ("exact", "north"),
        ("embedding", "north"),
        None,
    ]
    assert found[1].similarity == pytest.approx(np.cos(np.radians(10)))


def test_the_proof_counts_checks_and_names_the_nearest_left():
    prompts = EvaluationPrompts(["north", "a photo of a bench", "north"], RULES)
    assert prompts.contamination_report(["east", "a photo of a bench too"]) == {
        "prompts": 2, "captions": 2, "exact": 0, "n-gram": 1, "words_in_a_row": 8, "prompts_compared_whole_only": 1,
    }  # fmt: skip
    proof = EvaluationPrompts(["north"], RULES, compass, threshold=0.99).contamination_report(["east", "north east"])
    assert (proof["embedding"], proof["threshold"]) == (0, 0.99)
    assert proof["nearest"] == {
        "similarity": pytest.approx(np.cos(np.radians(45))), "caption": "north east", "prompt": "north",
    }  # fmt: skip
    assert EvaluationPrompts(["north"]).contamination_report(["north"]) == {"prompts": 1, "captions": 1, "exact": 1}


def test_a_leak_names_the_prompt_and_the_kind_of_match():
    faults = EvaluationPrompts(PROMPTS, RULES).filter(captions("a cat", "on a hill, a photo of a bench"))
    assert faults[0] is None
    assert (faults[1].reason, faults[1].detail) == ("evaluation prompt", "n-gram: a photo of a bench")


def test_the_nearest_is_the_nearest():
    queries, base = unit(300, seed=1), unit(70, seed=2)
    products = queries.astype(np.float64) @ base.T
    rows, cosines = nearest(queries, base)
    assert rows.tolist() == products.argmax(axis=1).tolist()
    np.testing.assert_allclose(cosines, products.max(axis=1), atol=1e-6)


def test_repeated_meaning_agrees_with_brute_force():
    vectors = unit(400)
    vectors[200:] = vectors[:200] + 0.1 * unit(200, seed=3)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    cosines = vectors.astype(np.float64) @ vectors.T
    threshold, kept = 0.6, []
    expected = np.full(400, -1)
    for row in range(400):
        best = max(kept, key=lambda other: cosines[row, other], default=None)
        if best is not None and cosines[row, best] >= threshold:
            expected[row] = best
        else:
            kept.append(row)
    found = similar_vectors(vectors, threshold, [""] * 400)
    assert found.duplicate_of.tolist() == expected.tolist()
    assert 100 < len(kept) < 200 and found.kept.sum() == len(kept)


def test_repeated_meaning_names_the_caption_that_stays():
    faults = semantic_dedup(0.9, compass, within_meaning=False)(captions("north", "east", "nearly north"))
    assert [fault and fault.duplicate_of for fault in faults] == [None, None, 0]
    assert faults[2].reason == "repeated meaning"
    assert semantic_dedup(0.9, compass, within_meaning=False)(captions("north")) == [None]


def test_captions_of_different_meanings_never_repeat_each_other():
    """This holds wherever meanings are known."""
    said = captions("north", "nearly north", "nearly north", meanings=["n", "nn", "nn"])
    faults = semantic_dedup(0.9, compass, within_meaning=True)(said)
    assert [fault and fault.duplicate_of for fault in faults] == [None, None, 1]
    said = captions("a red circle", "a red circle", "a red circle", meanings=["p", "q", "p"])
    faults = lexical_dedup(0.9, 0, within_meaning=True)(said)
    assert [fault and fault.duplicate_of for fault in faults] == [None, None, 0]
    faults = lexical_dedup(0.9, 0, within_meaning=False)(said)
    assert [fault and fault.duplicate_of for fault in faults] == [None, 0, 0]


@pytest.mark.parametrize(("kind", "model"), [("clip", "zoo:clip"), ("text_encoder", "zoo:t5")])
def test_captions_that_mean_the_same_are_closer_in_both_spaces(kind, model):
    embed = caption_embedder(CaptionEmbedding(kind=kind, model=model), "cpu")
    vectors = embed(["a red circle and a blue star", "an image of a red circle and a blue star", "three crosses"])
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2] + 0.05
    np.testing.assert_allclose(embed(["three crosses"])[0], vectors[2], atol=1e-5)
