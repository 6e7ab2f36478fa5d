"""A student of a few thousand weights, and Parquet files that it can train on."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lightgen_core.config import HeadConfig, LoopConfig, MarConfig, MaskConfig, OptimizerConfig, TrainConfig
from lightgen_core.model.aligned import AlignedStudent, align_student
from lightgen_core.model.mar import Student, new_student
from lightgen_core.train.dpo import DpoCriterion
from lightgen_core.train.loop import RunContext, TrainResult, fit
from lightgen_core.train.losses import predict
from lightgen_core.train.pretrain import MaskedDenoisingCriterion

CHANNELS, SIDE, PATCH, TEXT_WIDTH, LONGEST = 2, 6, 2, 6, 5
GRID = (SIDE // PATCH, SIDE // PATCH)
TOKENS = GRID[0] * GRID[1]
TOKEN_WIDTH = CHANNELS * PATCH * PATCH
LAYOUT = {"dtype": "float16", "channels": CHANNELS, "height": SIDE, "width": SIDE, "text_width": TEXT_WIDTH}

FEATURE_CHANNELS = 5


def tiny_student(objective: str = "v", seed: int = 0, dropout: float = 0.1) -> Student:
    """Dropout is on, so that a resume that forgot its chance is seen."""
    mar = MarConfig(
        token_width=TOKEN_WIDTH,
        text_width=TEXT_WIDTH,
        width=16,
        heads=2,
        aligner_depth=1,
        encoder_depth=1,
        decoder_depth=1,
        text_depth=1,
        text_self_attention=True,
        dropout=dropout,
        position_grid=3,
    )
    return new_student(mar, HeadConfig(width=16, depth=1, objective=objective), seed)


def tiny_training(**changes) -> TrainConfig:
    settings = {
        "steps": 6,
        "batch_size": 4,
        "optimizer": OptimizerConfig(learning_rate=1e-2, warmup_steps=2, schedule="cosine", max_grad_norm=1.0),
        "noise_samples_per_token": 2,
        "mask": MaskConfig(distribution="uniform", min_ratio=0.0),
        "precision": "fp32",
        "log_every": 1,
        "checkpoint_every": 3,
    }
    return TrainConfig(**(settings | changes))


def token_losses(student, tokens, text, text_mask, grid, step_noise):
    """The unreduced loss of each masked token, (noise_samples, batch, num_masked)."""
    x0, output = predict(student, tokens, text, text_mask, grid, step_noise)
    losses = step_noise.objective.loss(output, x0, step_noise.timestep, step_noise.noise)
    return losses.unflatten(1, (-1, step_noise.num_masked))


def train(student: Student, source, config: LoopConfig, reference: Student | None = None, **run) -> TrainResult:
    """Pre-train, or with a reference tune by DPO; `run` are fields of `RunContext`."""
    criterion: MaskedDenoisingCriterion | DpoCriterion
    if reference is None:
        criterion = MaskedDenoisingCriterion.create(student, source, config)
    else:
        criterion = DpoCriterion.create(reference, source, config)
    return fit(student, source, criterion, RunContext(**run))


def write_rows(
    path: Path, rows: int, images=("latents",), seed: int = 0, layout: dict | None = LAYOUT, **columns
) -> Path:
    """Random rows with ids 100, 101, ...; `columns` replaces whole columns."""
    rng = np.random.default_rng(seed)
    words = rng.integers(1, LONGEST + 1, rows)

    def values(*shape: int) -> bytes:
        return rng.standard_normal(shape).astype(np.float16).tobytes()

    table = {"id": np.arange(100, 100 + rows), "text_length": words.astype(np.int32)}
    table |= {name: [values(CHANNELS, SIDE, SIDE) for _ in range(rows)] for name in images}
    table |= {"text": [values(count, TEXT_WIDTH) for count in words]} | columns
    metadata = {"lightgen": json.dumps(layout)} if layout else None
    pq.write_table(pa.table(table).replace_schema_metadata(metadata), path, compression="none", use_dictionary=False)
    return path


def write_features(path: Path, rows: int, seed: int = 0) -> Path:
    """Random rows as `write_rows`, each token with features."""
    rng = np.random.default_rng(seed + 1)
    sizes = {"feature_height": GRID[0], "feature_width": GRID[1], "feature_channels": FEATURE_CHANNELS}
    features = [rng.standard_normal((TOKENS, FEATURE_CHANNELS)).astype(np.float16).tobytes() for _ in range(rows)]
    return write_rows(path, rows, seed=seed, layout=LAYOUT | sizes, features=features)


def aligned_student(student: Student, config: TrainConfig, seed: int = 3) -> AlignedStudent:
    """Return a student with a projector of its own, as `config.repa` says."""
    return align_student(student, config.repa.resolve(student.mar.config, FEATURE_CHANNELS), seed)


def write_buckets(folder: Path, rows: dict[tuple[int, int], int]) -> list[Path]:
    """Write `bucket-*.parquet`, a file of so many random rows for each (height, width) of latents; ids go on."""
    files, first = [], 100
    for number, ((height, width), count) in enumerate(rows.items()):
        rng = np.random.default_rng(number)
        latents = [rng.standard_normal((CHANNELS, height, width)).astype(np.float16).tobytes() for _ in range(count)]
        files.append(
            write_rows(
                folder / f"bucket-{number}.parquet",
                count,
                seed=number,
                layout=LAYOUT | {"height": height, "width": width},
                id=np.arange(first, first + count),
                latents=pa.array(latents, pa.binary()),
            )
        )
        first += count
    return files
