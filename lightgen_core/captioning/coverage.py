"""Coverage of chosen captions, and rows of the dropped ones."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from lightgen_core.captioning.select import Caption, CaptionSelection


def coverage(captions: Sequence[Caption], axes: Mapping[str, Sequence[str]] | None) -> dict[str, Any]:
    """Count captions and meanings by topic, distinct words, and each value of a taxonomy's axes, unused ones too."""
    meanings = dict.fromkeys((caption.topic, caption.meaning) for caption in captions)
    counts: dict[str, Any] = {
        "captions_by_topic": dict(Counter(caption.topic for caption in captions)),
        "meanings_by_topic": dict(Counter(topic for topic, _ in meanings)),
        "distinct_words": len({word for caption in captions for word in caption.text.lower().split()}),
    }
    if axes is not None:
        labels = Counter(label for caption in captions for label in caption.labels.items())
        counts["captions_by_axis"] = {
            axis: {value: labels[axis, value] for value in values} for axis, values in axes.items()
        }
    return counts


def dropped_rows(choice: CaptionSelection) -> list[dict[str, Any]]:
    """Return a row for each caption that was left out, with its reason."""
    return [
        {
            "caption": caption.text,
            "topic": caption.topic,
            "reason": str(rejection.reason),
            "detail": rejection.detail,
            "duplicate_of": rejection.duplicate_of,
            "similarity": rejection.similarity,
        }
        for caption, rejection in choice.rejected
    ]
