"""Report data of a run from its artifacts, for the report and the stage pages of the Prefect UI."""

import datetime
import itertools
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import yaml

from lightgen_core.dedup.diversity import Diversity
from lightgen_core.emoji.credits import credits_of
from lightgen_core.images.codec import decode_image
from lightgen_core.intervals import Interval
from lightgen_core.report.data import (
    Curve,
    DedupSummary,
    DuplicateCaption,
    DuplicateImage,
    JudgedImage,
    PairExample,
    ReportData,
    SampleRow,
    StageRow,
    Topic,
    Usage,
)
from lightgen_core.seeds import derive_seed
from lightgen_core.teachers.scene import SceneTeacher
from storage.artifact import Artifact
from storage.manifest import Manifest
from storage.rows import take_rows
from storage.tables import read_table
from tasks.config.recipe import Recipe
from tasks.pair_worker import KINDS
from tasks.report_filters import filter_reasons
from tasks.report_inputs import RunArtifacts
from tasks.report_reasons import quarantined, rejected_captions
from tasks.report_sources import recaptions_of, source_tables
from tasks.report_student import failures, previews_of, sample_grid, unmeasured

MAX_TOPICS = 24
"""Topics that are listed; thousands would bury the rest."""


def build_report_data(run: RunArtifacts, key: str = "") -> ReportData:
    """Return all data of the report; `key`: of its artifact, for the commands on the page."""
    recipe, artifacts = run.recipe, run.artifacts
    manifests = {name: artifact.manifest() for name, artifact in artifacts.items()}
    evaluation = manifests["evaluation"]
    scored, pairs = evaluation.metrics, run.last("pairs").manifest().counts
    topics = manifests["captions"].metrics["captions_by_topic"]
    teachers = recipe.synthesis.teachers or (recipe.synthesis,)
    grid = sample_grid(run)
    height, width = grid.images[0].image.shape[:2]
    return ReportData(
        name=recipe.name,
        purpose=recipe.purpose,
        recipe=yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False),
        stages=tuple(itertools.starmap(_stage_row, manifests.items())),
        created_at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        prompts=_describe_prompts(recipe, evaluation.counts["prompts"]),
        benchmark=recipe.evaluation.benchmark,
        scorer=scored["judge"],
        scores=_score_tables(scored["scores"]),
        differences=_score_tables(scored["differences"]),
        clip_scores={student: Interval(**score) for student, score in scored.get("clip_score", {}).items()},
        references={
            student: (Interval(**found["top_1"]), Interval(**found["top_5"]), found["frechet_distance"])
            for student, found in scored.get("references", {}).items()
        },
        smoke_test=recipe.smoke_test,
        grid=grid,
        failures=failures(run),
        previews=previews_of(artifacts["pretrain"]),
        unmeasured=unmeasured(recipe, previews=bool(recipe.pretrain.previews)),
        usage=Usage(key[:8], grid.images[0].caption, height, width) if key else None,
        samples=samples(run),
        curves=(
            loss_curve(artifacts["pretrain"]),
            *preference_curves(run.last("dpo")),
            *([few_step_curve(artifacts["distil_head"])] if "distil_head" in artifacts else []),
        ),
        topics=topics_of(artifacts["captions"]),
        other_topics=max(0, len(topics) - MAX_TOPICS),
        repeats=_repeated_captions(artifacts["captions"]),
        repeated_captions=manifests["captions"].counts["repeated"],
        rejected_captions=rejected_captions(run),
        quarantine=quarantined(run),
        diversity=tuple(Diversity(**manifests["dedup"].metrics["diversity"]).metrics()),
        dedup=dedup_summary(run),
        sources=source_tables(run),
        recaptions=recaptions_of(run),
        filtered=filter_reasons(run),
        pairs=pair_examples(run),
        pair_counts={kind: pairs[kind] for kind in KINDS if pairs[kind]},
        captions_without_pair=pairs["without_pair"],
        credits=credits_of(teacher.files.path for teacher in teachers if teacher.files is not None),
        host=evaluation.host,
        software=evaluation.software,
    )


def _score_tables(tables: Mapping[str, Any]) -> dict[str, dict[str, Interval]]:
    return {
        student: {name: Interval(**score) for name, score in table.items()}
        for student, table in tables.items()
        if table is not None
    }


def _stage_row(label: str, manifest: Manifest) -> StageRow:
    return StageRow(
        stage=label,
        key=manifest.key,
        inputs=tuple(manifest.inputs),
        rows=manifest.counts["rows"],
        bytes=sum(file.bytes for file in manifest.files),
        state="done",
        seconds=manifest.timings["seconds"],
        device_seconds=manifest.device_seconds,
        created_at=manifest.created_at,
    )


def _describe_prompts(recipe: Recipe, count: int) -> str:
    config = recipe.evaluation
    if config.benchmark == "scene":
        described = f"{count:,} held-out captions of the scene world"
    elif config.prompts:
        described = f"{count:,} captions of {Path(config.prompts).name}"
    else:
        described = f"{count:,} captions of GenEval\N{RIGHT SINGLE QUOTATION MARK}s form (not its own list)"
    if config.rewrite:
        described += f", rewritten by {config.rewrite.model}"
    return described if config.checkpoint is None else f"{described}; pre-trained: after step {config.checkpoint:,}"


def samples(run: RunArtifacts) -> tuple[SampleRow, ...]:
    """Return the first captions of each category with both students' images, and the scene teacher's.

    Needs `evaluation`.
    """
    evaluation, recipe = run.artifacts["evaluation"], run.recipe
    labels = read_table(evaluation, "^samples", ["student", "prompt", "category"])
    # The first image of each prompt by each student, in the order of the rows: students, then prompts.
    first: dict[tuple[str, int], int] = {}
    shown: dict[str, set[int]] = {}
    columns = (labels[name].to_pylist() for name in ("student", "prompt", "category"))
    for index, (student, prompt, category) in enumerate(zip(*columns, strict=True)):
        chosen = shown.setdefault(category, set())
        if len(chosen) < recipe.report.examples:
            chosen.add(prompt)
        if prompt in chosen:
            first.setdefault((student, prompt), index)
    rows: dict[int, SampleRow] = {}
    for row in take_rows(evaluation, "^samples", sorted(first.values())).to_pylist():
        earlier = rows.get(row["prompt"]) or SampleRow(row["category"], row["caption"], _teacher_sample(recipe, row))
        sample = JudgedImage(decode_image(row["image"]["bytes"]), row["correct"])
        rows[row["prompt"]] = replace(earlier, samples={**earlier.samples, row["student"]: sample})
    return tuple(rows.values())


def _teacher_sample(recipe: Recipe, row: Mapping[str, Any]) -> dict[str, JudgedImage]:
    """Return the scene teacher's image of a caption; {} for other teachers, which never saw it."""
    if recipe.evaluation.benchmark != "scene" or any(each.teacher != "scene" for each in recipe.synthesis.each):
        return {}
    seed = derive_seed(recipe.seed, "report", row["prompt"])
    return {"teacher": JudgedImage(SceneTeacher(recipe.world).generate([row["caption"]], [seed])[0])}


def loss_curve(pretrain: Artifact) -> Curve:
    """Return the loss over all phases of the pre-training."""
    rows, meaning = _read_log(pretrain), "mean over masked tokens; lower is better"
    ends = [str(row["step"]) for row, following in itertools.pairwise(rows) if following["phase"] != row["phase"]]
    if ends:
        meaning += f"; the next phase begins after step {', '.join(ends)}"
    held_out = [row for row in rows if "validation_loss" in row]
    if held_out:
        last = held_out[-1]["validation_loss"]
        meaning += f"; held out: the averaged weights on images that training never sees, {last:.4g} at the end"
    steps, lines = _series(held_out, "validation_loss")
    sparse = {"held_out": (steps, lines["validation_loss"])} if held_out else {}
    return Curve("pre-training loss", *_series(rows, "loss"), meaning=meaning, sparse=sparse)


def preference_curves(dpo: Artifact) -> tuple[Curve, ...]:
    """Return accuracy and both images' errors over the steps of DPO; () for no steps."""
    rows = _read_log(dpo)
    if not rows:
        return ()
    accuracy, errors = _series(rows, "accuracy"), _series(rows, "winner_delta", "loser_delta")
    chance, rule = "fraction of pairs won; chance is a half", "the winner's must not rise"
    return (
        Curve("preference accuracy", *accuracy, meaning=chance, reference=0.5),
        Curve("error above the reference", *errors, meaning=rule, reference=0.0),
    )


def few_step_curve(distil_head: Artifact) -> Curve:
    """Return the loss of the few-step student over its training."""
    meaning = "squared error of the full sampler's tokens, whose values have a variance near 1"
    return Curve("few-step student loss", *_series(_read_log(distil_head), "loss"), meaning=meaning)


def _read_log(artifact: Artifact) -> list[dict[str, float]]:
    with artifact.open("log.json") as file:
        return json.load(file)


def _series(rows: list[dict[str, float]], *names: str) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    steps = np.array([row["step"] for row in rows], dtype=np.int64)
    return steps, {name: np.array([row[name] for row in rows], dtype=np.float64) for name in names}


def topics_of(captions: Artifact) -> tuple[Topic, ...]:
    """Return the topics with the most captions, in the captions' order, each with its first caption."""
    counts = captions.manifest().metrics["captions_by_topic"]
    largest = set(sorted(counts, key=lambda name: -counts[name])[:MAX_TOPICS])
    topics = read_table(captions, "^captions", ["topic"])["topic"].combine_chunks().dictionary_encode()
    rows_of_first = np.unique(topics.indices.to_numpy(), return_index=True)[1]
    first = take_rows(captions, "^captions", np.sort(rows_of_first), ["topic", "caption"]).to_pylist()
    return tuple(Topic(row["topic"], counts[row["topic"]], row["caption"]) for row in first if row["topic"] in largest)


def _repeated_captions(captions: Artifact) -> tuple[DuplicateCaption, ...]:
    dropped = read_table(captions, "^dropped", ["caption", "duplicate_of", "similarity"])
    examples = dropped.filter(pc.is_valid(dropped["duplicate_of"])).slice(0, 6).to_pylist()
    kept = read_table(captions, "^captions", ["caption"])["caption"]
    return tuple(
        DuplicateCaption(row["caption"], kept[row["duplicate_of"]].as_py(), row["similarity"]) for row in examples
    )


def dedup_summary(run: RunArtifacts) -> DedupSummary:
    """Return the dropped images by reason, with the least similar duplicates; needs `synthesis` and `dedup`."""
    manifest = run.artifacts["dedup"].manifest()
    certificate = manifest.metrics["certificate"]
    verdicts = read_table(run.artifacts["dedup"], "^keep")
    copies = verdicts.filter(pc.and_(pc.invert(verdicts["kept"]), pc.is_valid(verdicts["duplicate_of"])))
    least_similar = copies.sort_by([("similarity", "ascending"), ("id", "ascending")])
    examples = least_similar.slice(0, run.recipe.report.duplicates).to_pylist()
    ids = sorted({row[name] for row in examples for name in ("id", "duplicate_of")})
    synthesis = run.artifacts["synthesis"]
    indices = np.flatnonzero(np.isin(read_table(synthesis, "^images", ["id"])["id"].to_numpy(), ids))
    images = {
        row["id"]: (decode_image(row["image"]["bytes"]), row["caption"])
        for row in take_rows(synthesis, "^images", indices, ["id", "image", "caption"]).to_pylist()
    }
    planted = manifest.metrics["planted_copies"]
    return DedupSummary(
        images=len(verdicts),
        reasons=manifest.metrics["reasons"],
        threshold=run.recipe.dedup.threshold,
        index=tuple(certificate["index"]),
        queries=certificate["queries"],
        pairs=certificate["pairs"],
        recall=Interval(**certificate["recall"]) if certificate["recall"] else None,
        planted=planted["each"] if planted else 0,
        planted_found=planted["found"] if planted else {},
        planted_wrong=planted["wrong"] if planted else 0,
        examples=tuple(
            DuplicateImage(
                dropped=images[row["id"]][0],
                kept=images[row["duplicate_of"]][0],
                dropped_caption=images[row["id"]][1],
                kept_caption=images[row["duplicate_of"]][1],
                similarity=row["similarity"],
                reason=row["reason"],
            )
            for row in examples
        ),
    )


def pair_examples(run: RunArtifacts) -> tuple[PairExample, ...]:
    """Return the first pairs, of the last round; needs `pairs`."""
    pairs = run.last("pairs")
    count = min(run.recipe.report.pairs, pairs.manifest().counts["rows"])
    rows = take_rows(pairs, "^pairs", range(count), ["caption", "kind", "winner_image", "loser_image"]).to_pylist()
    examples = []
    for row in rows:
        winner, loser = (decode_image(row[name]["bytes"]) for name in ("winner_image", "loser_image"))
        examples.append(PairExample(row["caption"], winner, loser, row["kind"]))
    return tuple(examples)
