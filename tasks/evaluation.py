"""evaluation: both students -> scores on held-out captions, with intervals and a shuffled-caption control."""

from typing import Any

import numpy as np
import pyarrow as pa

from lightgen_core.evaluation import Prompt, evaluation_prompts, score_pictures, score_table, shuffled
from lightgen_core.pictures import from_bytes, to_png
from lightgen_core.seeds import seed_of
from storage.artifact import Artifact
from storage.tables import IMAGE, schema
from tasks.stage import Job, stage

SCHEMA = schema(
    {
        "id": pa.int64(),
        "student": pa.string(),
        "prompt": pa.int64(),
        "category": pa.string(),
        "caption": pa.string(),
        "meaning": pa.string(),
        "seed": pa.int64(),
        "image": IMAGE,
        "correct": pa.bool_(),
    }
)


@stage(version=1, reads=("seed", "world", "sampler", "evaluation"), on_device=True)
def evaluation(job: Job, pretrain: Artifact, dpo: Artifact) -> None:
    """Write `samples-*.parquet`, both students on the same captions and seeds; the scores go into the manifest."""
    from lightgen_core.text_to_image import TextToImage

    asked, world = job.recipe.evaluation, job.recipe.world
    prompts = evaluation_prompts(world, asked.per_category, seed_of(job.recipe.seed, "evaluation"))
    students = {"pretrain": pretrain, "dpo": dpo}
    work = [
        (name, prompt, image) for name in students for prompt in range(len(prompts)) for image in range(asked.images)
    ]
    loaded: dict[str, TextToImage] = {}
    for shard in job.shards(len(work), asked.shard_size, "samples"):
        rows = []
        for name in students:
            mine = [
                (at, *what[1:])
                for at, what in enumerate(work[shard.start : shard.stop], shard.start)
                if what[0] == name
            ]
            if not mine:
                continue
            if name not in loaded:
                folder = job.local_folder(students[name], "student/")
                loaded[name] = TextToImage.load(folder, job.device(), acceleration=job.acceleration())
            captions = [prompts[prompt].caption for _, prompt, _ in mine]
            seeds = [seed_of(job.recipe.seed, "evaluation", prompt, image) for _, prompt, image in mine]
            pictures = loaded[name].sample(captions, seeds, sampler=job.recipe.sampler).pictures
            correct = score_pictures(pictures, captions)
            rows += [
                _row(at, name, prompt, prompts[prompt], seed, picture, right)
                for (at, prompt, _), seed, picture, right in zip(mine, seeds, pictures, correct, strict=True)
            ]
        job.write_table(shard.name, pa.Table.from_pylist(rows, SCHEMA))
    job.figures = {"scores": _scores(job, prompts)}


def _row(
    at: int, student: str, number: int, prompt: Prompt, seed: int, picture: np.ndarray, right: bool
) -> dict[str, Any]:
    return {
        "id": at,
        "student": student,
        "prompt": number,
        "category": prompt.category,
        "caption": prompt.caption,
        "meaning": prompt.meaning,
        "seed": seed,
        "image": {"bytes": to_png(picture), "path": f"{at:06d}.png"},
        "correct": bool(right),
    }


def _scores(job: Job, prompts: list[Prompt]) -> dict[str, Any]:
    """Score both students, and the pre-trained one's pictures against another caption: what chance would give."""
    asked, seed = job.recipe.evaluation, seed_of(job.recipe.seed, "bootstrap")
    samples = job.written("^samples")
    names = np.asarray(samples["student"].to_pylist())
    correct = samples["correct"].to_numpy(zero_copy_only=False)
    shape = (len(prompts), asked.images)
    scores = {
        name: score_table(correct[names == name].reshape(shape), prompts, seed, asked.resamples)
        for name in ("pretrain", "dpo")
    }
    other = shuffled(prompts, seed_of(job.recipe.seed, "shuffled"))
    encoded = samples.filter(pa.array(names == "pretrain"))["image"].combine_chunks().field("bytes").to_pylist()
    pictures = np.stack([from_bytes(data) for data in encoded])
    against = [prompts[index] for index in other]
    control = score_pictures(pictures, [prompt.caption for prompt in against for _ in range(asked.images)])
    return scores | {"shuffled": score_table(control.reshape(shape), against, seed, asked.resamples)}
