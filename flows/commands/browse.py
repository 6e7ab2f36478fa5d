"""`lightgen browse`: a page to look at the rows of a store."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING

import click

from flows.commands.options import set_option, store_option
from flows.errors import UserError
from storage.store import Store, open_store
from tasks.config.settings import Settings

if TYPE_CHECKING:
    from flows.browse.library import Library

log = logging.getLogger("lightgen")


@click.command()
@click.argument("what", required=False, metavar="[STORE|RECIPE|STAGE/KEY]")
@click.option("--host", default="127.0.0.1", help="Any but this machine's needs LIGHTGEN_SERVE_KEY.")
@click.option("--port", type=click.IntRange(0, 65535), default=7861, help="0: any that is free.")
@store_option
@set_option
def browse(what: str | None, host: str, port: int, store_uri: str | None, overrides: tuple[str, ...]) -> None:
    """Look at a store's data on a page in the browser.

    Captions, images, what was dropped and why, near duplicates, preference pairs, samples by verdict, a map of the
    embeddings; with search, filters and order. It only reads, and loads nothing from elsewhere.

    \b
    lightgen browse                      the store of --store or LIGHTGEN_STORE
    lightgen browse s3://bucket/store    a folder or address of another
    lightgen browse demo                 the run of a recipe, finished or not
    lightgen browse evaluation/be2e      the run that an artifact belongs to
    """
    from flows.browse.app import create_app
    from flows.commands.web_server import allowed_hosts, serve_key, serve_until_stopped

    key = serve_key(host)
    app = create_app(open_library(what, store_uri, overrides), key, allowed_hosts(host, key))
    serve_until_stopped(app, host, port, lambda address: log.info("look at it: %s; Ctrl-C ends it", address))


def open_library(what: str | None, store_uri: str | None, overrides: tuple[str, ...] = ()) -> "Library":
    """Return what is to be looked at: a store, and in it perhaps a recipe's run or an artifact's.

    Raises:
        UserError: `what` is none of these, or the store holds nothing.
    """
    from flows.browse.library import Library
    from flows.distill import ALL_NAMES
    from flows.load import load_recipe, recipe_names
    from flows.plan import plan

    path = Path(what or "").expanduser()
    stage, slash, start = (what or "").partition("/")
    is_recipe = what in recipe_names() or (path.is_file() and path.suffix in (".yaml", ".yml"))
    if what and path.is_dir() and not is_recipe:
        library = Library(_open_store(what, store_uri))
    elif what and is_recipe:
        store = _open_store(None, store_uri, must_exist=False)
        return Library(store, plan(load_recipe(what, overrides), store))
    elif what and slash and stage in ALL_NAMES and "/" not in start:
        store = _open_store(None, store_uri)
        library = Library(store, first=_path_of(store, stage, start))
    elif what and "://" not in what:
        raise UserError(
            f"{what} is nothing to look at: there is no such folder, and no such recipe. Give a store (a folder, "
            f"s3://bucket/store), STAGE/KEY, or a recipe ({', '.join(recipe_names())}, or a YAML file)"
        )
    else:
        library = Library(_open_store(what, store_uri))
    if overrides:
        raise UserError("--set changes fields of a recipe; name the recipe first: lightgen browse demo --set ...")
    if not library.refresh():
        raise UserError(f"{library.store.uri} holds nothing that is finished; `lightgen run demo` makes a first run")
    return library


def _open_store(what: str | None, store_uri: str | None, must_exist: bool = True) -> Store:
    if what and store_uri:
        raise UserError(f"two stores are named, {what} and --store {store_uri}: give one")
    store = open_store(what or store_uri or Settings().store)
    folder = store.local_path("")
    if must_exist and folder is not None and not folder.is_dir():
        raise UserError(
            f"there is no folder {folder}, so no store: nothing was ever made there.\n"
            "Name the store, or set LIGHTGEN_STORE; a first run makes it."
        )
    return store


def _path_of(store: Store, stage: str, start: str) -> str:
    keys = [key for key in store.folders(stage) if key.startswith(start)]
    if len(keys) != 1:
        listed = f": {', '.join(keys)}" if keys else ""
        raise UserError(
            f"{stage}/{start} names {len(keys) or 'no'} artifacts of {store.uri}{listed}; see `lightgen store ls`"
        )
    return f"{stage}/{keys[0]}"
