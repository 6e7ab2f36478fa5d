"""Rows of `lightgen table` from runs in a store: scores of their evaluation, size, images, device-days."""

import io
import json
from collections.abc import Mapping
from typing import Any

from flows.checkpoint import STUDENTS, find_student
from flows.commands.ledger import ledger_of_artifact
from flows.commands.lineage import trace_lineage
from flows.commands.table_rows import FORM, Measured, TableRow, notes_of
from flows.errors import UserError
from lightgen_core.config import FewStepConfig, HeadConfig, MarConfig
from lightgen_core.evaluation.published import PublishedTable
from lightgen_core.model.flops import few_step_parameters, student_parameters
from storage.artifact import Artifact
from storage.manifest import Manifest
from tasks.config.settings import Settings
from tasks.evaluation import FEW_STEP

_NAMES = {"pretrain": "without tuning", "dpo": "tuned", "sft": "control of tuning", "few_step": "few-step head"}


def run_rows(name: str, store_uri: str | None, table: PublishedTable) -> Measured:
    """Return the rows of a run's students, or of the one that STAGE/KEY or a folder in a store names.

    Raises:
        UserError: there is no such student, its evaluation is not in the store, or nobody judged it.
    """
    artifact = find_student(name, store_uri).artifact
    if artifact is None:
        raise UserError(
            f"{name} is a folder without a store, so without an evaluation: score it with `lightgen eval {name} -o "
            "FOLDER`, then name FOLDER"
        )
    lineage = trace_lineage(artifact)
    evaluation = lineage.manifests.get("evaluation")
    scored = (evaluation.metrics["scores"] if evaluation else {}).items()
    scores = {student: found for student, found in scored if found}
    students = [student for student in _NAMES if student in scores]
    if artifact.stage != "report":
        students = [student for student in students if student == lineage.student]
    if evaluation is None or not students:
        why = "nobody judges its benchmark" if evaluation else "it was not evaluated"
        raise UserError(
            f"{name} ({artifact.path}) has no scores in {artifact.store.uri}: {why}; score it with `lightgen eval "
            f"{name} -o FOLDER`, then name FOLDER"
        )
    keys = {_student_of(label): (label, key) for label, key in evaluation.inputs.items()}
    rows = []
    for student in students:
        label, key = keys[student]
        own = Artifact(artifact.store, label.partition("-")[0], key)
        rows.append(_row(f"{name}, {_NAMES[student]}", scores[student], own, evaluation, table))
    return Measured(name, rows)


def _student_of(label: str) -> str:
    """Return the name in the scores of an evaluation's input."""
    if label.startswith(("dpo", "average")):
        return "sft" if "-sft" in label else "dpo"
    return {"distil_head": "few_step"}.get(label, label)


def _row(
    name: str, scores: Mapping[str, Any], student: Artifact, evaluation: Manifest, table: PublishedTable
) -> TableRow:
    config = evaluation.config["evaluation"]
    benchmark, lineage = config["benchmark"], trace_lineage(student)
    ledger = ledger_of_artifact(student.path, student.store.uri, Settings())
    px = _side(Artifact(student.store, "evaluation", evaluation.key))
    form = (FORM,) if benchmark == "geneval" and config.get("prompts") is None else ()
    lost = ("device-days without what is no longer in the store",) if ledger["lost"] else ()
    dedup = lineage.manifests.get("dedup")
    return TableRow(
        name,
        "measured",
        benchmark,
        scores,
        params=_parameters(student),
        images=dedup.counts["kept"] if dedup else None,
        px=px,
        rewritten=False,
        device_days=ledger["paper"]["student_device_days"],
        device=", ".join(sorted({device["name"] for device in ledger["student"]["devices"]})) or None,
        notes=(*form, *notes_of(benchmark, table, px, evaluation.counts["prompts"]), *lost),
        judge=evaluation.metrics["judge"],
    )


def _parameters(student: Artifact) -> int:
    """Return the number of a student's parameters; of one that was distilled those of the few-step student."""
    with student.open(f"{STUDENTS[student.stage]}config.json") as file:
        config = json.loads(file.read())
    mar = MarConfig.model_validate(MarConfig.with_new_names(config["mar"]))
    head = HeadConfig.model_validate(HeadConfig.with_new_names(config["head"]))
    sizes = config.get(FEW_STEP)
    return few_step_parameters(mar, FewStepConfig.model_validate(sizes)) if sizes else student_parameters(mar, head)


def _side(evaluation: Artifact) -> int:
    """Return the width of the first evaluated image, px."""
    import numpy as np
    from PIL import Image

    from storage.rows import take_rows

    first = take_rows(evaluation, "^samples", np.array([0]), ["image"]).to_pylist()[0]
    with Image.open(io.BytesIO(first["image"]["bytes"])) as image:
        return image.width
