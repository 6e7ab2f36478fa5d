"""The report's content as plain data, free of layout."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from lightgen_core.dedup.diversity import Metric
from lightgen_core.emoji.credits import Credit
from lightgen_core.intervals import Interval
from lightgen_core.report.parts import Failures, ImageArray, Previews, SampleGrid, Unmeasured, Usage

STUDENTS = {
    "pretrain": "Pre-trained",
    "sft": "SFT control",
    "dpo": "After DPO",
    "few_step": "Few-step head",
    "shuffled": "Shuffled",
}
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
        steps: (points,) ascending.
        lines: name -> (points,) values.
        meaning: one sentence on the curve.
        sparse: name -> steps and values of a line that was measured more seldom; drawn as it is.
        reference: a value for a dashed line, such as chance.
        smooth: plot the raw values faintly and their running mean on top.
    """

    title: str
    steps: npt.NDArray[np.int64]
    lines: Mapping[str, npt.NDArray[np.float64]]
    meaning: str = ""
    reference: float | None = None
    smooth: bool = True
    sparse: Mapping[str, tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]] = field(default_factory=dict)


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
        queries, pairs: rows checked against brute force, and their true pairs.
        recall: fraction of the pairs that the search found; None: there are none.
        planted, planted_wrong: images of which copies of each kind were planted, and copies taken for those of others.
        planted_found: kind -> planted copies found; empty: none were planted.
    """

    images: int
    reasons: Mapping[str, int]
    threshold: float
    index: tuple[str, ...]
    queries: int
    pairs: int
    recall: Interval | None
    planted: int = 0
    planted_found: Mapping[str, int] = field(default_factory=dict)
    planted_wrong: int = 0
    examples: tuple[DuplicateImage, ...] = ()


@dataclass(frozen=True)
class FilteredImage:
    """Image that a filter dropped, with what was measured (None: nothing could be)."""

    image: ImageArray
    caption: str
    value: float | None
    threshold: float | None


@dataclass(frozen=True)
class FilterReason:
    """Images dropped for one reason, with examples."""

    name: str
    count: int
    examples: tuple[FilteredImage, ...]


@dataclass(frozen=True)
class RejectedText:
    """Caption that was dropped, or that of an image that could not be had, with what was found."""

    text: str
    detail: str


@dataclass(frozen=True)
class TextReason:
    """Captions, or images that could not be had, left out for one reason, with examples."""

    name: str
    count: int
    examples: tuple[RejectedText, ...]


@dataclass(frozen=True)
class SourceRow:
    """Source with what it gave, and its share of the images that each phase of training sees."""

    name: str
    count: int
    shares: tuple[float, ...]


@dataclass(frozen=True)
class SourceTable:
    """Several teachers, sources of captions, or captions of an image.

    Attributes:
        unit: what they gave.
        total: what the counts are shares of.
    """

    title: str
    unit: str
    total: int
    rows: tuple[SourceRow, ...]


@dataclass(frozen=True)
class RecaptionKind:
    """Captions of a kind that a model wrote for the images, and the reasons for missing ones."""

    kind: str
    captions: int
    reasons: tuple[TextReason, ...]


@dataclass(frozen=True)
class RecaptionedImage:
    """Image with the caption that it was made from, and what a model wrote about it (None: nothing of use)."""

    image: ImageArray
    original: str
    short: str | None
    long: str | None


@dataclass(frozen=True)
class Recaptions:
    """Short and long captions that a model wrote for the images, with examples."""

    kinds: tuple[RecaptionKind, ...]
    examples: tuple[RecaptionedImage, ...]


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
        name, purpose: of the recipe, one line each.
        recipe: as YAML.
        prompts: description of the evaluation prompts.
        benchmark: "scene", "geneval" or "prompts".
        scorer: such as "the scene detector"; None: no scorer applies, and `scores` is empty.
        scores: student (`STUDENTS`) -> "overall" and categories, in the order to show -> score.
        differences: "dpo-pretrain" -> as `scores`, of verdicts on the same prompts and seeds.
        clip_scores: student -> mean cosine of image and caption in CLIP's space, with or without a scorer.
        references: student -> top-1 and top-5 retrieval of reference images, and the Fréchet distance to them.
        smoke_test: the recipe is too small to learn, as the page says at the top.
        grid: samples of the last student as they come.
        failures: None where nobody judges.
        previews: the same captions over the steps of pre-training; None where the recipe asks for none.
        unmeasured: measures that the run does not hold.
        usage: what the commands on the page name.
        topics: captions by topic, `other_topics` that are not listed, and `unused_topics` that no caption covers.
        repeats: near-duplicate captions (examples), `repeated_captions` of them in all.
        rejected_captions: reasons of captions that were left out, but for near duplicates.
        quarantine: reasons of missing images.
        diversity: metrics of the images kept.
        sources: of captions and images, where there are several, and captions of an image, where they were asked for.
        recaptions: None where none were asked for.
        filtered: reasons of the filters with examples; empty: the recipe has none.
        pairs: preference pairs (examples), `pair_counts` of each kind in all, `captions_without_pair` that gave none.
        stages: in order, without the report's own.
        credits: artists of the images to learn from, with style, artist, licence and package of each.
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
    benchmark: str = "scene"
    scorer: str | None = None
    scores: Mapping[str, Mapping[str, Interval]] = field(default_factory=dict)
    differences: Mapping[str, Mapping[str, Interval]] = field(default_factory=dict)
    clip_scores: Mapping[str, Interval] = field(default_factory=dict)
    references: Mapping[str, tuple[Interval, Interval, float]] = field(default_factory=dict)
    smoke_test: bool = False
    grid: SampleGrid | None = None
    failures: Failures | None = None
    previews: Previews | None = None
    unmeasured: tuple[Unmeasured, ...] = ()
    usage: Usage | None = None
    samples: tuple[SampleRow, ...] = ()
    curves: tuple[Curve, ...] = ()
    topics: tuple[Topic, ...] = ()
    other_topics: int = 0
    unused_topics: tuple[str, ...] = ()
    repeats: tuple[DuplicateCaption, ...] = ()
    repeated_captions: int = 0
    rejected_captions: tuple[TextReason, ...] = ()
    quarantine: tuple[TextReason, ...] = ()
    diversity: tuple[Metric, ...] = ()
    dedup: DedupSummary | None = None
    sources: tuple[SourceTable, ...] = ()
    recaptions: Recaptions | None = None
    filtered: tuple[FilterReason, ...] = ()
    pairs: tuple[PairExample, ...] = ()
    pair_counts: Mapping[str, int] = field(default_factory=dict)
    captions_without_pair: int = 0
    credits: tuple[Credit, ...] = ()
    host: Mapping[str, str] = field(default_factory=dict)
    software: Mapping[str, str] = field(default_factory=dict)
