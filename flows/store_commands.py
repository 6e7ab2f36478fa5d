"""`lightgen store`: what is in a store, whether it is whole, and what can go."""

import json
from collections.abc import Iterator
from typing import Any

import click

from flows.console import table
from flows.distill import NAMES
from flows.load import UserError, load_recipe
from flows.options import json_option, store_option
from flows.plan import plan
from storage.artifact import Artifact, DamagedArtifact
from storage.store import Store
from tasks.settings import Settings


@click.group("store")
def store() -> None:
    """Look at a store, check it, clean it."""


def _open(uri: str | None) -> Store:
    place = Store(uri or Settings().store)
    folder = place.local_path("")
    if folder is not None and not folder.is_dir():
        raise UserError(
            f"there is no folder {folder}, so no store: nothing was ever made there.\n"
            "Name the store with --store or LIGHTGEN_STORE; a first run makes it."
        )
    return place


def _artifacts(place: Store) -> Iterator[Artifact]:
    for stage in NAMES:
        for key in place.folders(stage):
            yield Artifact(place, stage, key)


@store.command("ls")
@store_option
@json_option
def list_artifacts(store_uri: str | None, as_json: bool) -> None:
    """List the artifacts: stage, key, state, rows, bytes, when made."""
    place = _open(store_uri)
    rows = [_summary(place, artifact) for artifact in _artifacts(place)]
    if as_json:
        click.echo(json.dumps({"store": place.uri, "artifacts": rows}))
        return
    for line in table(
        [
            (
                row["stage"],
                row["key"],
                row["state"],
                f"{row['rows']} rows",
                f"{row['bytes'] / 1e6:.1f} MB",
                row["created_at"],
            )
            for row in rows
        ]
    ):
        click.echo(line)
    click.echo(f"{len(rows)} artifacts in {place.uri}")


def _summary(place: Store, artifact: Artifact) -> dict[str, Any]:
    state = artifact.check().state
    manifest = artifact.manifest() if state == "done" else None
    return {
        "stage": artifact.stage,
        "key": artifact.key,
        "state": state,
        "bytes": sum(place.files(artifact.path).values()),
        "rows": manifest.counts["rows"] if manifest else 0,
        "created_at": manifest.created_at if manifest else "",
    }


@store.command()
@click.argument("artifact", metavar="STAGE/KEY")
@store_option
def show(artifact: str, store_uri: str | None) -> None:
    """Print the manifest of an artifact; the first digits of its key are enough."""
    place = _open(store_uri)
    stage, _, start = artifact.partition("/")
    found = [key for key in place.folders(stage) if key.startswith(start)] if stage in NAMES else []
    if len(found) != 1:
        raise UserError(f"{artifact!r} names {len(found) or 'no'} artifacts of {place.uri}; see `lightgen store ls`")
    try:
        manifest = Artifact(place, stage, found[0]).manifest()
    except DamagedArtifact as error:
        raise UserError(f"{error}. Run its recipe again to finish it.") from error
    click.echo(manifest.model_dump_json(indent=1))


@store.command()
@store_option
@json_option
def verify(store_uri: str | None, as_json: bool) -> None:
    """Hash every file again and compare it with its manifest; exit status 1 where something is damaged."""
    place = _open(store_uri)
    faults = []
    checked = 0
    for artifact in _artifacts(place):
        found = artifact.check(rehash=True)
        checked += found.state == "done"
        if found.state == "damaged":
            faults.append({"stage": artifact.stage, "key": artifact.key, "why": found.why})
    if as_json:
        click.echo(json.dumps({"store": place.uri, "whole": checked, "damaged": faults}))
    else:
        for fault in faults:
            click.echo(f"damaged: {fault['stage']}/{fault['key']}: {fault['why']}")
        click.echo(
            f"{checked} artifacts are whole, {len(faults)} damaged; a run of their recipe remakes what is damaged"
        )
    if faults:
        raise SystemExit(1)


@store.command()
@click.option(
    "--keep",
    "recipes",
    multiple=True,
    required=True,
    metavar="RECIPE",
    help="Keep what this recipe needs; may be given again.",
)
@click.option("--delete", is_flag=True, help="Delete; without it the command only says what it would delete.")
@store_option
def gc(recipes: tuple[str, ...], delete: bool, store_uri: str | None) -> None:
    """Delete the artifacts that none of the given recipes needs."""
    place = _open(store_uri)
    needed = {found.path for recipe in recipes for found, _ in plan(load_recipe(recipe), place).found.values()}
    freed = 0
    for artifact in _artifacts(place):
        if artifact.path in needed:
            continue
        size = sum(place.files(artifact.path).values())
        freed += size
        click.echo(f"{'deleted' if delete else 'would delete'} {artifact.path} ({size / 1e6:.1f} MB)")
        if delete:
            artifact.remove()
    click.echo(f"{freed / 1e6:.1f} MB {'freed' if delete else 'could be freed; add --delete'}")
