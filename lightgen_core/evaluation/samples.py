"""Evaluation samples as rows of a table, and the scores over them."""

from collections.abc import Iterable, Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from lightgen_core.evaluation.judge import Judge
from lightgen_core.evaluation.prompt import Prompt
from lightgen_core.evaluation.scores import score_table
from lightgen_core.images.parallel import decode_images, encoded_bytes
from lightgen_core.intervals import bootstrap_mean

if TYPE_CHECKING:
    import torch

    from lightgen_core.encoders.clip import Clip


def samples_of(student: int, prompts: int, images: int, start: int, stop: int) -> list[tuple[int, int, int]]:
    """Return row, prompt and image index of a student's samples in rows [start, stop); students come in turn."""
    first = student * prompts * images
    rows = range(max(start, first), min(stop, first + prompts * images))
    return [(row, *divmod(row - first, images)) for row in rows]


def sample_row(
    index: int, student: str, prompt_index: int, prompt: Prompt, seed: int, png: bytes, correct: bool | None
) -> dict[str, Any]:
    """Return the row of one sample; `correct` is None if nobody judges it."""
    return {
        "id": index,
        "student": student,
        "prompt": prompt_index,
        "category": prompt.category,
        "caption": prompt.caption,
        "meaning": prompt.meaning,
        "seed": seed,
        "image": {"bytes": png, "path": f"{index:06d}.png"},
        "correct": correct,
    }


def score_samples(
    tables: Iterable[pa.Table],
    students: Sequence[str],
    prompts: Sequence[Prompt],
    mismatched_prompts: Sequence[int],
    judge: Judge,
    *,
    images: int,
    seed: int,
    resamples: int,
    threads: int = 1,
) -> dict[str, Any]:
    """Score each student, and as `shuffled` the first student's images against other prompts: the chance level.

    Returns `scores` by student, and `differences` by `dpo-pretrain`, with an interval over prompts of the difference of
    verdicts on the same prompt and seed.

    Args:
        tables: of `sample_row`s; each student's rows come in the order of prompts.
        mismatched_prompts: (prompts,) index of the other prompt for each.
        judge: of the shuffled images.
        images: number for each prompt and student.
        seed, resamples: of the bootstrap.
        threads: that decode images.
    """
    others = [prompts[index] for index in mismatched_prompts]
    verdicts: dict[str, list[bool]] = {name: [] for name in (*students, "shuffled")}
    for samples in tables:
        for name in students:
            verdicts[name] += _rows_of(samples, name)["correct"].to_pylist()
        first = _rows_of(samples, students[0])
        targets = [others[index] for index in first["prompt"].to_pylist()]
        verdicts["shuffled"] += judge(_decode(first, threads), targets).tolist() if targets else []
    correct = {name: np.array(each, dtype=np.int8).reshape(len(prompts), images) for name, each in verdicts.items()}
    return {
        "scores": {
            name: score_table(each, others if name == "shuffled" else prompts, seed, resamples)
            for name, each in correct.items()
        },
        "differences": {
            f"{later}-{earlier}": score_table(correct[later] - correct[earlier], prompts, seed, resamples, paired=True)
            for earlier, later in combinations(students, 2)
        },
    }


def clip_score_samples(
    tables: Iterable[pa.Table], students: Sequence[str], clip: "Clip", *, seed: int, resamples: int, threads: int = 1
) -> dict[str, dict[str, float | int]]:
    """Return each student's mean cosine of image and caption, with an interval bootstrapped over captions."""
    cosines: dict[str, list[float]] = {name: [] for name in students}
    captions: dict[str, list[str]] = {name: [] for name in students}
    for samples in tables:
        for name in students:
            rows = _rows_of(samples, name)
            if len(rows):
                texts = rows["caption"].to_pylist()
                cosines[name] += clip.scores(_decode(rows, threads), texts).tolist()
                captions[name] += texts
    return {
        name: bootstrap_mean(cosines[name], captions[name], seed, resamples=resamples).as_dict() for name in students
    }


def compare_samples(
    tables: Iterable[pa.Table],
    students: Sequence[str],
    references: str,
    device: "torch.device",
    *,
    seed: int,
    resamples: int,
    threads: int = 1,
) -> dict[str, Any]:
    """Compare each student's samples with a set of images; see `references.compare`. Raises as `load_references`."""
    from lightgen_core.evaluation.references import Features, compare, load_references

    embed = Features(device)
    vectors: dict[str, list[np.ndarray]] = {name: [] for name in students}
    captions: dict[str, list[str]] = {name: [] for name in students}
    side = 0
    for samples in tables:
        for name in students:
            rows = _rows_of(samples, name)
            if len(rows):
                images = _decode(rows, threads)
                side = side or min(images[0].shape[:2])
                vectors[name].append(embed(images))
                captions[name] += rows["caption"].to_pylist()
    loaded = load_references(references, captions[students[0]], side, embed)
    features = {name: np.concatenate(parts) for name, parts in vectors.items()}
    return compare(features, captions, loaded, seed=seed, resamples=resamples)


def _rows_of(samples: pa.Table, student: str) -> pa.Table:
    import pyarrow.compute as pc  # late: it takes as long as all the rest of pyarrow

    return samples.filter(pc.equal(samples["student"], student))


def _decode(samples: pa.Table, threads: int) -> list[np.ndarray]:
    return decode_images(encoded_bytes(samples["image"]), samples["id"].to_pylist(), threads)
