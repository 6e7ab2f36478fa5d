"""evaluation: both students -> pictures of captions they never saw, and scores with intervals where a judge applies."""

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from lightgen_core.evaluation.judge import JUDGES, Judge, load_judge
from lightgen_core.evaluation.prompt import Prompt, mismatched_prompts
from lightgen_core.evaluation.scores import score_table
from lightgen_core.images.codec import from_bytes, to_png
from lightgen_core.intervals import bootstrap_mean
from lightgen_core.seeds import derive_seed
from storage.artifact import Artifact
from storage.tables import IMAGE, schema
from tasks.config.recipe import Recipe
from tasks.context.context import Job
from tasks.context.shards import Run, runs
from tasks.evaluation_prompts import evaluation_prompts, prompt_files
from tasks.stage import stage

if TYPE_CHECKING:
    import torch

    from lightgen_core.encoders.clip import Clip
    from lightgen_core.sampling.text_to_image import TextToImage

STUDENTS = ("pretrain", "dpo")
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


def frozen(recipe: Recipe) -> tuple[str, ...]:
    """Return the frozen models that the verdicts and figures come from."""
    asked = recipe.evaluation
    judges = (asked.detector, asked.color_model) if asked.benchmark == "geneval" else ()
    return (*judges, recipe.embeddings.model) if asked.clip_score else judges


@stage(version=3, reads=("seed", "world", "sampler", "evaluation"), weights=frozen, files=prompt_files, on_device=True)
def evaluation(job: Job, pretrain: Artifact, dpo: Artifact) -> None:
    """Write `samples-*.parquet`, both students on the same captions and seeds; the scores go into the manifest.

    Where nobody can judge, `correct` is null and every score is null: pictures and, if asked for, CLIP's score remain.
    """
    asked, device = job.recipe.evaluation, job.device()
    prompts = evaluation_prompts(job.recipe)
    count = len(STUDENTS) * len(prompts) * asked.images
    job.each(runs(count, asked.shard_size, "samples"), Sampler, {"pretrain": pretrain, "dpo": dpo}, prompts)
    judge = _judge(job.recipe, device)
    job.counts = {"prompts": len(prompts)}
    job.figures = {"judge": JUDGES.get(asked.benchmark), "scores": _scores(job, prompts, judge)}
    if asked.clip_score:
        from lightgen_core.encoders.clip import Clip

        job.figures["clip_score"] = _clip_scores(job, Clip.load(job.recipe.embeddings.model, device=device))


def _judge(recipe: Recipe, device: "torch.device") -> Judge | None:
    return load_judge(recipe.evaluation.benchmark, recipe.evaluation.detector, recipe.evaluation.color_model, device)


class Sampler:
    """Draws a shard of pictures with the students, and judges them."""

    def __init__(self, job: Job, students: dict[str, Artifact], prompts: list[Prompt]) -> None:
        self.job, self.students, self.prompts = job, students, prompts
        self.judge = _judge(job.recipe, job.device())
        self.loaded: dict[str, TextToImage] = {}

    def __call__(self, shard: Run) -> None:
        rows = []
        for name in self.students:
            mine = self._of_student(shard, name)
            if not mine:
                continue
            told = [self.prompts[prompt] for _, prompt, _ in mine]
            seeds = [derive_seed(self.job.recipe.seed, "evaluation", prompt, image) for _, prompt, image in mine]
            captions = [prompt.caption for prompt in told]
            pictures = self._student(name).sample(captions, seeds, sampler=self.job.recipe.sampler).pictures
            verdicts = [None] * len(told) if self.judge is None else self.judge(list(pictures), told).tolist()
            rows += [
                _row(at, name, number, prompt, seed, picture, correct)
                for (at, number, _), prompt, seed, picture, correct in zip(
                    mine, told, seeds, pictures, verdicts, strict=True
                )
            ]
        self.job.write_table(shard.name, pa.Table.from_pylist(rows, SCHEMA))

    def _of_student(self, shard: Run, name: str) -> list[tuple[int, int, int]]:
        """Return what of a shard a student draws: row, prompt, image. One draws all of its pictures, then the next."""
        images = self.job.recipe.evaluation.images
        first = list(self.students).index(name) * len(self.prompts) * images
        last = first + len(self.prompts) * images
        rows = range(max(shard.start, first), min(shard.stop, last))
        return [(row, *divmod(row - first, images)) for row in rows]

    def _student(self, name: str) -> "TextToImage":
        from lightgen_core.sampling.text_to_image import TextToImage

        if name not in self.loaded:
            folder = self.job.local_folder(self.students[name], "student/")
            self.loaded[name] = TextToImage.load(folder, self.job.device(), head_compile=self.job.acceleration())
        return self.loaded[name]


def _row(
    at: int, student: str, number: int, prompt: Prompt, seed: int, picture: np.ndarray, correct: bool | None
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
        "correct": correct,
    }


def _scores(job: Job, prompts: list[Prompt], judge: Judge | None) -> dict[str, Any]:
    """Score both students, and the pre-trained one's pictures against another caption: what chance would give."""
    if judge is None:
        return dict.fromkeys((*STUDENTS, "shuffled"))
    asked, seed = job.recipe.evaluation, derive_seed(job.recipe.seed, "bootstrap")
    against = [prompts[index] for index in mismatched_prompts(prompts, derive_seed(job.recipe.seed, "shuffled"))]
    verdicts: dict[str, list[bool]] = {name: [] for name in (*STUDENTS, "shuffled")}
    for samples in job.each_written("^samples"):
        for name in STUDENTS:
            verdicts[name] += _of(samples, name)["correct"].to_pylist()
        mine = _of(samples, "pretrain")
        other = [against[number] for number in mine["prompt"].to_pylist()]
        verdicts["shuffled"] += judge(_pictures(mine), other).tolist() if other else []
    shape = (len(prompts), asked.images)
    return {
        name: score_table(
            np.array(verdicts[name]).reshape(shape), against if name == "shuffled" else prompts, seed, asked.resamples
        )
        for name in verdicts
    }


def _of(samples: pa.Table, student: str) -> pa.Table:
    """Return the samples of one student."""
    import pyarrow.compute as pc  # late: it takes as long as all the rest of pyarrow

    return samples.filter(pc.equal(samples["student"], student))


def _clip_scores(job: Job, clip: "Clip") -> dict[str, dict[str, float | int]]:
    """Return each student's mean cosine of picture and caption, with an interval bootstrapped over captions."""
    cosines: dict[str, list[float]] = {name: [] for name in STUDENTS}
    captions: dict[str, list[str]] = {name: [] for name in STUDENTS}
    for samples in job.each_written("^samples"):
        for name in STUDENTS:
            mine = _of(samples, name)
            if len(mine):
                told = mine["caption"].to_pylist()
                cosines[name] += clip.scores(_pictures(mine), told).tolist()
                captions[name] += told
    seed, resamples = derive_seed(job.recipe.seed, "bootstrap"), job.recipe.evaluation.resamples
    return {
        name: bootstrap_mean(cosines[name], captions[name], seed, resamples=resamples).as_dict() for name in STUDENTS
    }


def _pictures(samples: pa.Table) -> list[np.ndarray]:
    return [from_bytes(data) for data in samples["image"].combine_chunks().field("bytes").to_pylist()]
