"""The report's parts on the last student: samples as they come, failures, and how to use it."""

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lightgen_core.images.codec import decode_image
from lightgen_core.report.parts import Failures, PreviewRow, Previews, PromptScore, SampleGrid, SeededImage, Unmeasured
from storage.artifact import Artifact
from storage.rows import take_rows
from storage.tables import read_table
from tasks.config.recipe import Recipe
from tasks.config.validation import Validation
from tasks.pretrain_previews import PREVIEW_FILE
from tasks.rewriting import SAMPLED_CAPTION

if TYPE_CHECKING:
    from tasks.report_inputs import RunArtifacts

GRID = 48
"""Samples of the uncurated grid, at most."""
WORST, WORST_IMAGES = 8, 4
"""Captions of the lowest scores that are shown, and images of each, at most."""
_LABELS = ("student", "prompt", "category", "caption", "meaning", "seed", "correct")


def sample_grid(run: "RunArtifacts") -> SampleGrid:
    """Return the last student's samples at even distances, from the first on; needs `evaluation`."""
    name, labels = _last_samples(run)
    every = -(-len(labels) // GRID)
    return SampleGrid(name, every, len(labels), _images(run, labels.to_pylist()[::every]))


def failures(run: "RunArtifacts") -> Failures | None:
    """Return the last student's worst captions and its confusions; None where nobody judges. Needs `evaluation`."""
    if run.artifacts["evaluation"].manifest().metrics["judge"] is None:
        return None
    name, labels = _last_samples(run)
    rows = labels.to_pylist()
    by_prompt: dict[int, list[dict]] = {}
    for row in rows:
        by_prompt.setdefault(row["prompt"], []).append(row)
    scores = {prompt: float(np.mean([row["correct"] for row in each])) for prompt, each in by_prompt.items()}
    wrong = [prompt for prompt, score in scores.items() if score < 1]
    shown = [by_prompt[prompt][:WORST_IMAGES] for prompt in _worst(by_prompt, scores, wrong)]
    images = {row["row"]: image for each in shown for row, image in zip(each, _images(run, each), strict=True)}
    return Failures(
        student=name,
        prompts=len(scores),
        wrong=len(wrong),
        worst=tuple(
            PromptScore(each[0]["category"], scores[each[0]["prompt"]], tuple(images[row["row"]] for row in each))
            for each in shown
        ),
        confusions=_confusions(run, rows),
    )


def previews_of(pretrain: Artifact) -> Previews | None:
    """Return the captions that were sampled during pre-training; None if none were."""
    if not pretrain.names(f"^{PREVIEW_FILE}$"):
        return None
    rows = read_table(pretrain, f"^{PREVIEW_FILE}$").to_pylist()
    steps = tuple(dict.fromkeys(row["step"] for row in rows))
    by_seed: dict[tuple[str, int], list[np.ndarray]] = {}
    for row in rows:
        by_seed.setdefault((row["caption"], row["seed"]), []).append(decode_image(row["image"]["bytes"]))
    return Previews(steps, tuple(PreviewRow(*key, tuple(images)) for key, images in by_seed.items()))


def _worst(by_prompt: dict[int, list[dict]], scores: dict[int, float], wrong: list[int]) -> list[int]:
    """Return the prompts of the lowest scores; of equal ones each category in turn, and its first prompts first."""
    turns: Counter[tuple[float, str]] = Counter()
    order = []
    for prompt in sorted(wrong):
        kind = scores[prompt], by_prompt[prompt][0]["category"]
        order.append((scores[prompt], turns[kind], prompt))
        turns[kind] += 1
    return [prompt for *_, prompt in sorted(order)[:WORST]]


def _last_samples(run: "RunArtifacts") -> tuple[str, pa.Table]:
    """Return the last student's name in the scores, and its samples without images; `row`: of all samples."""
    rewritten = (SAMPLED_CAPTION,) if run.recipe.evaluation.rewrite else ()
    labels = read_table(run.artifacts["evaluation"], "^samples", [*_LABELS, *rewritten])
    labels = labels.append_column("row", pa.array(range(len(labels)), pa.int64()))
    name = "few_step" if "distil_head" in run.artifacts else "dpo"
    return name, labels.filter(pc.equal(labels["student"], name))


def _images(run: "RunArtifacts", rows: Sequence[dict]) -> tuple[SeededImage, ...]:
    """Return the images of ascending rows, each with what the scene detector finds, where it is the judge."""
    from lightgen_core.scene.confusion import describe_objects

    scene = run.recipe.evaluation.benchmark == "scene"
    images = _decoded(run, rows)
    return tuple(
        SeededImage(
            image,
            row.get(SAMPLED_CAPTION, row["caption"]),
            row["seed"],
            row["correct"],
            describe_objects(image) if scene else "",
        )
        for row, image in zip(rows, images, strict=True)
    )


def _confusions(run: "RunArtifacts", rows: Sequence[dict]) -> tuple:
    """Return what the scene detector finds in all samples, by what was asked for; () where another one judges."""
    from lightgen_core.scene.confusion import confusion_matrices
    from lightgen_core.scene.grammar import parse

    if run.recipe.evaluation.benchmark != "scene":
        return ()
    return confusion_matrices(_decoded(run, rows), [parse(row["meaning"]) for row in rows])


def _decoded(run: "RunArtifacts", rows: Sequence[dict]) -> list[np.ndarray]:
    taken = take_rows(run.artifacts["evaluation"], "^samples", [row["row"] for row in rows], ["image"])
    return [decode_image(image["bytes"]) for image in taken["image"].to_pylist()]


def unmeasured(recipe: Recipe, *, previews: bool) -> tuple[Unmeasured, ...]:
    """Return the measures that no stage of a run makes, each with the command that would."""
    steps, sampler = recipe.pretrain.steps, recipe.sampler
    ablate = f"lightgen ablate {recipe.name} --axis"
    rows = (
        []
        if previews
        else [("the same captions over training", f"lightgen run {recipe.name} --set pretrain.previews=8")]
    )
    rows += [
        ("score over steps of pre-training", f"{ablate} iterations --values {_around(steps)}"),
        ("score over guidance", f"{ablate} sampler.guidance_scale --values {_around(sampler.guidance_scale)}"),
        ("score over steps of the sampler", f"{ablate} sampler.iterations --values {_around(sampler.iterations)}"),
        ("score over steps of the head", f"{ablate} sampler.head_steps --values {_around(sampler.head_steps)}"),
    ]
    if kept := recipe.pretrain.keep_steps:
        values = ",".join(map(str, kept))
        rows.append(("score over the steps of this training", f"{ablate} checkpoints --values {values}"))
    if recipe.pretrain.validation is None:
        held = max(1, min(Validation().rows, recipe.synthesis.count // 20))
        command = f"lightgen run {recipe.name} --set pretrain.validation.rows={held}"
        rows.append(("loss on held-out images, which training then never sees", command))
    return tuple(Unmeasured(*row) for row in rows)


def _around(value: float) -> str:
    """Return half a value, the value and twice it, none below 1."""
    values = dict.fromkeys((max(1, value / 2), value, 2 * value))
    whole = isinstance(value, int)
    return ",".join(f"{int(each) if whole else each:g}" for each in values)
