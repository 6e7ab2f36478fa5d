"""Markdown previews of a stage's output: captions, images, pairs, curves, scores."""

from collections.abc import Callable, Iterable, Iterator, Mapping

from flows.pages.markdown import image, plain, scores_markdown, table
from flows.pages.progress_log import StageResult
from lightgen_core.images.codec import decode_image
from lightgen_core.report.charts import loss_curve
from lightgen_core.report.data import STUDENTS, Curve, JudgedImage, SampleRow
from lightgen_core.report.formats import humanize_identifier, interval, number, percent, sentence
from lightgen_core.report.grid import image_grid
from storage.artifact import Artifact
from storage.rows import take_rows
from tasks import report_data

MAX_IMAGE_BYTES = 48_000
"""Maximum bytes of a page's encoded images, which Prefect's database stores."""

SPOTS, AT_A_SPOT = 4, 7
"""Evenly spaced positions from which images are shown, and captions at each; a position costs reading a row group."""


def preview(made: StageResult) -> list[str]:
    """Return Markdown blocks that preview a stage's output; empty if it has no preview."""
    show = EXHIBITS.get(made.artifact.stage)
    return show(made) if show else []


def _captions(made: StageResult) -> list[str]:
    figures = made.artifact.manifest().metrics
    topics = report_data.topics_of(made.artifact)[:12]
    told = [
        table(
            ["topic", "captions", "one of them"],
            [
                (plain(humanize_identifier(topic.name)), number(topic.captions), plain(topic.example))
                for topic in topics
            ],
        )
    ]
    dropped = figures.get("dropped_by_reason")
    return told + ([_reasons("Dropped", dropped)] if dropped else [])


def _synthesis(made: StageResult) -> list[str]:
    quarantine = made.artifact.manifest().metrics["quarantine"]
    told = _grid("pictures of the teacher", _some_pictures(made.artifact))
    return told + ([_reasons("In quarantine", quarantine)] if quarantine else [])


def _some_pictures(synthesis: Artifact) -> Iterator[SampleRow]:
    """Yield images of different captions; those of one caption are stored side by side."""
    rows = sum(file.rows for file in synthesis.manifest().files if file.name.startswith("images"))
    for spot in range(SPOTS):
        start = rows * spot // SPOTS
        places = range(start, min(start + 8 * AT_A_SPOT, rows * (spot + 1) // SPOTS))
        near = take_rows(synthesis, "^images", places, ["image", "caption", "topic"]).to_pylist()
        for row in list({row["caption"]: row for row in near}.values())[:AT_A_SPOT]:
            yield SampleRow(row["topic"], row["caption"], {"": JudgedImage(decode_image(row["image"]["bytes"]))})


def _dedup(made: StageResult) -> list[str]:
    found = report_data.dedup_summary(_given(made))
    told = [_reasons("Dropped", found.reasons)] if found.reasons else []
    if found.recall:
        recall = f"{percent(found.recall.value)} ({interval(found.recall)})"
        told.append(f"The search found {recall} of {number(found.pairs)} true pairs.")
    pairs = (
        SampleRow(
            each.reason,
            f"{each.similarity:.4f}: {each.dropped_caption}",
            {"dropped": JudgedImage(each.dropped), "kept": JudgedImage(each.kept)},
        )
        for each in found.examples
    )
    return told + _grid("near duplicates, the hardest to tell", pairs)


def _pretrain(made: StageResult) -> list[str]:
    return _curves([report_data.loss_curve(made.artifact)])


def _pairs(made: StageResult) -> list[str]:
    rows = (
        SampleRow(each.kind, each.caption, {"preferred": JudgedImage(each.winner), "avoided": JudgedImage(each.loser)})
        for each in report_data.pair_examples(_given(made))
    )
    return _grid("preference pairs", rows)


def _dpo(made: StageResult) -> list[str]:
    stopped = made.artifact.manifest().metrics["stopped"]
    return ([f"Stopped early: {plain(stopped)}."] if stopped else []) + _curves(
        report_data.preference_curves(made.artifact)
    )


def _evaluation(made: StageResult) -> list[str]:
    scores = made.artifact.manifest().metrics["scores"]
    rows = (
        SampleRow(
            row.category, row.caption, {STUDENTS.get(who, sentence(who)): each for who, each in row.samples.items()}
        )
        for row in report_data.samples(_given(made))
    )
    return [*_grid("the same captions, drawn by each", rows), *scores_markdown(scores)]


def _given(made: StageResult) -> report_data.RunArtifacts:
    return report_data.RunArtifacts({each.stage: each for each in (*made.inputs, made.artifact)}, made.recipe)


def _curves(curves: Iterable[Curve]) -> list[str]:
    told = []
    for curve in curves:
        told += [f"**{sentence(curve.title)}** \N{MIDDLE DOT} {curve.meaning}", image(curve.title, loss_curve(curve))]
    return told


def _grid(title: str, rows: Iterable[SampleRow]) -> list[str]:
    drawn = image_grid(rows, MAX_IMAGE_BYTES)
    return [f"**{sentence(title)}**", image(title, drawn)] if drawn else []


def _reasons(title: str, reasons: Mapping[str, int]) -> str:
    return f"{title}: " + ", ".join(f"{number(count)} {plain(reason)}" for reason, count in reasons.items())


EXHIBITS: Mapping[str, Callable[[StageResult], list[str]]] = {
    "captions": _captions,
    "synthesis": _synthesis,
    "dedup": _dedup,
    "pretrain": _pretrain,
    "pairs": _pairs,
    "dpo": _dpo,
    "evaluation": _evaluation,
}
