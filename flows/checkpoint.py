"""Find the folder of a student: by path, by the short key of an artifact, or by the recipe that made it."""

import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from flows.distill import ALL_NAMES
from flows.errors import UserError
from flows.load import load_recipe, recipe_names
from flows.plan import Planner, plan
from storage.artifact import Artifact, CorruptArtifact
from storage.manifest import MANIFEST, Manifest
from storage.open_store import open_store
from storage.store import Store
from tasks.config.settings import Settings

log = logging.getLogger("lightgen")

STUDENTS = {
    "report": "model/",
    "distil_head": "student/",
    "average": "student/",
    "dpo": "student/",
    "pretrain": "student/",
}
"""Stages whose artifacts hold a student, the most finished first, and its folder there."""


@dataclass(frozen=True)
class Checkpoint:
    """A student's folder on this machine, and the artifact that it is of, unless it was copied out of its store."""

    folder: Path
    artifact: Artifact | None


def find_student(checkpoint: str | Path, store: str | None = None) -> Checkpoint:
    """Return a student's folder; whether it holds one is not looked at.

    Args:
        checkpoint: a folder; STAGE/KEY of a store, of which KEY's first digits are enough; a recipe, which means the
            most finished student of what it makes as it stands, else the newest that was reported under its name; or
            org/name@revision of the hub, to which `lightgen export` pushed it.
        store: address of the store; that of the settings by default.

    Raises:
        UserError: nothing of these, or several.
    """
    name, folder = str(checkpoint), Path(checkpoint).expanduser()
    if folder.is_dir():
        return Checkpoint(folder, _artifact_of(folder.absolute()))
    stage, slash, key = name.partition("/")
    if slash and stage in ALL_NAMES and "/" not in key:
        return _of_key(open_store(store or Settings().store), stage, key)
    if name in recipe_names() or (folder.is_file() and folder.suffix in (".yaml", ".yml")):
        return _of_recipe(name, open_store(store or Settings().store))
    if re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(@[\w.-]+)?", name):
        return Checkpoint(_of_hub(name), None)
    why = "it is a file, not a folder" if folder.is_file() else "there is no such folder, and no such recipe"
    raise UserError(
        f"{name} holds no student: {why}. Give a folder such as "
        "STORE/report/KEY/model, the short key of an artifact such as report/8cf2, or a recipe "
        f"({', '.join(recipe_names())}, or a YAML file)"
    )


def _artifact_of(folder: Path) -> Artifact | None:
    """Return the artifact of a local store that a student's folder is part of."""
    artifact = folder.parent
    if f"{folder.name}/" != STUDENTS.get(artifact.parent.name) or not (artifact / MANIFEST).is_file():
        return None
    return Artifact(open_store(str(artifact.parents[1])), artifact.parent.name, artifact.name)


def _of_key(store: Store, stage: str, start: str) -> Checkpoint:
    if stage not in STUDENTS:
        raise UserError(f"an artifact of {stage} holds no student; those of {', '.join(STUDENTS)} do")
    try:
        return student_of(find_artifact(store, stage, start))
    except CorruptArtifact as error:
        raise UserError(f"{error}. Run its recipe again to finish it.") from error


def find_artifact(store: Store, stage: str, start: str) -> Artifact:
    """Return the artifact of a stage by the first digits of its key. Raises UserError for none, or several."""
    keys = [key for key in store.folders(stage) if key.startswith(start)]
    if len(keys) != 1:
        listed = f": {', '.join(keys)}" if keys else ""
        raise UserError(
            f"{stage}/{start} names {len(keys) or 'no'} artifacts of {store.uri}{listed}; see `lightgen store ls`"
        )
    return Artifact(store, stage, keys[0])


def _of_recipe(recipe: str, store: Store) -> Checkpoint:
    planner = plan(load_recipe(recipe), store)
    if done := finished_students(planner):
        return student_of(done[0])
    name = planner.recipe.name
    if reported := sorted(reports_of(store, name), key=lambda found: found[1].created_at):
        artifact, manifest = reported[-1]
        log.info(
            "%s as it stands has no student in %s; this is the newest of its name, report/%s of %s",
            *(name, store.uri, artifact.key[:8], manifest.created_at),
        )
        return student_of(artifact)
    raise UserError(
        f"{name} has no student in {store.uri}: {planner.explain('pretrain')}. Make it with `lightgen run {recipe}`, "
        "or name another store with --store or LIGHTGEN_STORE"
    )


def finished_students(planner: Planner) -> list[Artifact]:
    """Return the artifacts of a plan that are done and hold a student, the most finished first.

    The last round of preference tuning comes before earlier ones; the control of preference tuning is none of them.
    """
    rounds = [label for label in planner.stages if re.fullmatch(r"dpo(-\d+)?", label)]
    optional = [label for label in ("distil_head", "average") if label in planner.stages]
    labels = ["report", *optional, *reversed(rounds), "pretrain"]
    return [planner.artifacts[label] for label in labels if planner.check(label).state == "done"]


def _of_hub(name: str) -> Path:
    """Return the folder of an exported student of the Hugging Face hub, downloaded once. Raises UserError."""
    from huggingface_hub import snapshot_download

    repository, _, revision = name.partition("@")
    try:
        return Path(snapshot_download(repository, revision=revision or None))
    except (OSError, ValueError, RuntimeError) as error:  # HTTP and connection errors, names, offline mode
        reason = str(error).strip().splitlines()[-1]
        raise UserError(
            f"{name} holds no student: there is no such folder, and the hub gives no model of that name ({reason}). "
            "Correct the path or the name; a private model needs HF_TOKEN"
        ) from error


def reports_of(store: Store, recipe: str) -> Iterator[tuple[Artifact, Manifest]]:
    """Yield the finished reports of recipes of a name, in no order."""
    for key in store.folders("report"):
        artifact = Artifact(store, "report", key)
        try:
            manifest = artifact.manifest()
        except CorruptArtifact:  # unfinished
            continue
        if manifest.config.get("name") == recipe:
            yield artifact, manifest


def student_of(artifact: Artifact) -> Checkpoint:
    """Return the student of an artifact, copied from a remote store. Raises CorruptArtifact if it has none."""
    copies = Path(Settings().scratch).expanduser() / "inputs"
    files = [artifact.local(name, copies) for name in artifact.names(f"^{STUDENTS[artifact.stage]}")]
    if not files:
        raise CorruptArtifact(f"{artifact.uri} holds no student")
    return Checkpoint(files[0].parent, artifact)
