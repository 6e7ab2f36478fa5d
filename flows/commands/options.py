"""Options shared by several commands."""

import click

store_option = click.option(
    "--store", "store_uri", metavar="URI", help="Folder or fsspec URL of the artifacts; LIGHTGEN_STORE by default."
)
set_option = click.option(
    "--set", "overrides", multiple=True, metavar="FIELD=VALUE", help="Override one field, e.g. pretrain.steps=2000."
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else.")
