"""The page's server: runs, rows by page, images by position, the map, files. It only reads."""

import base64
import hmac
import logging
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
from fastapi import FastAPI, Request, Response
from fastapi import Query as Parameter
from fastapi.responses import FileResponse, JSONResponse
from starlette.middleware.gzip import GZipMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware

from flows.browse.catalogue import StoredRun
from flows.browse.files import add_files
from flows.browse.frame import Frame, Query
from flows.browse.library import Library, colours
from flows.browse.views import VIEWS, NotThere, View
from storage.artifact import CorruptArtifact
from storage.store import StoreError

PAGE = Path(__file__).parent / "page"
FILES = ("browse.css", "browse.js", "cards.js", "detail.js", "map.js")
POLICY = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'"
MAX_PAGE = 200
"""Most rows of a page."""
MAX_SEARCH = 500
"""Most characters of a search."""
FOREVER = "private, max-age=31536000, immutable"
"""Of an image: its address changes with its bytes."""
SIGNATURES = {b"\x89PNG": "image/png", b"\xff\xd8\xff": "image/jpeg", b"RIFF": "image/webp", b"GIF8": "image/gif"}

log = logging.getLogger("lightgen")

RunName = Annotated[str, Parameter(alias="run", max_length=200)]
ViewName = Annotated[str, Parameter(alias="view", max_length=40)]
Filters = Annotated[list[str] | None, Parameter(alias="filter")]
Search = Annotated[str, Parameter(max_length=MAX_SEARCH)]


def create_app(library: Library, key: str = "", hosts: Sequence[str] = ()) -> FastAPI:
    """Return the application.

    Args:
        key: the password of every request, by HTTP's Basic authentication; empty: none.
        hosts: names by which it may be called, so that no web page of another name reaches it; empty: any.
    """
    app = FastAPI(title="LightGen", openapi_url=None)
    app.add_middleware(GZipMiddleware, minimum_size=4096, compresslevel=1)
    _add_guards(app, key, hosts)
    _add_page(app)
    _add_rows(app, library)
    _add_map(app, library)

    @app.get("/image/{stage}/{artifact}/{column}/{position}")
    def image(stage: str, artifact: str, column: str, position: int) -> Response:
        data = library.image(f"{stage}/{artifact}", column, position)
        kind = next((kind for start, kind in SIGNATURES.items() if data.startswith(start)), "application/octet-stream")
        return Response(data, media_type=kind, headers={"Cache-Control": FOREVER})

    add_files(app, library)
    return app


def _add_guards(app: FastAPI, key: str, hosts: Sequence[str]) -> None:
    @app.middleware("http")
    async def guard(request: Request, proceed: Callable[[Request], Awaitable[Response]]) -> Response:
        if key and not _has_key(request, key):
            headers = {"WWW-Authenticate": 'Basic realm="lightgen browse: any name, LIGHTGEN_SERVE_KEY as password"'}
            return _error(401, "the key is missing or wrong: send it as password", headers)
        answer = await proceed(request)
        answer.headers["X-Content-Type-Options"] = "nosniff"
        answer.headers.setdefault("Content-Security-Policy", POLICY)
        return answer

    if hosts:
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(hosts))

    @app.exception_handler(NotThere)
    async def not_there(request: Request, error: NotThere) -> Response:
        return _error(404, str(error))

    async def damaged(request: Request, error: Exception) -> Response:
        log.warning("%s: %s", request.url.path, error)
        advice = "`lightgen store verify` names damaged ones; a run remakes them"
        return _error(409, f"a file cannot be read ({error}). {advice}")

    for kind in (CorruptArtifact, pa.ArrowException, OSError, StoreError):
        app.add_exception_handler(kind, damaged)


def _has_key(request: Request, key: str) -> bool:
    kind, _, sent = request.headers.get("authorization", "").partition(" ")
    try:
        password = base64.b64decode(sent, validate=True).partition(b":")[2]
    except ValueError:
        return False
    return kind.lower() == "basic" and hmac.compare_digest(password, key.encode())


def _error(status: int, message: str, headers: dict[str, str] | None = None) -> Response:
    return JSONResponse({"error": message}, status, headers)


def _add_page(app: FastAPI) -> None:
    fresh = {"Cache-Control": "no-cache"}  # a newer version of the package has the same names

    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        return FileResponse(PAGE / "browse.html", headers=fresh)

    for file in FILES:
        app.get(f"/{file}", include_in_schema=False)(lambda path=PAGE / file: FileResponse(path, headers=fresh))


def _add_rows(app: FastAPI, library: Library) -> None:
    @app.get("/api/runs")
    def runs() -> dict[str, Any]:
        found = [
            {"id": run.id, "title": run.title, "stages": run.states, "report": _report_of(run)}
            for run in library.refresh()
        ]
        return {"store": library.store.uri, "runs": found}

    @app.get("/api/views")
    def views(run: RunName) -> list[dict[str, Any]]:
        chosen = library.run(run)
        listed = []
        for view in (*VIEWS, View("map", "Map", ("synthesis", "embeddings"), lambda _: Frame(pa.table({})))):
            lacking = next((stage for stage in view.needs if not chosen.done(stage)), None)
            listed.append(
                {
                    "name": view.name,
                    "title": view.title,
                    "lacks": chosen.why_not(lacking) if lacking else "",
                    "without": [chosen.why_not(stage) for stage in view.adds if not chosen.done(stage)],
                }
            )
        return listed

    @app.get("/api/view")
    def view_facts(run: RunName, view: ViewName) -> dict[str, Any]:
        frame = library.frame(library.run(run), library.view(view))
        return {"rows": len(frame.table), "facets": frame.facet_counts(), "sorts": frame.sorts}

    @app.get("/api/rows")
    def rows(
        run: RunName,
        view: ViewName,
        search: Search = "",
        filters: Filters = None,
        sort: str = "",
        descending: bool = False,
        page: Annotated[int, Parameter(ge=0)] = 0,
        size: Annotated[int, Parameter(ge=1, le=MAX_PAGE)] = 60,
    ) -> dict[str, Any]:
        chosen, kind = library.run(run), library.view(view)
        frame = library.frame(chosen, kind)
        matches = library.matches(chosen, kind, _query(frame, search, filters, sort, descending))
        return {"total": len(matches), "rows": frame.rows(matches[page * size : (page + 1) * size])}

    @app.get("/api/row")
    def row(run: RunName, view: ViewName, row: Annotated[int, Parameter(ge=0)]) -> dict[str, Any]:
        frame = library.frame(library.run(run), library.view(view))
        if row >= len(frame.table):
            raise NotThere(f"{view} has no row {row}; it has {len(frame.table)}")
        return frame.rows([row], shown=None)[0]


def _report_of(run: StoredRun) -> str:
    """Return the address of a run's report; empty before there is one."""
    return next((f"{known.artifact.path}/report.html" for known in run.done("report").values()), "")


def _add_map(app: FastAPI, library: Library) -> None:
    @app.get("/api/map")
    def map_facts(run: RunName) -> dict[str, Any]:
        chosen = library.run(run)
        found, frame = library.map(chosen), library.frame(chosen, library.view("images"))
        numbers = [name for name in ("clip_score", "judge_score") if name in frame.table.column_names]
        facts = {"points": len(found.ids), "of": found.rows, "explained": np.round(found.explained, 4).tolist()}
        return facts | {"colours": [*frame.facet_counts(), *numbers]}

    @app.get("/api/map/points")
    def map_points(run: RunName) -> Response:
        """Rows of the points (n, uint32), then their components one after the other (components, n, float32)."""
        found = library.map(library.run(run))
        data = found.ids.astype("<u4").tobytes() + np.ascontiguousarray(found.points.T, dtype="<f4").tobytes()
        return Response(data, media_type="application/octet-stream")

    @app.get("/api/map/colours")
    def map_colours(run: RunName, by: str) -> dict[str, Any]:
        chosen = library.run(run)
        frame = library.frame(chosen, library.view("images"))
        if by not in (*frame.facets, "clip_score", "judge_score") or by not in frame.table.column_names:
            raise NotThere(f"points cannot be coloured by {by!r}")
        return colours(frame, library.map(chosen).ids, by)

    @app.get("/api/map/matches")
    def map_matches(run: RunName, search: Search = "", filters: Filters = None) -> Response:
        """A byte for each point: 1 if its image matches."""
        chosen, kind = library.run(run), library.view("images")
        frame = library.frame(chosen, kind)
        matching = np.zeros(len(frame.table), np.uint8)
        matching[library.matches(chosen, kind, _query(frame, search, filters))] = 1
        return Response(matching[library.map(chosen).ids].tobytes(), media_type="application/octet-stream")


def _query(frame: Frame, search: str, filters: list[str] | None, sort: str = "", descending: bool = False) -> Query:
    """Return a query whose columns exist. Raises NotThere."""
    pairs = tuple((name, value) for name, _, value in (each.partition(":") for each in filters or ()))
    for name in [name for name, _ in pairs if name not in frame.facets or name not in frame.table.column_names]:
        raise NotThere(f"rows cannot be filtered by {name!r}; {', '.join(frame.facets) or 'nothing'} can be")
    if sort and sort not in frame.sorts:
        raise NotThere(f"there is no column {sort!r} to sort by; there are {', '.join(frame.sorts)}")
    return Query(search, pairs, sort, descending)
