"""Representation alignment: its loss, what it trains, and that only training knows of the projector."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from lightgen_core.config import MaskConfig, OptimizerConfig, RepaConfig
from lightgen_core.data.batches import TokenSource
from lightgen_core.data.held_out import HeldOutRows
from lightgen_core.data.token_file import DataError
from lightgen_core.launch.job import NewStudent, RunLocation, SnapshotConfig, StudentCheckpoint, TrainingJob
from lightgen_core.launch.run import train as train_job
from lightgen_core.launch.snapshots import snapshot_folder
from lightgen_core.model.mar import gather_tokens
from lightgen_core.model.save import load_student
from lightgen_core.train.losses import alignment_loss, predict, student_inputs
from lightgen_core.train.pretrain import MaskedDenoisingCriterion
from lightgen_core.train.step_noise import step_generator
from lightgen_core.train.validation import HeldOutLoss
from tests.factories.tiny_student import (
    FEATURE_CHANNELS,
    LAYOUT,
    PATCH,
    TOKENS,
    aligned_student,
    tiny_student,
    tiny_training,
    train,
    write_features,
    write_rows,
)

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = torch.device("cpu")
REPA = RepaConfig(weight=0.5)


@pytest.fixture(scope="module")
def tokens(tmp_path_factory):
    return write_features(tmp_path_factory.mktemp("tokens") / "tokens.parquet", rows=10)


def source_of(tokens, features=True):
    return TokenSource([tokens], patch=PATCH, batch_size=4, seed=7, features=features)


def prepared(tokens, step=0, **changes):
    """A student in evaluation mode with its criterion, and the rows and noise of a step."""
    config = tiny_training(**({"repa": REPA} | changes))
    student, source = tiny_student(), source_of(tokens)
    aligned = aligned_student(student, config).eval()
    criterion = MaskedDenoisingCriterion.create(student, source, config)
    batch = source.batch(step).to(CPU)
    return aligned, criterion, batch, criterion.sample_noise(batch.grid, (0, 4), step_generator(7, step))


def states_behind(student, block, batch, noise, tokens):
    """The states of a block, in a forward pass of the student alone."""
    seen = []
    hook = block.register_forward_hook(lambda module, given, output: seen.append(output))
    predict(student, tokens, batch.text, batch.text_mask, batch.grid, noise)
    hook.remove()
    return seen[0]


def written_out(projector, states, features):
    """1 - cosine, averaged over the tokens of each image, in float64 and token by token."""
    first, second, third = (projector[number] for number in (0, 2, 4))

    def layer(linear, values):
        return values @ linear.weight.double().T + linear.bias.double()

    def silu(values):
        return values / (1 + torch.exp(-values))

    projected = layer(third, silu(layer(second, silu(layer(first, states.double())))))
    losses = torch.zeros(len(states), dtype=torch.float64)
    for image in range(len(states)):
        for token in range(states.shape[1]):
            own, target = projected[image, token], features[image, token].double()
            losses[image] += 1 - own.dot(target) / (own.dot(own) * target.dot(target)).sqrt()
    return losses / states.shape[1]


@pytest.mark.parametrize("drop_ratio", [0.0, 0.5])
@pytest.mark.parametrize("depth", [1, 2])
def test_the_loss_is_the_formula_written_out(tokens, depth, drop_ratio):
    """Of decoder and text block, with and without tokens that a step leaves out."""
    repa = RepaConfig(weight=0.7, depth=depth)
    mask = MaskConfig(min_ratio=0.7, drop_ratio=drop_ratio)
    aligned, criterion, batch, noise = prepared(tokens, repa=repa, mask=mask)
    with torch.no_grad():
        output = criterion.losses(aligned, batch, noise)
        states = states_behind(aligned, aligned.aligned_block, batch, noise, batch.tokens)
        features = batch.features if noise.places is None else gather_tokens(batch.features, noise.places)
        expected = written_out(aligned.projector, states, features)
    assert (states.shape[1] < TOKENS) == (drop_ratio > 0)
    torch.testing.assert_close(output.metrics["alignment_loss"].double(), expected, rtol=1e-5, atol=1e-6)
    plain = MaskedDenoisingCriterion.create(
        aligned, source_of(tokens), criterion.config.model_copy(update={"repa": None})
    )
    with torch.no_grad():
        denoising = plain.losses(aligned, batch, noise).loss
    assert output.metrics["loss"].equal(denoising)
    torch.testing.assert_close(output.loss.double(), denoising.double() + 0.7 * expected, rtol=1e-5, atol=1e-6)


def test_text_blocks_without_self_attention_align_masked_tokens(tokens):
    """Only those pass through them."""
    student = tiny_student()
    mar = student.mar.config.model_copy(update={"text_self_attention": False})
    config = tiny_training(repa=RepaConfig(depth=2))
    aligned = aligned_student(type(student)(mar, student.head.config), config).eval()
    source = source_of(tokens)
    criterion = MaskedDenoisingCriterion.create(aligned, source, config)
    batch = source.batch(0).to(CPU)
    noise = criterion.sample_noise(batch.grid, (0, 4), step_generator(7, 1))
    assert 0 < noise.num_masked < TOKENS
    with torch.no_grad():
        states = states_behind(aligned, aligned.mar.cross_blocks[0], batch, noise, batch.tokens)
        found = criterion.losses(aligned, batch, noise).metrics["alignment_loss"]
    expected = written_out(aligned.projector, states, gather_tokens(batch.features, noise.masked_index))
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6)


def test_the_loss_of_equal_directions_is_zero_and_of_opposite_two():
    features = torch.randn(3, 4, FEATURE_CHANNELS)
    assert alignment_loss(7 * features, features).abs().max() < 1e-6
    torch.testing.assert_close(alignment_loss(-features, features), torch.full((3,), 2.0))


def test_alignment_trains_blocks_up_to_its_own_and_no_later(tokens):
    aligned, _, batch, noise = prepared(tokens)
    _, inputs = student_inputs(batch.tokens, batch.text, batch.text_mask, batch.grid, noise)
    alignment_loss(aligned(**inputs, aligned=True)[1], batch.features).sum().backward()
    learned = {name for name, weight in aligned.named_parameters() if weight.grad is not None and weight.grad.any()}
    before = ("projector.", "mar.token_in", "mar.encoder", "mar.decoder", "mar.mask_token")
    assert {name for name, _ in aligned.named_parameters() if name.startswith(before)} - learned == {
        "mar.decoder_norm.weight",
        "mar.decoder_norm.bias",
    }
    behind = ("mar.decoder_norm", "mar.cross", "mar.aligner", "mar.null_text", "head.")
    assert not [name for name in learned if name.startswith(behind)]


def run(tokens, folder, on_log=None, **changes):
    config = tiny_training(**({"repa": REPA} | changes))
    student = aligned_student(tiny_student(), config) if config.repa else tiny_student()
    source = source_of(tokens, features=config.repa is not None)
    return train(student, source, config, seed=7, folder=folder, device=CPU, on_log=on_log)


class Interrupted(Exception):
    """Stands for a kill."""


def interrupt(row):
    if row["step"] == 5:
        raise Interrupted


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_an_aligned_run_resumes_to_the_bytes_of_a_whole_one(tmp_path, tokens, precision):
    whole = run(tokens, tmp_path / "whole", precision=precision)
    with pytest.raises(Interrupted):
        run(tokens, tmp_path / "parts", on_log=interrupt, precision=precision)
    resumed = run(tokens, tmp_path / "parts", precision=precision)
    files = [
        {path.name: path.read_bytes() for path in (tmp_path / name / "step-00000006").iterdir()}
        for name in ("whole", "parts")
    ]
    assert files[0] == files[1] and resumed.rows == whole.rows
    assert {"projector.0.weight", "mar.mask_token"} <= load_file(
        tmp_path / "whole/step-00000006/ema.safetensors"
    ).keys()
    assert all({"loss", "alignment_loss"} <= row.keys() for row in whole.rows)


def test_alignment_falls_while_a_student_trains(tmp_path, tokens):
    rows = run(tokens, tmp_path, steps=60, log_every=10, checkpoint_every=60).rows
    assert rows[0]["alignment_loss"] > 0.8 and rows[-1]["alignment_loss"] < 0.85 * rows[0]["alignment_loss"]


def test_the_held_out_loss_leaves_alignment_out(tmp_path, tokens):
    config = tiny_training(repa=REPA)
    rows = HeldOutRows([tokens], patch=PATCH, batch_size=4, seed=7)
    held_out = HeldOutLoss.create(tiny_student(), rows, config, every=2)
    assert held_out.criterion.config.repa is None and rows.part(0).features is None
    result = train(
        aligned_student(tiny_student(), config),
        source_of(tokens),
        config,
        seed=7,
        folder=tmp_path,
        device=CPU,
        validation=held_out,
    )
    plain = train(
        tiny_student(),
        source_of(tokens, features=False),
        tiny_training(steps=1),
        seed=7,
        folder=tmp_path / "plain",
        device=CPU,
        validation=HeldOutLoss.create(tiny_student(), rows, tiny_training(), every=1),
    )
    assert 0 < result.rows[1]["validation_loss"] < 2 * plain.rows[0]["validation_loss"]


def test_an_alignment_of_weight_zero_is_none():
    assert tiny_training(repa=RepaConfig(weight=0)) == tiny_training()
    assert "repa" not in tiny_training().model_dump(mode="json")


def job_of(tokens, folder, student, **changes):
    config = changes.pop("config", tiny_training(repa=REPA, steps=3))
    place = RunLocation(workdir=folder / "run", output_dir=folder / "student", device="cpu")
    info = {"patch": PATCH}
    return TrainingJob(student=student, files=(tokens,), config=config, seed=7, info=info, location=place, **changes)


def test_a_saved_student_has_no_projector_and_phases_keep_it(tmp_path, tokens):
    """The second phase begins with the first one's projector."""
    base = tiny_student()
    new = NewStudent(mar=base.mar.config, head=base.head.config, seed=0)
    kept = SnapshotConfig(steps=(2,), folder=tmp_path / "kept")
    first = job_of(tokens, tmp_path / "1", new, snapshots=kept)
    summary = train_job(first)
    for folder, weights in ((first.location.output_dir, "raw"), (snapshot_folder(kept.folder, 2), "ema")):
        student, _ = load_student(folder, weights=weights)
        assert student.state_dict().keys() == base.state_dict().keys()
        assert json.loads((folder / "config.json").read_bytes()).keys() == {"format", "mar", "head", "info"}
    assert summary.parameters == sum(weight.numel() for weight in base.parameters())
    start = StudentCheckpoint(folder=first.location.output_dir, weights="raw")
    still = tiny_training(repa=REPA, steps=1, optimizer=OptimizerConfig(learning_rate=1e-12))
    second = job_of(tokens, tmp_path / "2", start, config=still, projector=first.location.projector)
    fresh = job_of(tokens, tmp_path / "3", start, config=still)
    for job in (second, fresh):
        train_job(job)
    ended, going_on, anew = (load_file(job.location.projector)["projector.0.weight"] for job in (first, second, fresh))
    torch.testing.assert_close(going_on, ended)
    assert (anew - ended).abs().max() > 0.01


def test_features_that_are_not_there_are_named(tmp_path):
    file = write_rows(tmp_path / "tokens.parquet", rows=4)
    with pytest.raises(DataError, match="without column features; found id, text_length, latents"):
        source_of(file)


def test_features_of_another_grid_are_refused(tmp_path):
    values = np.zeros((4, 4, FEATURE_CHANNELS), np.float16)
    layout = LAYOUT | {"feature_height": 2, "feature_width": 2, "feature_channels": FEATURE_CHANNELS}
    rows = [row.tobytes() for row in values]
    file = write_rows(tmp_path / "tokens.parquet", rows=4, layout=layout, features=rows)
    with pytest.raises(DataError, match="found features of 2 x 2 tokens and latents of 3 x 3"):
        source_of(file)


def test_a_source_reads_features_only_if_asked(tokens):
    with_features, without = source_of(tokens).batch(0), source_of(tokens, features=False).batch(0)
    assert without.features is None and with_features.features.shape == (4, TOKENS, FEATURE_CHANNELS)
    assert with_features.tokens.equal(without.tokens) and with_features.text.equal(without.text)
