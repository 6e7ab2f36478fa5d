"""Time Muon's iteration on matrices and on their Gram matrices, for the shapes of the tiny student.

python -m benchmarks.muon [--rounds 20]
"""

import argparse
from collections import Counter

import torch

from benchmarks.interleaved import seconds, table
from lightgen_core.config import HeadConfig, MarConfig
from lightgen_core.model.mar import new_student
from lightgen_core.model.presets import PRESETS
from lightgen_core.train.muon import _iterate, _iterate_on_gram

TEXT_WIDTH = 384


def shapes() -> Counter[tuple[int, int]]:
    """Return how many matrices of each shape, rows no more than columns, the tiny student trains by Muon."""
    preset = PRESETS["tiny"]
    student = new_student(MarConfig(text_width=TEXT_WIDTH, **preset.blocks), HeadConfig(**preset.head), seed=0)
    linear = [layer.weight for layer in student.modules() if isinstance(layer, torch.nn.Linear)]
    rows_first = [sorted((weight.shape[0], weight.shape[1])) for weight in linear]
    return Counter((rows, columns) for rows, columns in rows_first)


def main() -> None:
    """Print a table of milliseconds by shape."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    rows = []
    for (height, width), count in sorted(shapes().items()):
        matrices = torch.randn(count, height, width) / (height * width) ** 0.5
        alternatives = {
            "matrices": lambda given=matrices: _iterate(given),
            "Gram": lambda given=matrices: _iterate_on_gram(given),
        }
        taken = seconds(alternatives, rounds, torch.device("cpu"))
        rows.append((f"{count} of {height} x {width}", *(f"{1000 * taken[name]:.1f}" for name in alternatives)))
    print(table(("matrices", "on them, ms", "on Gram matrices, ms"), rows))


if __name__ == "__main__":
    main()
