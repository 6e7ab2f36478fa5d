"""Find what is to be looked at: a store, a recipe's run in it, or the run of an artifact."""

from pathlib import Path

from flows.browse.library import Library
from flows.checkpoint import find_artifact
from flows.distill import ALL_NAMES
from flows.errors import UserError
from flows.load import load_recipe, recipe_names
from flows.plan import plan
from storage.open_store import open_store
from storage.store import Store
from tasks.config.settings import Settings


def open_library(what: str | None, store_uri: str | None, overrides: tuple[str, ...] = ()) -> Library:
    """Return what is to be looked at: a store, and in it perhaps a recipe's run or an artifact's.

    Raises:
        UserError: `what` is none of these, or the store holds nothing.
    """
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
        library = Library(store, first=find_artifact(store, stage, start).path)
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
