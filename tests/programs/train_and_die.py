"""Trains a tiny student and kills itself after a step: `python train_and_die.py TOKENS FOLDER STEP`."""

import os
import signal
import sys
from pathlib import Path

import torch

from lightgen_core.data.batches import TokenSource
from tests.factories.tiny_student import PATCH, tiny_student, tiny_training, train


def main(tokens: str, folder: str, last_step: str) -> None:
    torch.set_num_threads(1)
    config = tiny_training()

    def die(row: dict) -> None:
        if row["step"] == int(last_step):
            os.kill(os.getpid(), signal.SIGKILL)

    source = TokenSource([tokens], patch=PATCH, batch_size=config.batch_size, seed=7)
    train(tiny_student(), source, config, seed=7, folder=Path(folder), device=torch.device("cpu"), on_log=die)


if __name__ == "__main__":
    main(*sys.argv[1:])
