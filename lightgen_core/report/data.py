"""The report's content as plain data, free of layout."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from lightgen_core.dedup.diversity import Metric
from lightgen_core.intervals import Interval

ImageArray = npt.NDArray[np.uint8]
"""(height, width, 3) sRGB."""

STUDENTS = {"pretrain": "Pre-trained", "dpo": "After DPO", "shuffled": "Shuffled"}
"""Scored image sets and their titles; "shuffled" judges by another caption."""


@dataclass(frozen=True)
class JudgedImage:
    """Image with the judge's verdict, None if there was no judge."""

    image: ImageArray
    correct: bool | None = None


@dataclass(frozen=True)
class SampleRow:
    """One caption with an image per model, in display order."""

    category: str
    caption: str
    samples: Mapping[str, JudgedImage]


@dataclass(frozen=True)
class Curve:
    """Metrics logged over training steps.

    Attributes:
        title: what is drawn.
        steps: (points,) ascending.
        lines: name -> (points,) values.
        meaning: how to read it, one sentence.
        reference: a value worth a dashed line, such as chance.
        smooth: draw the raw values faintly and their running mean on top.
    """

    title: str
    steps: npt.NDArray[np.int64]
    lines: Mapping[str, npt.NDArray[np.float64]]
    meaning: str = ""
    reference: float | None = None
    smooth: bool = True


@dataclass(frozen=True)
class Topic:
    """Topic with its number of captions and an example."""

    name: str
    captions: int
    example: str


@dataclass(frozen=True)
class DuplicateCaption:
    """Caption dropped as a near duplicate of another."""

    dropped: str
    kept: str
    similarity: float


@dataclass(frozen=True)
class DuplicateImage:
    """Dropped image beside the one that was kept."""

    dropped: ImageArray
    kept: ImageArray
    dropped_caption: str
    kept_caption: str
    similarity: float
    reason: str


@dataclass(frozen=True)
class DedupSummary:
    """Numbers of dropped images by reason, and the search's recall.

    Attributes:
        images: before.
        reasons: reason -> images dropped.
        threshold: cosine from which a pair is a near duplicate.
        index: faiss factory strings in use.
        queries: rows checked against brute force.
        pairs: true pairs of those rows.
        recall: fraction of them that the search found; None: there was none to find.
        examples: to show.
    """

    images: int
    reasons: Mapping[str, int]
    threshold: float
    index: tuple[str, ...]
    queries: int
    pairs: int
    recall: Interval | None
    examples: tuple[DuplicateImage, ...] = ()


@dataclass(frozen=True)
class PairExample:
    """Preference pair with the source of its winner."""

    caption: str
    winner: ImageArray
    loser: ImageArray
    kind: str


@dataclass(frozen=True)
class StageRow:
    """One stage. `state`, `seconds`, `device_seconds` and `created_at` are facts of the run, not of the key.

    `state` is a word, such as "ran" or "cached"; `created_at` is ISO 8601 with its time zone.
    """

    stage: str
    key: str
    inputs: tuple[str, ...]
    rows: int
    bytes: int
    state: str
    seconds: float
    device_seconds: float
    created_at: str


@dataclass(frozen=True)
class ReportData:
    """Everything on the page.

    Attributes:
        name: of the recipe.
        purpose: of the recipe, one line.
        recipe: the recipe as YAML.
        prompts: what the students were told to draw, in words.
        scorer: what judged the images, such as "the scene detector"; None: no scorer applies, and `scores` is empty.
        scores: student (`STUDENTS`) -> "overall" and categories, in the order to show -> score.
        clip_scores: student -> mean cosine of image and caption in CLIP's space; may be there without a scorer.
        smoke_test: the recipe is too small to learn; the page says so at the top.
        samples: captions with the images drawn for them.
        curves: of the training stages.
        topics: captions by topic, `other_topics` that are not listed, and `unused_topics` that no caption covers.
        repeats: captions left out as near duplicates (examples), `repeated_captions` of them in all.
        quarantine: reason -> images that could not be had.
        diversity: figures of the images kept.
        dedup: what went and why.
        pairs: preference pairs (examples), `pair_counts` of each kind in all, `captions_without_pair` that gave none.
        stages: in order, the report's own excepted.
        host: machine and device, name -> value.
        software: distribution -> version.
        created_at: of the page, ISO 8601 with its time zone.
    """

    name: str
    recipe: str
    stages: tuple[StageRow, ...]
    created_at: str
    purpose: str = ""
    prompts: str = ""
    scorer: str | None = None
    scores: Mapping[str, Mapping[str, Interval]] = field(default_factory=dict)
    clip_scores: Mapping[str, Interval] = field(default_factory=dict)
    smoke_test: bool = False
    samples: tuple[SampleRow, ...] = ()
    curves: tuple[Curve, ...] = ()
    topics: tuple[Topic, ...] = ()
    other_topics: int = 0
    unused_topics: tuple[str, ...] = ()
    repeats: tuple[DuplicateCaption, ...] = ()
    repeated_captions: int = 0
    quarantine: Mapping[str, int] = field(default_factory=dict)
    diversity: tuple[Metric, ...] = ()
    dedup: DedupSummary | None = None
    pairs: tuple[PairExample, ...] = ()
    pair_counts: Mapping[str, int] = field(default_factory=dict)
    captions_without_pair: int = 0
    host: Mapping[str, str] = field(default_factory=dict)
    software: Mapping[str, str] = field(default_factory=dict)
