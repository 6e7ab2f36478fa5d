"""`lightgen store`: list, show, verify and clean artifacts."""

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from flows.commands.console import describe_artifact, format_bytes, format_time, table
from flows.commands.options import complete_recipe, json_option, set_option, store_option
from storage.open_store import open_store
from storage.plural import pluralize
from storage.store import Store

if TYPE_CHECKING:
    from storage.artifact import Artifact


@click.group("store")
def store() -> None:
    """List, verify and clean a store."""


def _open(uri: str | None) -> Store:
    from flows.errors import UserError
    from tasks.config.settings import Settings

    store = open_store(uri or Settings().store)
    folder = store.local_path("")
    if folder is not None and not folder.is_dir():
        raise UserError(
            f"there is no folder {folder}, so no store: nothing was ever made there.\n"
            "Name the store with --store or LIGHTGEN_STORE; a first run makes it."
        )
    return store


def find_artifact(name: str, store_uri: str | None) -> "Artifact":
    """Return the artifact that STAGE/KEY names, of which KEY's first digits are enough. Raises UserError."""
    from flows.errors import UserError
    from flows.selection import require_stage
    from storage.artifact import Artifact

    stage, _, start = name.partition("/")
    if stage != "ablation":
        require_stage(stage)
    store = _open(store_uri)
    keys = [key for key in store.folders(stage) if key.startswith(start)]
    if len(keys) != 1:
        listed = f": {', '.join(keys)}" if keys else ""
        raise UserError(f"{name!r} names {len(keys) or 'no'} artifacts of {store.uri}{listed}; see `lightgen store ls`")
    return Artifact(store, stage, keys[0])


def _artifacts(store: Store, *, ablations: bool = True) -> "Iterator[Artifact]":
    from flows.distill import ALL_NAMES
    from storage.artifact import Artifact

    for stage in (*ALL_NAMES, *(["ablation"] if ablations else [])):
        for key in store.folders(stage):
            yield Artifact(store, stage, key)


@store.command("ls")
@store_option
@json_option
def list_artifacts(store_uri: str | None, as_json: bool) -> None:
    """List the artifacts: stage, key, state, rows, size, creation time."""
    store = _open(store_uri)
    rows: list[dict[str, Any]] = []
    for artifact in _artifacts(store):
        state = artifact.check(sizes_only=True).state  # to hash is for `verify`
        manifest = artifact.manifest() if state == "done" else None
        rows.append(
            {
                "stage": artifact.stage,
                "key": artifact.key,
                "state": state,
                "bytes": sum(store.files(artifact.path).values()),
                "rows": manifest.counts["rows"] if manifest else 0,
                "created_at": manifest.created_at if manifest else "",
            }
        )
    if as_json:
        click.echo(json.dumps({"store": store.uri, "artifacts": rows}))
        return
    cells = []
    for row in rows:
        count, size = pluralize(row["rows"], "row"), format_bytes(row["bytes"])
        cells.append((row["stage"], row["key"], row["state"], count, size, format_time(row["created_at"])))
    click.echo("\n".join([*table(cells), f"{pluralize(len(rows), 'artifact')} in {store.uri}"]))


@store.command()
@click.argument("artifact", metavar="STAGE/KEY")
@store_option
@json_option
def show(artifact: str, store_uri: str | None, as_json: bool) -> None:
    """Show an artifact's contents and origin.

    The first digits of its KEY are enough; --json prints its manifest.

    \b
    lightgen store show pretrain/90ec
    """
    from flows.errors import UserError
    from storage.artifact import CorruptArtifact

    shown = find_artifact(artifact, store_uri)
    try:
        manifest = shown.manifest()
    except CorruptArtifact as error:
        raise UserError(f"{error}. Run its recipe again to finish it.") from error
    click.echo(manifest.model_dump_json(indent=1) if as_json else describe_artifact(shown.uri, manifest))


@store.command()
@store_option
@json_option
def verify(store_uri: str | None, as_json: bool) -> None:
    """Rehash every file and compare.

    Exit status 1 if a file is missing or differs from its manifest.
    """
    store = _open(store_uri)
    intact, damaged = 0, []
    for artifact in _artifacts(store):
        status = artifact.check(rehash=True)
        intact += status.state == "done"
        if status.state == "damaged":
            damaged.append({"stage": artifact.stage, "key": artifact.key, "why": status.reason})
    if as_json:
        click.echo(json.dumps({"store": store.uri, "whole": intact, "damaged": damaged}))
    else:
        for row in damaged:
            click.echo(f"damaged: {row['stage']}/{row['key']}: {row['why']}")
        click.echo(
            f"{pluralize(intact + len(damaged), 'artifact')}: {intact} whole, {len(damaged)} damaged"
            f"{'; a run of the recipe remakes what is damaged' if damaged else ''}"
        )
    if damaged:
        raise SystemExit(1)


@store.command()
@click.option(
    "--keep",
    "recipes",
    multiple=True,
    required=True,
    metavar="RECIPE",
    shell_complete=complete_recipe,
    help="Keep what this recipe needs; repeatable.",
)
@set_option
@click.option("--delete", is_flag=True, help="Delete; by default the command only lists what it would delete.")
@click.option(
    "--unfinished", is_flag=True, help="In a remote store also delete unfinished artifacts; no run may be using it."
)
@store_option
def gc(
    recipes: tuple[str, ...], overrides: tuple[str, ...], delete: bool, unfinished: bool, store_uri: str | None
) -> None:
    """Delete what none of the given recipes needs.

    Deletes nothing while a run of this machine uses the store. Runs of other machines in a remote store cannot be
    detected: there unfinished artifacts are kept unless --unfinished is given, and only --keep protects what those
    runs have finished and still need. Results of ablations are kept; their students are not. --set applies to each of
    the recipes.

    \b
    lightgen store gc --keep demo              list what would be deleted
    lightgen store gc --keep demo --delete     delete it
    """
    from flows.errors import UserError
    from flows.load import load_recipe
    from flows.plan import plan
    from tasks.config.settings import Settings
    from tasks.context.scratch import try_exclusive_store_lock

    store, settings = _open(store_uri), Settings()
    plans = [plan(load_recipe(recipe, overrides), store) for recipe in recipes]
    needed = {artifact.path for planner in plans for artifact in planner.artifacts.values()}
    freed = 0
    with try_exclusive_store_lock(store, settings) as alone:
        if delete and not alone:
            raise UserError(
                f"a run of this machine is at work in {store.uri}, and may need what would go: nothing was deleted.\n"
                "Give the command again when that run has ended."
            )
        for artifact in _artifacts(store, ablations=False):
            if artifact.path in needed:
                continue
            if not (unfinished or store.supports_locking or artifact.is_committed()):
                click.echo(f"left alone, unfinished: {artifact.path}")
                continue
            size = sum(store.files(artifact.path).values())
            freed += size
            if delete:
                artifact.remove()
            click.echo(f"{'deleted' if delete else 'would delete'} {artifact.path} ({format_bytes(size)})")
    summary = f"{format_bytes(freed)} {'freed' if delete else 'could be freed; add --delete'}"
    click.echo(summary if freed else f"nothing to delete in {store.uri}")
