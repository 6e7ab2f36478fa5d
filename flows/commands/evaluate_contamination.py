"""Count the evaluation prompts that are among the captions that a student was trained on."""

from collections.abc import Sequence
from typing import Any

from flows.checkpoint import Checkpoint
from flows.commands.lineage import Lineage, trace_lineage
from storage.artifact import Artifact, CorruptArtifact
from storage.tables import iter_tables

_TEXTS = {"tokens": r"^(recaption-)?text-.*\.parquet$", "synthesis": r"^images-.*\.parquet$"}
"""Stages that hold training captions, the nearest to training first, and their files."""


def contamination(prompts: Sequence[str], checkpoint: Checkpoint | None) -> dict[str, Any] | None:
    """Compare prompts with the training captions; None where these are not known.

    Returns numbers of `prompts` and `captions` (different ones), of captions that are a prompt but for case and
    punctuation (`exact`) or share `words_in_a_row` with one (`n-gram`), and of `contaminated_prompts`.
    """
    captions = training_captions(checkpoint)
    if captions is None:
        return None
    from lightgen_core.captioning.config import Decontamination
    from lightgen_core.captioning.contamination import EvaluationPrompts

    compared = EvaluationPrompts(prompts, Decontamination())
    matches = [match for match in compared.matches(captions) if match]
    return {
        "prompts": len(compared.prompts),
        "captions": len(captions),
        "exact": sum(match.method == "exact" for match in matches),
        "n-gram": sum(match.method == "n-gram" for match in matches),
        "words_in_a_row": Decontamination().ngram,
        "contaminated_prompts": len({match.prompt for match in matches}),
    }


def training_captions(checkpoint: Checkpoint | None) -> list[str] | None:
    """Return the different captions of a student's training set; None if no store knows it."""
    for stage, pattern in _TEXTS.items():
        artifact = training_artifact(checkpoint, stage)
        if artifact is not None:
            tables = iter_tables(artifact, pattern, ["caption"])
            return sorted({caption for table in tables for caption in table["caption"].to_pylist()})
    return None


def training_artifact(checkpoint: Checkpoint | None, stage: str) -> Artifact | None:
    """Return the artifact of a stage that a student was made from; None if it is not known or no longer there."""
    if checkpoint is None or checkpoint.artifact is None:
        return None
    try:
        lineage: Lineage = trace_lineage(checkpoint.artifact)
    except CorruptArtifact:
        return None
    manifest = lineage.manifests.get(stage)
    return Artifact(checkpoint.artifact.store, stage, manifest.key) if manifest else None
