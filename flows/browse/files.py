"""Files of finished artifacts under the addresses that a web server of the store's folder would give them."""

import html
import mimetypes
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from urllib.parse import quote

from fastapi import FastAPI, Response
from fastapi.responses import FileResponse, HTMLResponse, StreamingResponse

from flows.browse.library import Library
from flows.browse.views import NotThere
from flows.distill import ALL_NAMES
from storage.artifact import Artifact
from storage.manifest import MANIFEST

STAGES = (*ALL_NAMES, "ablation")
"""Stages whose artifacts are served."""
SHOWN = {".html": "text/html", ".svg": "image/svg+xml", ".json": "application/json", ".md": "text/plain"}
"""Types that a browser shows; of the others images too, and the rest is saved."""
POLICY = "sandbox; default-src 'none'; img-src data:; style-src 'unsafe-inline'"
"""A page of the store runs no script and loads nothing: who wrote the store is not known here."""
VIEWS = {"captions": "captions", "pairs": "pairs", "evaluation": "samples", "report": "samples"}
"""View of the data page that shows a stage's rows; of the others images."""
PIECE = 1 << 20
"""Bytes sent at a time from a store elsewhere."""


def add_files(app: FastAPI, library: Library) -> None:
    """Add `/STAGE/KEY/FILE`, and `/STAGE/KEY/` and folders below it as lists. Call it after all other routes."""

    @app.api_route("/{stage}/{key}/{name:path}", methods=["GET", "HEAD"], include_in_schema=False)
    def file(stage: str, key: str, name: str) -> Response:
        artifact = _finished(library, stage, key)
        names = [MANIFEST, *artifact.names()]
        if name in names:
            return _sent(artifact, name)
        below = [each for each in names if each.startswith(name)] if not name or name.endswith("/") else []
        if not below:
            raise NotThere(f"{artifact.path} has no file {name!r}")
        return HTMLResponse(_listing(library, artifact, name, below), headers={"Content-Security-Policy": POLICY})


def _finished(library: Library, stage: str, key: str) -> Artifact:
    """Return an artifact with a manifest. Raises NotThere; nothing outside the stages' folders is looked at."""
    artifact = Artifact(library.store, stage, key)
    if stage not in STAGES or not key.isalnum() or not artifact.is_committed():
        raise NotThere(f"{library.store.uri} has no finished {stage}/{key}")
    return artifact


def _sent(artifact: Artifact, name: str) -> Response:
    kind = SHOWN.get(PurePosixPath(name).suffix) or mimetypes.guess_type(name)[0] or ""
    shown = kind in SHOWN.values() or kind.startswith("image/")
    headers = {"Content-Security-Policy": POLICY, "Cache-Control": "no-cache"}
    if not shown:
        headers["Content-Disposition"] = f"attachment; filename*=UTF-8''{quote(PurePosixPath(name).name, safe='')}"
    media_type = kind if shown else "application/octet-stream"
    if artifact.store.local_path("") is not None:
        return FileResponse(artifact.local(name, Path()), media_type=media_type, headers=headers)
    return StreamingResponse(_pieces(artifact, name), media_type=media_type, headers=headers)


def _pieces(artifact: Artifact, name: str) -> Iterator[bytes]:
    with artifact.open(name) as stream:
        while piece := stream.read(PIECE):
            yield piece


def _listing(library: Library, artifact: Artifact, folder: str, names: list[str]) -> str:
    """Return a page that links to the files of a folder, and at the artifact's own to its rows on the data page."""
    title = html.escape(f"{artifact.path}/{folder}")
    inside = [name.removeprefix(folder) for name in names]
    links = [f'<li><a href="{quote(name)}">{html.escape(name)}</a></li>' for name in inside]
    rows = "" if folder else _link_to_rows(library, artifact)
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        "<style>body{margin:2em;font:15px/1.7 system-ui,sans-serif;color-scheme:light dark}</style></head>"
        f"<body><h1>{title}</h1>{rows}<ul>{''.join(links)}</ul></body></html>"
    )


def _link_to_rows(library: Library, artifact: Artifact) -> str:
    """Return a link to the data page of a run that the artifact belongs to; empty for a stage without one."""
    paths = {run.id: {known.artifact.path for known in run.stages.values()} for run in library.refresh()}
    run = next((name for name, stages in paths.items() if artifact.path in stages), None)
    if run is None:
        return ""
    address = f"../../?run={quote(run, safe='')}&amp;view={VIEWS.get(artifact.stage, 'images')}"
    return f'<p><a href="{address}">Look at its rows</a></p>'
