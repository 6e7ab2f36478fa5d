"""report: everything -> one self-contained page, the cost ledger, and the tuned student ready to be sampled."""

import json

from storage.artifact import Artifact
from tasks.context.context import Job
from tasks.stage import stage


@stage(version=6, reads=("name", "purpose", "smoke_test", "seed", "world", "sampler", "report", "dedup"))
def report(job: Job, *inputs: Artifact) -> None:
    """Write `report.html`, `ledger.json` (seconds, device seconds, rows and bytes by stage) and `model/`."""
    from lightgen_core.report.page import render_report
    from tasks.report_data import Inputs, gather

    given = Inputs({artifact.stage: artifact for artifact in inputs}, job.recipe)
    _export_model(job, given.artifacts["dpo"])
    data = gather(given)
    ledger = [
        {
            "stage": row.stage,
            "seconds": row.seconds,
            "device_seconds": row.device_seconds,
            "rows": row.rows,
            "bytes": row.bytes,
        }
        for row in data.stages
    ]
    job.write("ledger.json", json.dumps(ledger, indent=1).encode())
    job.write("report.html", render_report(data).encode())
    job.counts = {"rows": len(data.samples)}


def _export_model(job: Job, tuned: Artifact) -> None:
    """Save the tuned student once more, and in its config how the recipe samples it."""
    from lightgen_core.model.save import load_student, save_student

    folder, saved = job.scratch / "model", job.local_folder(tuned, "student/")
    student, info = load_student(saved, weights="raw")
    averaged, _ = load_student(saved, weights="ema")
    sampler = job.recipe.sampler.model_dump(mode="json")
    save_student(folder, student, averaged.state_dict(), info | {"sampler": sampler})
    job.add_folder(folder, "model/")
