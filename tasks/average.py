"""average: the students of the rounds of preference tuning -> the student of their mean weights."""

from storage.artifact import Artifact
from storage.plural import pluralize
from tasks.context.context import StageContext
from tasks.stage import stage


@stage(version=1, config_sections=())
def average(ctx: StageContext, *rounds: Artifact) -> None:
    """Write `student/`, the mean of the rounds' students; one that a guard left without a step has no part in it."""
    from lightgen_core.model.average import average_students
    from lightgen_core.model.save import save_student

    moved = [each for each in rounds if each.manifest().counts["steps"]] or list(rounds[-1:])
    ctx.log("the mean of %s", pluralize(len(moved), "student"))
    student, averaged, info = average_students([ctx.local_folder(each, "student/") for each in moved])
    folder = ctx.scratch / "student"
    save_student(folder, student, averaged, info)
    ctx.add_folder(folder, "student/")
    ctx.counts = {"rows": len(moved)}
