"""The pipeline of the paper, one line per stage."""

from collections.abc import Callable

from storage.artifact import Artifact
from tasks.captions import captions
from tasks.dedup import dedup
from tasks.dpo import dpo
from tasks.embeddings import embeddings
from tasks.evaluation import evaluation
from tasks.pairs import pairs
from tasks.pretrain import pretrain
from tasks.report import report
from tasks.synthesis import synthesis
from tasks.tokens import tokens

STAGES = (captions, synthesis, embeddings, dedup, tokens, pretrain, pairs, dpo, evaluation, report)
NAMES = tuple(stage.name for stage in STAGES)


def distill(run: Callable[..., Artifact]) -> None:
    """Distil a teacher into a student. `run` takes a stage and its inputs and returns its artifact, `name_`."""
    captions_ = run(captions)
    synthesis_ = run(synthesis, captions_)
    embeddings_ = run(embeddings, synthesis_)
    dedup_ = run(dedup, synthesis_, embeddings_)
    tokens_ = run(tokens, synthesis_)
    pretrain_ = run(pretrain, tokens_, dedup_)
    pairs_ = run(pairs, pretrain_, tokens_, dedup_, synthesis_)
    dpo_ = run(dpo, pretrain_, pairs_)
    evaluation_ = run(evaluation, pretrain_, dpo_)
    run(report, captions_, synthesis_, embeddings_, dedup_, tokens_, pretrain_, pairs_, dpo_, evaluation_)
