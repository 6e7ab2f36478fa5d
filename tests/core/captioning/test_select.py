"""The choice of captions: even over topics, screened, and what is left out is named."""

from collections import Counter

import numpy as np
import pytest

from lightgen_core.captioning.reasons import Reason
from lightgen_core.captioning.select import Caption, Rejection, assign_captions, chain, select_captions


def said(*texts, topic="t"):
    return [Caption(text, topic, text) for text in texts]


def nothing_wrong(captions):
    return [None] * len(captions)


def drop(*texts):
    return lambda captions: [Rejection(Reason.EMPTY) if caption.text in texts else None for caption in captions]


def repeat(which):
    """Captions that repeat another one, by text."""

    def caption_filter(captions):
        row = {caption.text: at for at, caption in enumerate(captions)}
        return [
            Rejection(Reason.REPEATED_WORDS, duplicate_of=row[which[c.text]]) if c.text in which else None
            for c in captions
        ]

    return caption_filter


def texts(captions):
    return [caption.text for caption in captions]


def test_every_prefix_covers_the_topics_evenly():
    topics = {"a": said("a1", "a2", "a3", topic="a"), "b": said("b1", topic="b"), "c": said("c1", "c2", topic="c")}
    assert texts(select_captions(topics, 6, nothing_wrong).chosen) == ["a1", "b1", "c1", "a2", "c2", "a3"]
    assert texts(select_captions(topics, 3, nothing_wrong).chosen) == ["a1", "b1", "c1"]


def test_dropped_captions_are_replaced_while_there_are_others():
    topics = {"t": said(*(f"c{n}" for n in range(100)))}
    choice = select_captions(topics, 10, drop(*(f"c{n}" for n in range(90))))
    assert texts(choice.chosen) == [f"c{n}" for n in range(90, 100)]
    assert len(choice.rejected) == 90


def test_candidates_that_are_not_needed_are_not_screened():
    seen = []

    def caption_filter(captions):
        seen.append(len(captions))
        return [None] * len(captions)

    select_captions({"t": said(*(f"c{n}" for n in range(1000)))}, 30, caption_filter)
    assert seen == [40]


def test_a_source_that_runs_dry_gives_what_it_has():
    assert texts(select_captions({"t": said("a", "b", "c")}, 10, drop("b")).chosen) == ["a", "c"]
    assert select_captions({}, 10, nothing_wrong).chosen == []


def test_a_repeat_names_the_index_of_the_chosen_caption():
    topics = {"a": said("a1", "a2", topic="a"), "b": said("b1", "b2", topic="b")}
    choice = select_captions(topics, 3, repeat({"b2": "b1"}))
    assert texts(choice.chosen) == ["a1", "b1", "a2"]
    assert [(caption.text, fault.duplicate_of) for caption, fault in choice.rejected] == [("b2", 1)]


def test_a_repeat_of_what_was_not_chosen_is_not_listed():
    topics = {"a": said("a1", "a2", "a3", topic="a")}
    choice = select_captions(
        topics, 1, lambda captions: [None, None, Rejection(Reason.REPEATED_WORDS, duplicate_of=1)][: len(captions)]
    )
    assert (texts(choice.chosen), choice.rejected) == (["a1"], [])


def test_a_screen_sees_only_what_earlier_screens_passed():
    """Repeats of a repeat are followed to the caption that stays."""
    seen = []

    def last(captions):
        seen.append(texts(captions))
        return repeat({"d": "b"})(captions)

    faults = chain(drop("a"), repeat({"e": "d"}), last)(said("a", "b", "c", "d", "e"))
    assert seen == [["b", "c", "d"]]
    assert [fault and fault.reason for fault in faults] == ["empty", None, None, "repeated words", "repeated words"]
    assert [fault and fault.duplicate_of for fault in faults] == [None, None, None, 1, 1]


def test_images_are_shared_evenly_over_topics_and_captions():
    """Topics share the images, and within a topic its captions do."""
    found, _ = assign_captions(["a", "b", "a", "a"], 12, "topics")
    assert np.bincount(found).tolist() == [2, 6, 2, 2]
    found, repeats = assign_captions(["a", "b", "a"], 6, "captions")
    assert (found.tolist(), repeats.tolist()) == ([0, 1, 2, 0, 1, 2], [0, 0, 0, 1, 1, 1])


@pytest.mark.parametrize("balance", ["captions", "topics"])
def test_more_images_leave_those_of_fewer_as_they_are(balance):
    topics = ["a", "b", "a", "c", "a", "b"]
    few, many = (np.stack(assign_captions(topics, count, balance)) for count in (11, 40))
    assert (many[:, :11] == few).all()
    assert len(set(map(tuple, many.T.tolist()))) == 40


def test_images_over_many_topics_match_the_definition():
    rng = np.random.default_rng(0)
    topics = [f"t{n}" for n in rng.integers(0, 7, 50)]
    names = list(dict.fromkeys(topics))
    members = {name: [place for place, topic in enumerate(topics) if topic == name] for name in names}
    wanted = [members[names[i % 7]][i // 7 % len(members[names[i % 7]])] for i in range(200)]
    assert assign_captions(topics, 200, "topics")[0].tolist() == wanted


def repeats_of_a_prefix(captions):
    """Reject a caption whose first letter an earlier one has thrice."""
    seen = Counter()
    faults = []
    for caption in captions:
        seen[caption.text[0]] += 1
        faults.append(Rejection(Reason.EMPTY) if seen[caption.text[0]] > 3 else None)
    return faults


def test_more_captions_come_behind_those_of_a_smaller_count():
    """Topics of 5, 40 and 200 captions, of which many are rejected."""
    rng = np.random.default_rng(1)
    letters = "abcdefghijklmnopqrstuvwxyz"
    topics = {
        name: said(*("".join(rng.choice(list(letters), 4)) for _ in range(size)), topic=name)
        for name, size in (("x", 5), ("y", 40), ("z", 200))
    }
    largest = texts(select_captions(topics, 200, repeats_of_a_prefix).chosen)
    assert 60 < len(largest) <= 78
    for count in (1, 7, 20, 33, 50):
        assert texts(select_captions(topics, count, repeats_of_a_prefix).chosen) == largest[:count]
