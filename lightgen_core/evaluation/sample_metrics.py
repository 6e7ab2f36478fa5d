"""Metrics of the student's samples from round to round: score, diversity within a prompt, a scorer without a say.

A student that is tuned on a score can learn the score instead of what it stands for. The score then rises while another
scorer's falls, or every sample of a prompt becomes the same image.
"""

import itertools
from collections.abc import Iterable, Mapping

import numpy as np
import pyarrow as pa

from lightgen_core.encoders.dtypes import from_bytes

WATCHED = {
    "diversity": "the diversity within a prompt",
    "held_out": "the held-out score",
    "score": "the score that it is tuned for",
}
"""Metrics that must not fall, with their names in a sentence; the last falls where a student drifts apart."""


def sample_metrics(tables: Iterable[pa.Table], dtype: str) -> dict[str, float | None]:
    """Return means over samples: `score`, `held_out` (None without that scorer) and `diversity`.

    Diversity is the root mean square difference of two samples' latents, averaged over the pairs of each caption; 0
    where no caption has two samples. Samples without latents, of a student that diverged, have no part in it.

    Args:
        tables: with columns `id` (of the caption), `score`, `held_out` and `latents`, a caption's rows in one table.
        dtype: number format of the latents.
    """
    scores: list[float] = []
    held_out: list[float] = []
    distances: list[float] = []
    for table in tables:
        scores += table["score"].to_pylist()
        held_out += table["held_out"].drop_null().to_pylist()
        rows = zip(table["id"].to_pylist(), table["latents"].to_pylist(), strict=True)
        for _, group in itertools.groupby(rows, key=lambda row: row[0]):
            latents = [from_bytes(values, dtype).numpy() for _, values in group if values is not None]
            pairs = list(itertools.combinations(latents, 2))
            if pairs:
                distances.append(float(np.mean([np.sqrt(np.mean((one - other) ** 2)) for one, other in pairs])))
    return {
        "score": float(np.mean(scores)),
        "held_out": float(np.mean(held_out)) if held_out else None,
        "diversity": float(np.mean(distances)) if distances else 0.0,
    }


def reward_hacking(
    metrics: Mapping[str, float | None], first: Mapping[str, float | None], max_drop: float
) -> str | None:
    """Return the reason to tune no further if a watched metric fell below the first round's by more, or None.

    max_drop: largest fall, as a fraction of the first round's value.
    """
    for name, words in WATCHED.items():
        now, before = metrics[name], first[name]
        if now is not None and before is not None and before > 0 and now < (1 - max_drop) * before:
            return (
                f"{words} fell from {before:.3f} to {now:.3f} since the first round, by more than pairs.max_drop "
                f"{max_drop:g}: the student {'gets worse' if name == 'score' else 'may be learning its scorer'}; lower "
                "dpo.optimizer.learning_rate or dpo.rounds, or score with several scorers"
            )
    return None
