"""`lightgen browse`: a page to look at the rows of a store."""

import logging

import click

from flows.commands.options import complete_recipe, set_option, store_option

log = logging.getLogger("lightgen")


@click.command()
@click.argument("what", required=False, metavar="[STORE|RECIPE|STAGE/KEY]", shell_complete=complete_recipe)
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
    from flows.browse.find import open_library
    from flows.commands.web_server import allowed_hosts, serve_key, serve_until_stopped

    key = serve_key(host)
    app = create_app(open_library(what, store_uri, overrides), key, allowed_hosts(host, key))
    serve_until_stopped(app, host, port, lambda address: log.info("look at it: %s; Ctrl-C ends it", address))
