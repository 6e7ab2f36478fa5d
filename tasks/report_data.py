"""Gathers from the artifacts of a run what its report shows."""

import datetime
import json
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pyarrow.compute as pc
import yaml

from lightgen_core.diversity import Diversity
from lightgen_core.pictures import from_bytes
from lightgen_core.report.data import (
    Curve,
    DedupSummary,
    Duplicate,
    PairExample,
    Repeat,
    ReportData,
    Sample,
    SampleRow,
    StageRow,
    Topic,
)
from lightgen_core.seeds import seed_of
from lightgen_core.statistics import Interval
from lightgen_core.teacher import SceneTeacher
from storage.artifact import Artifact
from storage.tables import read_table
from tasks.recipe import Recipe


@dataclass(frozen=True)
class Inputs:
    """The artifacts of a run, by stage, and the recipe they were made from."""

    artifacts: Mapping[str, Artifact]
    recipe: Recipe


def gather(given: Inputs) -> ReportData:
    """Return everything that the page shows."""
    recipe, artifacts = given.recipe, given.artifacts
    manifests = {name: artifact.manifest() for name, artifact in artifacts.items()}
    scores = manifests["evaluation"].figures["scores"]
    newest = manifests["evaluation"]
    return ReportData(
        name=recipe.name,
        purpose=recipe.purpose,
        recipe=yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False),
        stages=tuple(_stage_row(artifact) for artifact in artifacts.values()),
        created_at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        scorer="the scene detector",
        scores={who: {name: Interval(**score) for name, score in table.items()} for who, table in scores.items()},
        scores_mean_nothing=recipe.scores_mean_nothing,
        samples=_samples(given),
        curves=_curves(artifacts),
        topics=_topics(artifacts["captions"]),
        repeats=_repeats(artifacts["captions"]),
        repeated_captions=manifests["captions"].counts["repeated"],
        diversity=tuple(Diversity(**manifests["dedup"].figures["diversity"]).figures()),
        dedup=_dedup(given),
        pairs=_pairs(given),
        pair_counts={kind: manifests["pairs"].counts[kind] for kind in ("teacher", "best_worst")},
        host=newest.host,
        software=newest.software,
    )


def _stage_row(artifact: Artifact) -> StageRow:
    manifest = artifact.manifest()
    return StageRow(
        stage=manifest.stage,
        key=manifest.key,
        inputs=tuple(manifest.inputs),
        rows=manifest.counts["rows"],
        bytes=sum(file.bytes for file in manifest.files),
        state="done",
        seconds=manifest.timings["seconds"],
        device_seconds=manifest.device_seconds,
        created_at=manifest.created_at,
    )


def _samples(given: Inputs) -> tuple[SampleRow, ...]:
    """The first captions of each category: what the teacher would draw, and what both students drew."""
    teacher = SceneTeacher(given.recipe.world)
    rows: dict[int, SampleRow] = {}
    shown: dict[str, int] = {}
    for row in read_table(given.artifacts["evaluation"], "^samples").to_pylist():
        prompt, category = row["prompt"], row["category"]
        if prompt not in rows:
            if row["student"] != "pretrain" or shown.get(category, 0) >= given.recipe.report.examples:
                continue
            shown[category] = shown.get(category, 0) + 1
            drawn = teacher.draw([row["caption"]], [seed_of(given.recipe.seed, "report", prompt)])[0]
            rows[prompt] = SampleRow(category, row["caption"], {"teacher": Sample(drawn)})
        if row["student"] not in rows[prompt].samples:
            sample = Sample(from_bytes(row["image"]["bytes"]), row["correct"])
            rows[prompt] = SampleRow(category, row["caption"], {**rows[prompt].samples, row["student"]: sample})
    return tuple(rows.values())


def _curves(artifacts: Mapping[str, Artifact]) -> tuple[Curve, ...]:
    loss = _log(artifacts["pretrain"])
    tuning = _log(artifacts["dpo"])
    meaning = "mean over hidden tokens; lower is better"
    later = [str(before["step"]) for before, row in pairwise(loss) if row["phase"] != before["phase"]]
    if later:
        meaning += f"; the next phase begins after step {', '.join(later)}"
    curves = [Curve("pre-training loss", *_lines(loss, ["loss"]), meaning=meaning)]
    if tuning:
        errors = ["winner_delta", "loser_delta"]
        curves += [
            Curve(
                "preference accuracy",
                *_lines(tuning, ["accuracy"]),
                meaning="share of pairs won; chance is a half",
                reference=0.5,
            ),
            Curve(
                "error above the reference",
                *_lines(tuning, errors),
                meaning="the winner's must not rise",
                reference=0.0,
            ),
        ]
    return tuple(curves)


def _log(artifact: Artifact) -> list[dict[str, float]]:
    with artifact.open("log.json") as file:
        return json.load(file)


def _lines(rows: list[dict[str, float]], names: list[str]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    steps = np.array([row["step"] for row in rows], dtype=np.int64)
    return steps, {name: np.array([row[name] for row in rows], dtype=np.float64) for name in names}


def _topics(captions: Artifact) -> tuple[Topic, ...]:
    table = read_table(captions, "^captions").to_pylist()
    first = {row["topic"]: row["caption"] for row in reversed(table)}
    counts = captions.manifest().figures["captions_by_topic"]
    return tuple(Topic(name, count, first[name]) for name, count in counts.items())


def _repeats(captions: Artifact, most: int = 6) -> tuple[Repeat, ...]:
    dropped = read_table(captions, "^dropped", ["caption", "duplicate_of", "similarity"])
    shown = dropped.filter(pc.is_valid(dropped["duplicate_of"])).slice(0, most).to_pylist()
    kept = read_table(captions, "^captions", ["caption"])["caption"]
    return tuple(Repeat(row["caption"], kept[row["duplicate_of"]].as_py(), row["similarity"]) for row in shown)


def _dedup(given: Inputs) -> DedupSummary:
    manifest = given.artifacts["dedup"].manifest()
    certificate = manifest.figures["certificate"]
    verdict = read_table(given.artifacts["dedup"], "^keep").to_pylist()
    gone = sorted((row for row in verdict if not row["kept"]), key=lambda row: (row["similarity"], row["id"]))
    examples = gone[: given.recipe.report.duplicates]
    pictures = _by_id(given.artifacts["synthesis"], {row[name] for row in examples for name in ("id", "duplicate_of")})
    return DedupSummary(
        pictures=len(verdict),
        reasons=manifest.figures["reasons"],
        threshold=given.recipe.dedup.threshold,
        index=tuple(certificate["index"]),
        queries=certificate["queries"],
        pairs=certificate["pairs"],
        recall=Interval(**certificate["recall"]) if certificate["recall"] else None,
        examples=tuple(
            Duplicate(
                dropped=pictures[row["id"]][0],
                kept=pictures[row["duplicate_of"]][0],
                dropped_caption=pictures[row["id"]][1],
                kept_caption=pictures[row["duplicate_of"]][1],
                similarity=row["similarity"],
                reason=row["reason"],
            )
            for row in examples
        ),
    )


def _by_id(synthesis: Artifact, ids: set[int]) -> dict[int, tuple[np.ndarray, str]]:
    """Return picture and caption of some of the teacher's pictures."""
    table = read_table(synthesis, "^images", ["id", "image", "caption"])
    chosen = table.take(np.flatnonzero(np.isin(table["id"].to_numpy(), sorted(ids)))).to_pylist()
    return {row["id"]: (from_bytes(row["image"]["bytes"]), row["caption"]) for row in chosen}


def _pairs(given: Inputs) -> tuple[PairExample, ...]:
    rows = read_table(given.artifacts["pairs"], "^pairs", ["caption", "kind", "winner_image", "loser_image"])
    return tuple(
        PairExample(
            row["caption"],
            from_bytes(row["winner_image"]["bytes"]),
            from_bytes(row["loser_image"]["bytes"]),
            row["kind"],
        )
        for row in rows.slice(0, given.recipe.report.pairs).to_pylist()
    )
