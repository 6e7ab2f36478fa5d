"""Gathers from the artifacts of a run what its report shows, and the page of each stage in the Prefect UI."""

import datetime
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import yaml

from lightgen_core.dedup.diversity import Diversity
from lightgen_core.images.codec import from_bytes
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
)
from lightgen_core.seeds import derive_seed
from lightgen_core.teachers.scene import SceneTeacher
from storage.artifact import Artifact
from storage.rows import take_rows
from storage.tables import read_table
from tasks.config.recipe import Recipe

MOST_TOPICS = 24
"""Topics that the page lists; a taxonomy of thousands would bury the rest."""


@dataclass(frozen=True)
class Inputs:
    """The artifacts of a run, by stage, and the recipe they were made from."""

    artifacts: Mapping[str, Artifact]
    recipe: Recipe


def gather(given: Inputs) -> ReportData:
    """Return everything that the page shows."""
    recipe, artifacts = given.recipe, given.artifacts
    manifests = {name: artifact.manifest() for name, artifact in artifacts.items()}
    newest = manifests["evaluation"]
    scored, pairs = newest.metrics, manifests["pairs"].counts
    topics = manifests["captions"].metrics["captions_by_topic"]
    return ReportData(
        name=recipe.name,
        purpose=recipe.purpose,
        recipe=yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False),
        stages=tuple(_stage_row(artifact) for artifact in artifacts.values()),
        created_at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        prompts=_prompts(recipe, newest.counts["prompts"]),
        scorer=scored["judge"],
        scores={
            who: {name: Interval(**score) for name, score in table.items()}
            for who, table in scored["scores"].items()
            if table is not None
        },
        clip_scores={who: Interval(**score) for who, score in scored.get("clip_score", {}).items()},
        smoke_test=recipe.smoke_test,
        samples=samples(given),
        curves=(loss_curve(artifacts["pretrain"]), *preference_curves(artifacts["dpo"])),
        topics=topics_of(artifacts["captions"]),
        other_topics=max(0, len(topics) - MOST_TOPICS),
        repeats=_repeats(artifacts["captions"]),
        repeated_captions=manifests["captions"].counts["repeated"],
        quarantine=manifests["synthesis"].metrics["quarantine"],
        diversity=tuple(Diversity(**manifests["dedup"].metrics["diversity"]).metrics()),
        dedup=dedup_summary(given),
        pairs=pair_examples(given),
        pair_counts={kind: pairs[kind] for kind in ("teacher", "best_worst") if pairs[kind]},
        captions_without_pair=pairs["without_pair"],
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


def _prompts(recipe: Recipe, count: int) -> str:
    """What the students were told to draw, in words."""
    asked = recipe.evaluation
    if asked.benchmark == "scene":
        return f"{count:,} held-out captions of the scene world"
    if asked.prompts:
        return f"{count:,} captions of {Path(asked.prompts).name}"
    return f"{count:,} captions of GenEval\N{RIGHT SINGLE QUOTATION MARK}s form (not its own list)"


def samples(given: Inputs) -> tuple[SampleRow, ...]:
    """The first captions of each category: what both students drew, and what the teacher would if it can say so.

    Needs `evaluation`.
    """
    drawn, recipe = given.artifacts["evaluation"], given.recipe
    about = read_table(drawn, "^samples", ["student", "prompt", "category"])
    # The first picture of each prompt by each student, in the order of the rows: students, then prompts.
    first: dict[tuple[str, int], int] = {}
    shown: dict[str, set[int]] = {}
    columns = (about[name].to_pylist() for name in ("student", "prompt", "category"))
    for place, (student, prompt, category) in enumerate(zip(*columns, strict=True)):
        chosen = shown.setdefault(category, set())
        if len(chosen) < recipe.report.examples:
            chosen.add(prompt)
        if prompt in chosen:
            first.setdefault((student, prompt), place)
    rows: dict[int, SampleRow] = {}
    for row in take_rows(drawn, "^samples", sorted(first.values())).to_pylist():
        before = rows.get(row["prompt"]) or SampleRow(row["category"], row["caption"], _teachers(recipe, row))
        sample = JudgedImage(from_bytes(row["image"]["bytes"]), row["correct"])
        rows[row["prompt"]] = replace(before, samples={**before.samples, row["student"]: sample})
    return tuple(rows.values())


def _teachers(recipe: Recipe, row: Mapping[str, Any]) -> dict[str, JudgedImage]:
    """What the scene teacher draws for a caption; nothing for other teachers, who were never asked about this one."""
    if recipe.evaluation.benchmark != "scene" or recipe.synthesis.teacher != "scene":
        return {}
    seed = derive_seed(recipe.seed, "report", row["prompt"])
    return {"teacher": JudgedImage(SceneTeacher(recipe.world).draw([row["caption"]], [seed])[0])}


def loss_curve(pretrain: Artifact) -> Curve:
    """The loss over all phases of the pre-training."""
    loss = _log(pretrain)
    meaning = "mean over hidden tokens; lower is better"
    later = [str(before["step"]) for before, row in pairwise(loss) if row["phase"] != before["phase"]]
    if later:
        meaning += f"; the next phase begins after step {', '.join(later)}"
    return Curve("pre-training loss", *_lines(loss, ["loss"]), meaning=meaning)


def preference_curves(dpo: Artifact) -> tuple[Curve, ...]:
    """How often the tuned student prefers the winner, and what both pictures' errors do; nothing of no steps."""
    tuning = _log(dpo)
    if not tuning:
        return ()
    won = "share of pairs won; chance is a half"
    return (
        Curve("preference accuracy", *_lines(tuning, ["accuracy"]), meaning=won, reference=0.5),
        Curve(
            "error above the reference",
            *_lines(tuning, ["winner_delta", "loser_delta"]),
            meaning="the winner's must not rise",
            reference=0.0,
        ),
    )


def _log(artifact: Artifact) -> list[dict[str, float]]:
    with artifact.open("log.json") as file:
        return json.load(file)


def _lines(rows: list[dict[str, float]], names: list[str]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    steps = np.array([row["step"] for row in rows], dtype=np.int64)
    return steps, {name: np.array([row[name] for row in rows], dtype=np.float64) for name in names}


def topics_of(captions: Artifact) -> tuple[Topic, ...]:
    """The topics with the most captions, in the captions' order, each with its first caption."""
    counts = captions.manifest().metrics["captions_by_topic"]
    largest = set(sorted(counts, key=lambda name: -counts[name])[:MOST_TOPICS])
    topics = read_table(captions, "^captions", ["topic"])["topic"].combine_chunks().dictionary_encode()
    places = np.unique(topics.indices.to_numpy(), return_index=True)[1]
    first = take_rows(captions, "^captions", np.sort(places), ["topic", "caption"]).to_pylist()
    return tuple(Topic(row["topic"], counts[row["topic"]], row["caption"]) for row in first if row["topic"] in largest)


def _repeats(captions: Artifact, most: int = 6) -> tuple[DuplicateCaption, ...]:
    dropped = read_table(captions, "^dropped", ["caption", "duplicate_of", "similarity"])
    shown = dropped.filter(pc.is_valid(dropped["duplicate_of"])).slice(0, most).to_pylist()
    kept = read_table(captions, "^captions", ["caption"])["caption"]
    return tuple(
        DuplicateCaption(row["caption"], kept[row["duplicate_of"]].as_py(), row["similarity"]) for row in shown
    )


def dedup_summary(given: Inputs) -> DedupSummary:
    """What went and why, with the copies that were hardest to tell; needs `synthesis` and `dedup`."""
    manifest = given.artifacts["dedup"].manifest()
    certificate = manifest.metrics["certificate"]
    verdict = read_table(given.artifacts["dedup"], "^keep")
    copies = verdict.filter(pc.and_(pc.invert(verdict["kept"]), pc.is_valid(verdict["duplicate_of"])))
    nearest_last = copies.sort_by([("similarity", "ascending"), ("id", "ascending")])
    examples = nearest_last.slice(0, given.recipe.report.duplicates).to_pylist()
    pictures = _by_id(given.artifacts["synthesis"], {row[name] for row in examples for name in ("id", "duplicate_of")})
    return DedupSummary(
        images=len(verdict),
        reasons=manifest.metrics["reasons"],
        threshold=given.recipe.dedup.threshold,
        index=tuple(certificate["index"]),
        queries=certificate["queries"],
        pairs=certificate["pairs"],
        recall=Interval(**certificate["recall"]) if certificate["recall"] else None,
        examples=tuple(
            DuplicateImage(
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
    every = read_table(synthesis, "^images", ["id"])["id"].to_numpy()
    places = np.flatnonzero(np.isin(every, sorted(ids)))
    chosen = take_rows(synthesis, "^images", places, ["id", "image", "caption"]).to_pylist()
    return {row["id"]: (from_bytes(row["image"]["bytes"]), row["caption"]) for row in chosen}


def pair_examples(given: Inputs) -> tuple[PairExample, ...]:
    """The first pairs; needs `pairs`."""
    pairs = given.artifacts["pairs"]
    shown = min(given.recipe.report.pairs, pairs.manifest().counts["rows"])
    rows = take_rows(pairs, "^pairs", range(shown), ["caption", "kind", "winner_image", "loser_image"]).to_pylist()
    return tuple(
        PairExample(
            row["caption"],
            from_bytes(row["winner_image"]["bytes"]),
            from_bytes(row["loser_image"]["bytes"]),
            row["kind"],
        )
        for row in rows
    )
