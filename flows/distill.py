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


class Make(Protocol):
    """What to do with a stage: run it, or only say whether it would run."""

    def __call__(self, stage: Stage, *inputs: Artifact) -> Artifact: ...


def distill(make: Make) -> None:
    """Distil a teacher into a student: say, draw, compare, choose, encode, learn, prefer, tune, score, tell."""
    said = make(captions)
    drawn = make(synthesis, said)
    embedded = make(embeddings, drawn)
    kept = make(dedup, drawn, embedded)
    encoded = make(tokens, drawn, kept)
    student = make(pretrain, encoded)
    preferred = make(pairs, student, encoded, drawn)
    tuned = make(dpo, student, preferred)
    scored = make(evaluation, student, tuned)
    make(report, said, drawn, embedded, kept, encoded, student, preferred, tuned, scored)
