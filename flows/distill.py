"""The pipeline of the paper, one line per stage."""

from typing import Protocol

from storage.artifact import Artifact
from tasks.captions import captions
from tasks.dedup import dedup
from tasks.dpo import dpo
from tasks.embeddings import embeddings
from tasks.evaluation import evaluation
from tasks.pairs import pairs
from tasks.pretrain import pretrain
from tasks.report import report
from tasks.stage import Stage
from tasks.synthesis import synthesis
from tasks.tokens import tokens

STAGES = (captions, synthesis, embeddings, dedup, tokens, pretrain, pairs, dpo, evaluation, report)
NAMES = tuple(stage.name for stage in STAGES)


class StageHandler(Protocol):
    """Handles a stage and returns its artifact, made or to be made."""

    def __call__(self, stage: Stage, *inputs: Artifact) -> Artifact: ...


def distill(run: StageHandler) -> None:
    """Distil a teacher into a student. `name_` is the artifact of the stage `name`."""
    captions_ = run(captions)
    synthesis_ = run(synthesis, captions_)
    embeddings_ = run(embeddings, synthesis_)
    dedup_ = run(dedup, synthesis_, embeddings_)
    tokens_ = run(tokens, synthesis_, dedup_)
    pretrain_ = run(pretrain, tokens_)
    pairs_ = run(pairs, pretrain_, tokens_, synthesis_)
    dpo_ = run(dpo, pretrain_, pairs_)
    evaluation_ = run(evaluation, pretrain_, dpo_)
    run(report, captions_, synthesis_, embeddings_, dedup_, tokens_, pretrain_, pairs_, dpo_, evaluation_)
