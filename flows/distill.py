"""The pipeline of the paper, one line per stage."""

from collections.abc import Callable, Sequence

from storage.artifact import Artifact
from tasks.average import average
from tasks.captions import captions
from tasks.config.recipe import Recipe
from tasks.config.rounds import Round, control_rounds, pretraining, tuning_rounds
from tasks.dedup import dedup
from tasks.distil_head import distil_head
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
ALL_STAGES = (*STAGES[:-2], average, distil_head, *STAGES[-2:])
"""The stages, with those that a recipe switches on by a section of their name."""
ALL_NAMES = tuple(stage.name for stage in ALL_STAGES)

Run = Callable[..., Artifact]


def distill(run: Run, recipe: Recipe) -> None:
    """Distil a teacher into a student. `run` takes a stage and its inputs and returns its artifact, `name_`."""
    captions_ = run(captions)
    synthesis_ = run(synthesis, captions_)
    embeddings_ = run(embeddings, synthesis_)
    dedup_ = run(dedup, synthesis_, embeddings_)
    tokens_ = run(tokens, synthesis_)
    captioned = [synthesis_] if recipe.pretrain.validation else []  # what is put aside is chosen by meaning
    pretrain_ = run(pretrain, tokens_, dedup_, *captioned, round_=pretraining(recipe))
    tuned = tune(run, recipe, tuning_rounds(recipe), pretrain_, tokens_, dedup_, synthesis_)
    controls = tune(run, recipe, control_rounds(recipe), pretrain_, tokens_, dedup_, synthesis_)
    heads = [run(distil_head, [pretrain_, *tuned][-1], tokens_, dedup_)] if recipe.distil_head else []
    evaluation_ = run(evaluation, pretrain_, *tuned[-1:], *controls[-1:], *heads)
    run(report, captions_, synthesis_, embeddings_, dedup_, tokens_, pretrain_, *tuned, *controls, *heads, evaluation_)


def tune(run: Run, recipe: Recipe, rounds: Sequence[Round], student_: Artifact, *data: Artifact) -> list[Artifact]:
    """Tune a student on preferences in rounds, each on pairs of the student of the one before.

    Return all artifacts; the last holds the tuned student, the mean of those of the rounds where a recipe says so.
    """
    made, students = [], []
    for round_ in rounds:
        pairs_ = run(pairs, student_, *data, round_=round_)
        student_ = run(dpo, student_, pairs_, round_=round_)
        students.append(student_)
        made += [pairs_, student_]
    if recipe.average and len(students) > 1:
        averaged = students[-(recipe.average.rounds or len(students)) :]
        made.append(run(average, *averaged, round_=Round(recipe, rounds[0].suffix)))
    return made
