"""Time of the data page's requests on a synthetic store: first page, search, order, filter, images, map.

    python -m benchmarks.browse /tmp/browse-store --rows 50000

Writes the store if the folder is not there (50,000 rows of 30 kB images: 1.6 GB), then asks a server in this process.
"""

import argparse
import io
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from fastapi.testclient import TestClient
from PIL import Image

from flows.browse.app import create_app
from flows.browse.library import Library
from storage.artifact import Artifact
from storage.manifest import Manifest
from storage.open_store import open_store
from storage.store import Store
from storage.tables import IMAGE, schema, to_parquet
from tasks.captions import DROPPED
from tasks.captions import SCHEMA as CAPTIONS
from tasks.dedup import FIELDS
from tasks.evaluation import SCHEMA as SAMPLES

SHARD = 10_000
TOPICS = ("animals", "cities", "food", "portraits", "still life", "weather")
_DISTINCT = 64
_IMAGES = schema(
    {"id": pa.int64(), "image": IMAGE}
    | dict.fromkeys(("caption", "topic", "meaning"), pa.string())
    | {"caption_id": pa.int64(), "seed": pa.int64(), "source": pa.string()}
)
_PAIRS = schema(
    {"id": pa.int64(), "caption": pa.string(), "topic": pa.string(), "kind": pa.string()}
    | {"winner_image": IMAGE, "loser_image": IMAGE}
)


def noise_images(side: int, seed: int = 0) -> list[bytes]:
    """Return distinct PNGs of noise, of about 3 * side**2 bytes."""
    rng, found = np.random.default_rng(seed), []
    for _ in range(_DISTINCT):
        buffer = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (side, side, 3), dtype=np.uint8)).save(buffer, "png")
        found.append(buffer.getvalue())
    return found


def captions_of(rows: int, seed: int = 0) -> list[str]:
    """Return captions of some twenty words."""
    rng = np.random.default_rng(seed)
    words = np.array([f"{start}{end}" for start in "bdfglmnprstvz" for end in ("ale", "on", "ira", "ust", "eam")])
    return [" ".join(row) for row in words[rng.integers(0, len(words), (rows, 20))].tolist()]


def write_store(
    folder: Path | str, captions: Sequence[str], side: int = 100, dimensions: int = 512, without: Sequence[str] = ()
) -> Store:
    """Write a run of six stages over captions, an image for each; every tenth is a near duplicate of the one before.

    without: stages that are left out.
    """
    store, images = open_store(str(folder)), noise_images(side)
    tables = {
        "captions": _captions(captions),
        "synthesis": _shards(len(captions), lambda ids: _synthesis(ids, captions, images), "images"),
        "embeddings": _shards(len(captions), lambda ids: _embeddings(ids, dimensions), "embeddings"),
        "dedup": iter([("keep.parquet", _keep(len(captions)))]),
        "pairs": iter([("pairs-00000.parquet", _pairs(captions[::10], images))]),
        "evaluation": iter([("samples-00000.parquet", _samples(captions[::5], images))]),
    }
    inputs: dict[str, str] = {}
    for stage, files in tables.items():
        if stage not in without:
            commit_tables(Artifact(store, stage, f"{stage[:4]}0123456789"), files, inputs)
            inputs = inputs | {stage: f"{stage[:4]}0123456789"}
    return store


def commit_tables(artifact: Artifact, files: Iterator[tuple[str, pa.Table]], inputs: dict[str, str]) -> None:
    """Write tables and the manifest of an artifact."""
    for name, table in files:
        artifact.add(name, to_parquet(table), len(table), {})
    entries = tuple(sorted(artifact.records().values(), key=lambda entry: entry.name))
    facts: dict[str, Any] = {"timings": {}, "device_seconds": 0.0, "software": {}, "host": {}}
    counts = {"rows": sum(entry.rows for entry in entries)}
    artifact.commit(
        Manifest(
            **{"stage": artifact.stage, "key": artifact.key, "stage_version": 1, "config": {}, "inputs": inputs},
            **{"files": entries, "counts": counts, "created_at": "2026-01-01T00:00:00+00:00"},
            **facts,
        )
    )


def _shards(rows: int, make: Callable[[range], pa.Table], name: str) -> Iterator[tuple[str, pa.Table]]:
    for number, start in enumerate(range(0, rows, SHARD)):
        yield f"{name}-{number:05d}.parquet", make(range(start, min(start + SHARD, rows)))


def _some(values: Sequence[Any], count: int) -> list[Any]:
    return list(islice(cycle(values), count))


def _captions(captions: Sequence[str]) -> Iterator[tuple[str, pa.Table]]:
    count = len(captions)
    rows = {"id": range(count), "caption": captions, "topic": _some(TOPICS, count)}
    yield "captions.parquet", pa.table(rows | {"meaning": [""] * count, "source": ["synthetic"] * count}, CAPTIONS)
    repeats = [
        {"caption": text, "topic": TOPICS[0], "reason": "repeated", "duplicate_of": index, "similarity": 0.97}
        for index, text in enumerate(captions[:1000])
    ]
    yield "dropped.parquet", pa.Table.from_pylist(repeats, DROPPED)


def _synthesis(ids: range, captions: Sequence[str], images: list[bytes]) -> pa.Table:
    count = len(ids)
    rows = {
        "id": ids,
        "image": [
            {"bytes": images[index % _DISTINCT] + index.to_bytes(8), "path": None} for index in ids
        ],  # none twice
        "caption": captions[ids.start : ids.stop],
        "topic": [TOPICS[index % len(TOPICS)] for index in ids],
        "meaning": [""] * count,
        "caption_id": ids,
        "seed": ids,
        "source": ["synthetic"] * count,
    }
    return pa.table(rows, _IMAGES)


def _embeddings(ids: range, dimensions: int) -> pa.Table:
    rng = np.random.default_rng(ids.start)
    vectors = rng.normal(size=(len(ids), dimensions)).astype(np.float32)
    vectors[:, 0] += 3 * (np.array(ids) % len(TOPICS))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    lists = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), dimensions)
    return pa.table({"id": pa.array(ids), "image": lists, "score": pa.array(rng.random(len(ids), np.float32))})


def _keep(count: int) -> pa.Table:
    dropped = [index % 10 == 9 for index in range(count)]
    rows = {
        "id": range(count),
        "kept": [not each for each in dropped],
        "reason": ["near duplicate" if each else None for each in dropped],
        "duplicate_of": [index - 1 if each else None for index, each in enumerate(dropped)],
        "similarity": [0.95 + 0.04 * (index % 100) / 100 for index in range(count)],
    }
    return pa.table(rows, schema(FIELDS))


def _pairs(captions: Sequence[str], images: list[bytes]) -> pa.Table:
    rows = {
        "id": range(len(captions)),
        "caption": captions,
        "topic": _some(TOPICS, len(captions)),
        "kind": _some(("teacher", "best_worst"), len(captions)),
        "winner_image": [{"bytes": image, "path": None} for image in _some(images, len(captions))],
        "loser_image": [{"bytes": image, "path": None} for image in _some(images[1:], len(captions))],
    }
    return pa.table(rows, _PAIRS)


def _samples(captions: Sequence[str], images: list[bytes]) -> pa.Table:
    count = len(captions)
    rows = {
        "id": range(count),
        "student": _some(("pretrain", "dpo"), count),
        "prompt": range(count),
        "category": _some(("colors", "counting", "position"), count),
        "caption": captions,
        "meaning": [""] * count,
        "seed": [2**62 + index for index in range(count)],
        "image": [{"bytes": image, "path": None} for image in _some(images, count)],
        "correct": _some((True, False, None), count),
    }
    return pa.table(rows, SAMPLES)


def time_requests(client: TestClient, run: str, repeats: int) -> Iterator[tuple[str, list[float]]]:
    """Yield a request's name, and ms on the clock and of the processor: of the first answer, then medians of others."""
    of = {"run": run, "view": "images"}

    def rows(**more: Any) -> Any:
        answer = client.get("/api/rows", params=of | more)
        answer.raise_for_status()
        return answer.json()

    words = [caption.split()[0] for caption in captions_of(repeats + 1, 1)]
    asked: dict[str, Callable[[int], Any]] = {
        "a page": lambda turn: rows(page=turn * 7),
        "search of a word": lambda turn: rows(search=words[turn]),
        "search of three words": lambda turn: rows(search=" ".join(words[turn : turn + 3])),
        "order by score": lambda turn: rows(sort="clip_score", descending=turn % 2, search=words[turn]),
        "order by caption, all rows": lambda turn: (
            rows(sort="caption", descending=turn % 2, filter=f"topic:{TOPICS[0]}") if turn else rows(sort="caption")
        ),
        "filter by topic and verdict": lambda turn: rows(filter=[f"topic:{TOPICS[turn % 6]}", "verdict:kept"]),
        "60 images of a page": lambda turn: _fetch(client, rows(page=turn * 20)["rows"]),
        "60 images, in random order": lambda turn: _fetch(client, rows(page=turn, sort="random")["rows"]),
        "map: facts and points": lambda turn: (
            client.get("/api/map", params={"run": run}).raise_for_status()
            and client.get("/api/map/points", params={"run": run}).raise_for_status()
        ),
        "map: matches of a word": lambda turn: client.get(
            "/api/map/matches", params={"run": run, "search": words[turn]}
        ).raise_for_status(),
    }
    for name, ask in asked.items():
        walls, cores = [], []
        for turn in range(repeats + 1):
            wall, core = time.perf_counter(), time.process_time()
            ask(turn)
            walls.append(1000 * (time.perf_counter() - wall))
            cores.append(1000 * (time.process_time() - core))
        yield name, [walls[0], cores[0], statistics.median(walls[1:]), statistics.median(cores[1:])]


def _fetch(client: TestClient, rows: list[dict[str, Any]]) -> None:
    for row in rows:
        for image in row["images"]:
            client.get(f"/{image['url']}").raise_for_status()


def main() -> None:
    """Write the store if it is not there, ask, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--side", type=int, default=100, help="of the images, px; a side of 100 is 30 kB")
    parser.add_argument("--repeats", type=int, default=9)
    options = parser.parse_args()
    if not options.folder.exists():
        write_store(options.folder, captions_of(options.rows), options.side)
    started = time.perf_counter()
    library = Library(open_store(str(options.folder)))
    client = TestClient(create_app(library))
    run = client.get("/api/runs").json()["runs"][0]["id"]
    print(f"runs of the store: {1000 * (time.perf_counter() - started):.0f} ms")
    print("| request | first, ms | of the CPU | then, ms | of the CPU |\n| --- | --- | --- | --- | --- |")
    for name, times in time_requests(client, run, options.repeats):
        print(f"| {name} | {' | '.join(f'{each:.0f}' for each in times)} |", flush=True)


if __name__ == "__main__":
    main()
