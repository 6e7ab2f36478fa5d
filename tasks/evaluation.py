"""evaluation: the students -> images of captions they never saw, and scores with intervals where a judge applies."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from lightgen_core.evaluation.judge import JUDGES, Judge, load_judge
from lightgen_core.evaluation.prompt import Prompt, mismatched_prompts
from lightgen_core.evaluation.references import REFERENCE_MODEL, find_references
from lightgen_core.evaluation.samples import clip_score_samples, compare_samples, sample_row, samples_of, score_samples
from lightgen_core.images.parallel import encode_images
from lightgen_core.seeds import derive_seed
from storage.artifact import Artifact
from storage.tables import IMAGE, schema
from tasks.config.recipe import Recipe
from tasks.context.context import StageContext
from tasks.context.shards import RowRangeShard, split_rows
from tasks.evaluation_prompts import evaluation_files, evaluation_prompts
from tasks.rewriting import SAMPLED_CAPTION, rewrite_prompts
from tasks.stage import stage
from tasks.training import kept_student

if TYPE_CHECKING:
    from lightgen_core.sampling.text_to_image import TextToImage

STUDENTS = ("pretrain", "sft", "dpo")
"""The students whose scores every evaluation names; `sft` is the control of preference tuning, None without one."""
FEW_STEP = "few_step"
"""The few-step student, scored where the recipe has one."""
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


def _frozen_models(recipe: Recipe) -> tuple[str, ...]:
    """Return the frozen models behind the verdicts and metrics."""
    config = recipe.evaluation
    judges: tuple[str, ...] = (config.detector, config.color_model) if config.benchmark == "geneval" else ()
    judges += (REFERENCE_MODEL,) if config.references else ()
    judges += config.rewrite.weights if config.rewrite else ()
    return (*judges, recipe.embeddings.model) if config.clip_score else judges


@stage(
    version=7,
    config_sections=("seed", "world", "sampler", "evaluation"),
    weights=_frozen_models,
    files=evaluation_files,
    on_device=True,
)
def evaluation(ctx: StageContext, pretrain: Artifact, *tuned: Artifact) -> None:
    """Write `samples-*.parquet`, all students on the same captions and seeds; the scores go into the manifest.

    `tuned`: the tuned student, its control and the one with a few-step head, as far as they were asked for. Where
    nobody can judge, `correct` is null and every score is null: images and, on request, CLIP's score remain. Prompts
    are rewritten first where the recipe says so, into `rewrites-*.parquet`.
    """
    recipe, config = ctx.recipe, ctx.recipe.evaluation
    prompts, students = evaluation_prompts(recipe), _students(pretrain, tuned)
    if config.references:
        find_references(config.references, [prompt.caption for prompt in prompts])  # an error comes before the work
    captions, rewritten = [prompt.caption for prompt in prompts], None
    if config.rewrite:
        captions, rewritten = rewrite_prompts(ctx, prompts)
    each = len(prompts) * config.images

    def address(start: int, stop: int) -> str | None:
        """Of a shard of one student: another evaluation may have sampled the same, beside another student."""
        name = list(students)[start // each]
        whole = start // each == (stop - 1) // each
        return ctx.row_config.address(name, students[name].key, start, stop, captions) if whole else None

    shards = split_rows(len(students) * each, config.shard_size, "samples", address=address)
    ctx.run_shards(shards, SamplingWorker, students, prompts, captions)
    options: dict[str, Any] = {"seed": derive_seed(recipe.seed, "bootstrap"), "resamples": config.resamples}
    options["threads"] = ctx.settings.threads
    names = tuple(name for name in (*STUDENTS, FEW_STEP) if name in students)
    scored: dict[str, Any] = {"scores": {}, "differences": {}}
    if judge := _load_judge(ctx):
        others = mismatched_prompts(prompts, derive_seed(recipe.seed, "shuffled")).tolist()
        tables = ctx.iter_output("^samples")
        scored = score_samples(tables, names, prompts, others, judge, images=config.images, **options)
    scored["scores"] = dict.fromkeys((*dict.fromkeys((*STUDENTS, *names)), "shuffled")) | scored["scores"]
    ctx.counts = {"prompts": len(prompts)}
    ctx.metrics = {"judge": JUDGES.get(config.benchmark), **scored}
    if rewritten:
        ctx.metrics["rewritten"] = rewritten
    if config.clip_score:
        from lightgen_core.encoders.clip import Clip

        clip = Clip.load(recipe.embeddings.model, device=ctx.device())
        ctx.metrics["clip_score"] = clip_score_samples(ctx.iter_output("^samples"), names, clip, **options)
    if config.references:
        tables = ctx.iter_output("^samples")
        ctx.metrics["references"] = compare_samples(tables, names, config.references, ctx.device(), **options)


def _students(pretrain: Artifact, tuned: Sequence[Artifact]) -> dict[str, Artifact]:
    """Return the students by their names in the scores."""
    names = ("dpo", "sft")  # of tuned students, in the order in which they are given
    full = [each for each in tuned if each.stage != "distil_head"]
    few_step = [each for each in tuned if each.stage == "distil_head"]
    return {"pretrain": pretrain} | dict(zip(names, full, strict=False)) | dict(zip([FEW_STEP], few_step, strict=False))


def _load_judge(ctx: StageContext) -> Judge | None:
    config = ctx.recipe.evaluation
    return load_judge(config.benchmark, config.detector, config.color_model, ctx.device())


class SamplingWorker:
    """Samples a shard of images from the students, and judges them."""

    def __init__(
        self, ctx: StageContext, students: dict[str, Artifact], prompts: list[Prompt], captions: list[str]
    ) -> None:
        self.ctx, self.students, self.prompts, self.captions = ctx, students, prompts, captions
        self.judge = _load_judge(ctx)
        self.loaded: dict[str, TextToImage] = {}

    def __call__(self, shard: RowRangeShard) -> None:
        recipe, rows = self.ctx.recipe, []
        for number, name in enumerate(self.students):
            samples = samples_of(number, len(self.prompts), recipe.evaluation.images, shard.start, shard.stop)
            if not samples:
                continue
            prompts = [self.prompts[index] for _, index, _ in samples]
            seeds = [derive_seed(recipe.seed, "evaluation", index, image) for _, index, image in samples]
            captions = [self.captions[index] for _, index, _ in samples]
            student = self._load_student(name)
            sampler = student.sampler if name == FEW_STEP else recipe.sampler  # it learned at a temperature of its own
            sampled = student.sample(captions, seeds, sampler=sampler)
            self.ctx.meter.count_flops(sampled.flops)
            images = sampled.images
            verdicts = [None] * len(prompts) if self.judge is None else self.judge(list(images), prompts).tolist()
            encoded = encode_images(images, self.ctx.settings.threads)
            for (row, index, _), *fields in zip(samples, prompts, seeds, encoded, verdicts, strict=True):
                rows.append(sample_row(row, name, index, *fields))
        table = pa.Table.from_pylist(rows, SCHEMA)
        if recipe.evaluation.rewrite:
            given = [self.captions[row["prompt"]] for row in rows]
            table = table.append_column(SAMPLED_CAPTION, pa.array(given, pa.string()))
        self.ctx.write_table(shard.name, table, address=shard.address)

    def _load_student(self, name: str) -> "TextToImage":
        from lightgen_core.sampling.load import load_text_to_image

        if name not in self.loaded:
            step = self.ctx.recipe.evaluation.checkpoint if name == "pretrain" else None
            kept = "student/" if step is None else kept_student(step)
            folder = self.ctx.local_folder(self.students[name], kept)
            beside = next(iter(self.loaded.values()), None)  # both students share one codec and text encoder
            self.loaded[name] = load_text_to_image(
                folder, self.ctx.device(), head_compile=self.ctx.head_compile(), beside=beside
            )
        return self.loaded[name]
