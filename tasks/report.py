"""report: everything -> one self-contained page, the cost ledger, and the tuned student ready to be sampled."""

import json

from storage.artifact import Artifact
from tasks.context.context import StageContext
from tasks.ledger import ledger_row
from tasks.stage import stage


@stage(version=13, config_sections=("name", "purpose", "smoke_test", "seed", "world", "sampler", "report", "dedup"))
def report(ctx: StageContext, *inputs: Artifact) -> None:
    """Write `report.html`, `ledger.json` (what each stage has cost, as `lightgen ledger`) and `model/`."""
    from lightgen_core.emoji.credits import credits_page
    from lightgen_core.model.save import load_few_step, load_student, save_student
    from lightgen_core.report.page import render_report
    from tasks.report_data import build_report_data
    from tasks.report_inputs import RunArtifacts

    run = RunArtifacts.of(inputs, ctx.recipe)
    last = run.artifacts.get("distil_head") or run.artifacts.get("average") or run.last("dpo")
    folder, saved = ctx.scratch / "model", ctx.local_folder(last, "student/")
    student, info = load_student(saved, weights="raw")
    averaged, _ = load_student(saved, weights="ema")
    sampler = info["sampler"] if last.stage == "distil_head" else ctx.recipe.sampler.model_dump(mode="json")
    save_student(folder, student, averaged.state_dict(), info | {"sampler": sampler}, load_few_step(saved))
    data = build_report_data(run, ctx.artifact.key)
    if data.credits:
        (folder / "CREDITS.md").write_text(credits_page(data.credits), encoding="utf-8")
    ctx.add_folder(folder, "model/")
    ledger = [ledger_row(label, each.manifest(), ctx.settings.prices) for label, each in run.artifacts.items()]
    ctx.write("ledger.json", json.dumps(ledger, indent=1).encode())
    ctx.write("report.html", render_report(data).encode())
    ctx.counts = {"rows": len(data.samples)}
