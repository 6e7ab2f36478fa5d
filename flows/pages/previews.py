"""Markdown previews of a stage's output: captions, images, pairs, curves, scores."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from flows.pages.links import report_line
from flows.pages.markdown import escape, image, scores_markdown, table
from flows.pages.progress_log import StageResult
from lightgen_core.images.codec import decode_image
from lightgen_core.report.charts import loss_curve
from lightgen_core.report.data import STUDENTS, Curve, JudgedImage, SampleRow
from lightgen_core.report.formats import humanize_identifier, interval, number, percent, sentence
from lightgen_core.report.grid import image_grid
from lightgen_core.report.svg import file_uri
from storage.artifact import Artifact
from storage.rows import take_rows
from tasks import report_data
from tasks.context.progress import Preview
from tasks.report_inputs import RunArtifacts
from tasks.report_student import previews_of

MAX_IMAGE_BYTES = 48_000
"""Maximum bytes of a page's encoded images, which Prefect's database stores."""

MAX_PREVIEW_STEPS = 6
"""Newest steps of a training whose images are shown."""

POSITIONS, CAPTIONS_PER_POSITION = 4, 7
"""Evenly spaced positions from which images are shown, and captions at each; a position costs reading a row group."""


def preview(result: StageResult) -> list[str]:
    """Return Markdown blocks that preview a stage's output; empty if it has no preview."""
    preview_stage = PREVIEWS.get(result.artifact.stage)
    return preview_stage(result) if preview_stage else []


def _captions(result: StageResult) -> list[str]:
    topics = [
        (escape(humanize_identifier(topic.name)), number(topic.captions), escape(topic.example))
        for topic in report_data.topics_of(result.artifact)[:12]
    ]
    dropped = result.artifact.manifest().metrics.get("dropped_by_reason", {})
    return [table(["topic", "captions", "one of them"], topics), *_reasons("Dropped", dropped)]


def _synthesis(result: StageResult) -> list[str]:
    quarantine = result.artifact.manifest().metrics["quarantine"]
    return [*_grid("images of the teacher", _teacher_rows(result.artifact)), *_reasons("In quarantine", quarantine)]


def _teacher_rows(synthesis: Artifact) -> Iterator[SampleRow]:
    """Yield images of different captions; those of one caption are stored side by side."""
    rows = sum(file.rows for file in synthesis.manifest().files if file.name.startswith("images"))
    for position in range(POSITIONS):
        start = rows * position // POSITIONS
        indices = range(start, min(start + 8 * CAPTIONS_PER_POSITION, rows * (position + 1) // POSITIONS))
        near = take_rows(synthesis, "^images", indices, ["image", "caption", "topic"]).to_pylist()
        for row in list({row["caption"]: row for row in near}.values())[:CAPTIONS_PER_POSITION]:
            yield SampleRow(row["topic"], row["caption"], {"": JudgedImage(decode_image(row["image"]["bytes"]))})


def _dedup(result: StageResult) -> list[str]:
    summary = report_data.dedup_summary(_run_artifacts(result))
    blocks = _reasons("Dropped", summary.reasons)
    if summary.recall:
        recall = f"{percent(summary.recall.value)} ({interval(summary.recall)})"
        blocks.append(f"The search found {recall} of {number(summary.pairs)} true pairs.")
    pairs = (
        SampleRow(
            pair.reason,
            f"{pair.similarity:.4f}: {pair.dropped_caption}",
            {"dropped": JudgedImage(pair.dropped), "kept": JudgedImage(pair.kept)},
        )
        for pair in summary.examples
    )
    return blocks + _grid("near duplicates, the hardest to tell", pairs)


def _pairs(result: StageResult) -> list[str]:
    rows = (
        SampleRow(pair.kind, pair.caption, {"preferred": JudgedImage(pair.winner), "avoided": JudgedImage(pair.loser)})
        for pair in report_data.pair_examples(_run_artifacts(result))
    )
    return _grid("preference pairs", rows)


def _pretrain(result: StageResult) -> list[str]:
    curve = _curves([report_data.loss_curve(result.artifact)])
    found = previews_of(result.artifact)
    if found is None:
        return curve
    steps = [f"step {number(step)}" for step in found.steps][-MAX_PREVIEW_STEPS:]
    rows = (
        SampleRow("", row.caption, dict(zip(steps, map(JudgedImage, row.images[-MAX_PREVIEW_STEPS:]), strict=True)))
        for row in found.rows
    )
    return [*curve, *_grid("the same captions over training", rows)]


def newest_previews(previews: Sequence[Preview]) -> list[str]:
    """Return Markdown blocks with the newest images of a training; empty if it has none."""
    rows = (SampleRow("", each.caption, {"": JudgedImage(decode_image(each.png))}) for each in previews)
    steps = max((each.step for each in previews), default=0)
    return _grid(f"held-out captions after step {number(steps)}", rows) if previews else []


def _dpo(result: StageResult) -> list[str]:
    stopped = result.artifact.manifest().metrics["stopped"]
    curves = _curves(report_data.preference_curves(result.artifact))
    return [f"Stopped early: {escape(stopped)}.", *curves] if stopped else curves


def _evaluation(result: StageResult) -> list[str]:
    scores = result.artifact.manifest().metrics["scores"]
    return [*sample_images(_run_artifacts(result)), *scores_markdown(scores)]


def sample_images(run: RunArtifacts) -> list[str]:
    """Return Markdown blocks with the first captions of each category as each student drew them; needs `evaluation`."""
    rows = (
        SampleRow(
            row.category, row.caption, {STUDENTS.get(name, sentence(name)): item for name, item in row.samples.items()}
        )
        for row in report_data.samples(run)
    )
    return _grid("the same captions, drawn by each", rows)


def _ablation(result: StageResult) -> list[str]:
    table_, figure = (result.artifact.open(name).read().decode() for name in ("table.md", "figure.svg"))
    return [f"![scores of the points]({file_uri(figure)})", table_]


def _run_artifacts(result: StageResult) -> RunArtifacts:
    return RunArtifacts.of((*result.inputs, result.artifact), result.recipe)


def _curves(curves: Iterable[Curve]) -> list[str]:
    blocks = []
    for curve in curves:
        blocks += [f"**{sentence(curve.title)}** \N{MIDDLE DOT} {curve.meaning}", image(curve.title, loss_curve(curve))]
    return blocks


def _grid(title: str, rows: Iterable[SampleRow]) -> list[str]:
    grid = image_grid(rows, MAX_IMAGE_BYTES)
    return [f"**{sentence(title)}**", image(title, grid)] if grid else []


def _reasons(title: str, reasons: Mapping[str, int]) -> list[str]:
    counts = ", ".join(f"{number(count)} {escape(reason)}" for reason, count in reasons.items())
    return [f"{title}: {counts}"] if reasons else []


PREVIEWS: Mapping[str, Callable[[StageResult], list[str]]] = {
    "captions": _captions,
    "synthesis": _synthesis,
    "dedup": _dedup,
    "pretrain": _pretrain,
    "pairs": _pairs,
    "dpo": _dpo,
    "distil_head": lambda result: _curves([report_data.few_step_curve(result.artifact)]),
    "evaluation": _evaluation,
    "report": lambda result: [report_line(result.artifact)],
    "ablation": _ablation,
}
