"""report: everything -> one self-contained page, the cost ledger, and the tuned student ready to be sampled."""

import json
import shutil

from lightgen_core.report.page import render_report
from storage.artifact import Artifact
from storage.keys import canonical_json
from tasks.job import Job
from tasks.report_data import Inputs, gather
from tasks.stage import stage


@stage(version=1, reads=("name", "purpose", "scores_mean_nothing", "seed", "world", "sampler", "report", "dedup"))
def report(job: Job, *inputs: Artifact) -> None:
    """Write `report.html`, `ledger.json` (seconds, device seconds, rows and bytes by stage) and `model/`."""
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
    """Copy the tuned student, and write into its config how the recipe samples it."""
    folder = job.scratch / "model"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(job.local_folder(tuned, "student/"), folder)
    config = json.loads((folder / "config.json").read_bytes())
    config["info"]["sampler"] = job.recipe.sampler.model_dump(mode="json")
    (folder / "config.json").write_text(canonical_json(config))
    job.add_folder(folder, "model/")
