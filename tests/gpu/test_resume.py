"""A run that is cut on a GPU goes on to the bytes of an unbroken one; the same on a CPU, where every machine can."""

import pytest
import torch

from lightgen_core.config import ParallelConfig
from tests.factories.tiny_student import write_rows
from tests.programs.train_as_rank import fitted, in_parts
from tests.support.gpus import needs_gpus

pytestmark = pytest.mark.usefixtures("one_thread")

ALONE = ParallelConfig()
KINDS = ["ddpm", "muon", "dpo"]


def bytes_of(folder):
    """The files of a run's last checkpoint."""
    return {path.name: path.read_bytes() for path in sorted((folder / "step-00000006").iterdir())}


def check_resume(data, kind, device):
    """Compare a run of six steps with one that was cut after five and went on from its checkpoint after three.

    First with another unbroken one: where two of them differ, it is not the resume that is at fault.
    """
    write_rows(data / "tokens.parquet", rows=10)
    write_rows(data / "pairs.parquet", rows=10, images=("winner", "loser"))
    whole = fitted(data, data / "whole", kind, ALONE, device=device)
    again = fitted(data, data / "again", kind, ALONE, device=device)
    parts = in_parts(data, data / "parts", kind, ALONE, device=device)
    assert bytes_of(data / "again") == bytes_of(data / "whole"), "two unbroken runs differ: a kernel's sums do"
    assert bytes_of(data / "parts") == bytes_of(data / "whole")
    assert parts.rows == whole.rows == again.rows and len(whole.rows) == 6


@pytest.mark.parametrize("kind", KINDS)
def test_a_cut_run_ends_with_the_bytes_of_a_whole_one(tmp_path, kind):
    check_resume(tmp_path, kind, torch.device("cpu"))


@pytest.mark.parametrize("kind", [pytest.param(kind, marks=needs_gpus(1, "a resume on a GPU is")) for kind in KINDS])
def test_on_a_gpu_a_cut_run_ends_with_the_bytes_of_a_whole(tmp_path, kind):
    check_resume(tmp_path, kind, torch.device("cuda"))
