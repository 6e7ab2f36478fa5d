"""distil_head: the last student and the texts -> the same student with a head of one evaluation a token."""

import json

import numpy as np
import pyarrow as pa

from lightgen_core.config import FitConfig
from lightgen_core.seeds import derive_seed
from storage.artifact import Artifact
from storage.plural import pluralize
from storage.rows import take_rows
from storage.tables import layout_metadata, read_table, schema
from tasks.config.distil_head import DistilHead
from tasks.config.recipe import Recipe
from tasks.context.context import StageContext
from tasks.context.shards import RowRangeShard, split_rows
from tasks.stage import stage
from tasks.token_files import TEXT_FILES

COLUMNS = {
    "id": pa.int64(),
    "guidance": pa.float32(),
    "states": pa.binary(),
    "noise": pa.binary(),
    "tokens": pa.binary(),
}
DTYPE = "float16"


def config_of(recipe: Recipe) -> DistilHead:
    """Return the stage's section, which recipes with this stage have."""
    assert recipe.distil_head is not None, "the plan has this stage for recipes with its section only"
    return recipe.distil_head


TRAINING = (*FitConfig.model_fields, "width", "depth")
"""Fields that decide nothing about the targets, which another head takes over."""


@stage(
    version=2,  # 2: begins with the diffusion head's weights
    config_sections=("seed", "distil_head", "sampler"),
    count_fields=tuple(f"distil_head.{name}" for name in (*TRAINING, "images")),
    on_device=True,
)
def distil_head(ctx: StageContext, student: Artifact, tokens: Artifact) -> None:
    """Write `targets-*.parquet`, noises and the tokens that the full sampler reaches from them; from these `student/`.

    Transformer and head stay as they are; the few-step head is one file more. `log.json` holds its loss curve.
    """
    config = config_of(ctx.recipe)

    def address(start: int, stop: int) -> str:
        return ctx.row_config.address(student.key, tokens.key, start, stop)

    shards = split_rows(config.images, config.shard_size, "targets", address=address)
    ctx.run_shards(shards, TeachingWorker, student, tokens)
    _train(ctx, student)


class TeachingWorker:
    """Draws a shard of images with the full sampler, and keeps noises and tokens."""

    def __init__(self, ctx: StageContext, student: Artifact, tokens: Artifact) -> None:
        from lightgen_core.model.save import load_student
        from lightgen_core.sampling.text_to_image import StudentInfo

        self.ctx, self.tokens, self.device = ctx, tokens, ctx.device()
        folder = ctx.local_folder(student, "student/")
        self.student, info = load_student(folder, weights="ema", device=self.device)
        self.grid = StudentInfo.model_validate(info).grid
        self.texts = len(read_table(tokens, TEXT_FILES, ["id"]))

    def __call__(self, shard: RowRangeShard) -> None:
        from lightgen_core.data.shuffle import rows_at
        from lightgen_core.data.token_rows import values_to_bytes
        from lightgen_core.encoders.dtypes import from_bytes
        from lightgen_core.model.flops import distillation_target_flops
        from lightgen_core.sampling.distillation import deterministic, sample_pairs
        from lightgen_core.sampling.unmask import pad_text

        recipe, config = self.ctx.recipe, config_of(self.ctx.recipe)
        images = np.arange(shard.start, shard.stop)
        chosen = rows_at(images, self.texts, derive_seed(recipe.seed, "distil_head", "captions"))
        indices, inverse = np.unique(chosen, return_inverse=True)
        table = take_rows(self.tokens, TEXT_FILES, indices, ["id", "text"])
        layout, rows = layout_metadata(table.schema), table.to_pylist()
        states = [from_bytes(rows[row]["text"], str(layout["dtype"])) for row in inverse]
        text, mask = pad_text([each.unflatten(0, (-1, layout["text_width"])) for each in states])
        sampler = deterministic(recipe.sampler)
        each = distillation_target_flops(
            self.student.mar.config,
            self.student.head.config,
            sampler,
            tokens=self.grid[0] * self.grid[1],
            text_tokens=text.shape[1],
            chosen=config.tokens_per_image,
            noise_samples=config.noise_samples_per_token,
        )
        pairs = sample_pairs(
            self.student,
            text.to(self.device),
            mask.to(self.device),
            self.grid,
            sampler,
            [derive_seed(recipe.seed, "distil_head", image) for image in images.tolist()],
            tokens_per_image=config.tokens_per_image,
            noise_samples=config.noise_samples_per_token,
            null_text=config.null_text,
            head_compile=self.ctx.head_compile(),
        )
        self.ctx.meter.count_flops(len(images) * each)
        columns = {"id": pa.array([rows[inverse[image]]["id"] for image in pairs.image.tolist()], pa.int64())}
        columns |= {"guidance": pa.array(pairs.guidance.numpy(), pa.float32())}
        values = {name: getattr(pairs, name).numpy() for name in ("states", "noise", "tokens")}
        width, samples = values["states"].shape[1], config.noise_samples_per_token
        form = schema(COLUMNS, {"dtype": DTYPE, "width": width, "samples": samples})
        self.ctx.write_table(
            shard.name, pa.table(columns | values_to_bytes(values, DTYPE), form), address=shard.address
        )


def _train(ctx: StageContext, student: Artifact) -> None:
    """Train the head on the artifact's own rows, and write it with the student that it is of."""
    from lightgen_core.data.distil_rows import DistilSource
    from lightgen_core.model.few_step import new_few_step_head, start_from
    from lightgen_core.model.save import load_student, save_student
    from lightgen_core.train.distil_head import DistilHeadCriterion
    from lightgen_core.train.loop import RunContext, fit

    recipe, config = ctx.recipe, config_of(ctx.recipe)
    folder = ctx.local_folder(student, "student/")
    (teacher, info), (averaged, _) = load_student(folder, weights="raw"), load_student(folder, weights="ema")
    mar = teacher.mar.config
    seed = derive_seed(recipe.seed, "distil_head")
    head = new_few_step_head(config.head(teacher.head.config), mar.token_width, mar.width, seed)
    started = start_from(head, averaged.head)
    source = DistilSource(ctx.read_output("^targets"), config.batch_size, seed)
    weights = "the diffusion head's weights" if started else "fresh weights"
    ctx.log("%s of %s from %s", pluralize(config.steps, "step"), pluralize(config.batch_size, "token"), weights)
    fitting = FitConfig(**config.model_dump(include=set(FitConfig.model_fields)))
    run = RunContext(seed, ctx.scratch / "checkpoints", ctx.device(), on_log=ctx.progress(config.steps))
    result = fit(head, source, DistilHeadCriterion(fitting, mar), run)
    head.load_state_dict(result.ema)
    sampler = recipe.sampler.model_copy(update={"head_sampler": "few_step"}).model_dump(mode="json")
    saved = ctx.scratch / "student"
    save_student(saved, teacher, averaged.state_dict(), info | {"sampler": sampler}, head)
    ctx.add_folder(saved, "student/")
    ctx.write("log.json", json.dumps(result.rows, sort_keys=True).encode())
    total, within = source.variance
    parameters = sum(weight.numel() for weight in head.parameters())
    ctx.counts = {"rows": source.rows, "steps": result.step, "parameters": parameters}
    ctx.metrics = {"final_loss": result.rows[-1]["loss"], "variance": total, "variance_of_noises": within}
