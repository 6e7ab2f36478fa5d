"""The data page's server: views, search, filters and order, images, the map; strange captions, absent stages."""

import base64
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from fastapi.testclient import TestClient

from benchmarks.browse import commit_tables, noise_images, write_store
from flows.browse import rows
from flows.browse.app import create_app
from flows.browse.catalogue import look_at
from flows.browse.library import Library
from flows.browse.projection import project
from storage.artifact import Artifact
from storage.open_store import open_store
from storage.store import Store
from storage.tables import IMAGE, schema

SCRIPT = "<script>document.title = 'owned'</script><img src=x onerror=alert(1)>"
SQL = '100% of_them\'; DROP TABLE images; -- "quoted" \\ (a|b)*'
STRANGE = [SCRIPT, SQL, "Ein Zebra im GEGENÜBER", "a cat 🐈‍⬛ and 漢字", "long " * 20_000, "  spaces\tand\nlines ", ""]
CAPTIONS = [*STRANGE, *(f"plain caption {number}" for number in range(200))]


def library_of(store: Store) -> Library:
    library = Library(store)
    library.refresh()
    return library


def client_of(store: Store, **options) -> TestClient:
    return TestClient(create_app(library_of(store), **options), base_url="http://127.0.0.1")


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Store:
    return write_store(tmp_path_factory.mktemp("browse") / "store", CAPTIONS, side=4, dimensions=8)


@pytest.fixture(scope="module")
def client(store) -> TestClient:
    return client_of(store)


def run_of(client: TestClient) -> str:
    return client.get("/api/runs").json()["runs"][0]["id"]


def ask(client: TestClient, view: str = "images", **asked) -> dict:
    answer = client.get("/api/rows", params={"run": run_of(client), "view": view, **asked})
    assert answer.status_code == 200, answer.text
    return answer.json()


def ids(answer: dict) -> list[int]:
    return [row["fields"]["id"] for row in answer["rows"]]


def test_a_page_holds_its_rows_and_the_total(client):
    answer = ask(client, page=2, size=60)
    assert (answer["total"], ids(answer)) == (207, list(range(120, 180)))
    assert ids(ask(client, page=9)) == []


@pytest.mark.parametrize(
    ("search", "found"),
    [
        ("<script>", [0]),
        ("'; DROP", [1]),
        ("100% of_them';", [1]),
        ('"quoted" \\', [1]),
        ("(a|b)*", [1]),
        ("%", [1]),
        ("gegenüber zebra", [2]),
        ("🐈", [3]),
        ("漢字", [3]),
        ("caption #9", [9]),
        ("CAPTION 199", [206]),
        ("zebra cat", []),
        (".*", []),
    ],
)
def test_words_are_found_as_they_are_written(client, search, found):
    assert ids(ask(client, search=search)) == found


def test_filters_and_order_go_together(client):
    asked = {"filter": ["topic:portraits", "verdict:near duplicate"], "sort": "clip_score", "descending": True}
    fields = [row["fields"] for row in ask(client, **asked, size=200)["rows"]]
    assert sorted(field["id"] for field in fields) == [9, 39, 69, 99, 129, 159, 189]
    scores = [field["clip_score"] for field in fields]
    assert scores == sorted(scores, reverse=True)


def test_the_random_order_is_one_order_of_all_rows(client):
    pages = [ids(ask(client, sort="random", page=page, size=100)) for page in (0, 1, 2)]
    assert sorted(number for page in pages for number in page) == list(range(207))
    assert pages[0] == ids(ask(client, sort="random", size=100)) != list(range(100))


def test_a_facet_counts_the_rows_of_each_value(client):
    facts = client.get("/api/view", params={"run": run_of(client), "view": "images"}).json()
    assert facts["facets"]["verdict"] == [["kept", 187], ["near duplicate", 20]]
    assert sum(count for _, count in facts["facets"]["topic"]) == facts["rows"] == 207


def test_an_image_is_its_stored_bytes_and_stays_in_caches(client):
    row = ask(client, search="#70")["rows"][0]
    answer = client.get(f"/{row['images'][0]['url']}")
    assert answer.content == noise_images(4)[70 % 64] + (70).to_bytes(8)
    assert answer.headers["content-type"] == "image/png"
    assert answer.headers["cache-control"] == "private, max-age=31536000, immutable"
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_images_of_another_making_have_another_address(store, tmp_path):
    other = write_store(tmp_path / "store", CAPTIONS[:-1], side=4, dimensions=8)
    first, second = (ask(client_of(each), search="#70")["rows"][0]["images"][0]["url"] for each in (store, other))
    assert first.partition("?")[0] == second.partition("?")[0] and first != second


@pytest.mark.parametrize(
    "path",
    [
        "image/synthesis/synt0123456789/image/207",
        "image/synthesis/synt0123456789/image/-1",
        "image/synthesis/synt0123456789/caption/0",
        "image/synthesis/other/image/0",
        "image/captions/capt0123456789/caption/0",
        "image/..%2f..%2fetc/passwd/image/0",
    ],
)
def test_nothing_but_images_is_served_as_one(client, path):
    assert client.get(f"/{path}").status_code == 404


def test_a_duplicate_stands_beside_the_image_that_was_kept(client):
    row = ask(client, "duplicates")["rows"][1]
    assert (row["fields"]["id"], row["fields"]["duplicate_of"]) == (19, 18)
    assert row["fields"]["kept_caption"] == CAPTIONS[18]
    addresses = [(image["title"], image["url"].partition("?")[0].rpartition("/")[2]) for image in row["images"]]
    assert addresses == [("dropped", "19"), ("kept", "18")]


def test_a_dropped_caption_names_the_one_that_it_repeats(client):
    fields = ask(client, "dropped-captions", search="zebra")["rows"][0]["fields"]
    assert (fields["reason"], fields["repeats"]) == ("repeated", CAPTIONS[2])


def test_winner_and_loser_are_those_of_their_round(store, tmp_path):
    """The rounds are one table; each of its rows has the two images of its own artifact."""
    made = write_store(tmp_path / "store", CAPTIONS, side=4, dimensions=8, without=["evaluation"])
    kinds = schema({"id": pa.int64(), "caption": pa.string(), "winner_image": IMAGE, "loser_image": IMAGE})
    images = [{"bytes": b"\xff\xd8\xffsecond", "path": None}]
    table = pa.table({"id": [5], "caption": ["later"], "winner_image": images, "loser_image": images}, kinds)
    second = Artifact(made, "pairs", "second")
    commit_tables(second, iter([("pairs-00000.parquet", table)]), {})
    commit_tables(Artifact(made, "dpo", "tuned"), iter([]), {"pairs": "pair0123456789", "pairs-2": "second"})
    client = client_of(made)
    run = next(run["id"] for run in client.get("/api/runs").json()["runs"] if run["id"] == "dpo/tuned")
    of = {"run": run, "view": "pairs"}
    assert client.get("/api/view", params=of).json()["facets"]["round"] == [["pairs", 21], ["pairs-2", 1]]
    (row,) = client.get("/api/rows", params=of | {"filter": "round:pairs-2"}).json()["rows"]
    assert [image["title"] for image in row["images"]] == ["winner", "loser"]
    assert client.get(f"/{row['images'][0]['url']}").content == b"\xff\xd8\xffsecond"


def test_samples_are_filtered_by_verdict_category_and_student(client):
    facts = client.get("/api/view", params={"run": run_of(client), "view": "samples"}).json()
    assert facts["facets"]["verdict"] == [["not judged", 14], ["right", 14], ["wrong", 14]]
    answer = ask(client, "samples", filter=["verdict:wrong", "category:counting", "student:dpo"])
    assert ids(answer) == [1, 7, 13, 19, 25, 31, 37]


def test_a_seed_beyond_what_browsers_count_to_is_text(client):
    assert ask(client, "samples")["rows"][1]["fields"]["seed"] == str(2**62 + 1)


def test_a_long_caption_is_cut_in_lists_alone(client):
    listed = ask(client, search="#4")["rows"][0]
    whole = client.get("/api/row", params={"run": run_of(client), "view": "images", "row": listed["row"]}).json()
    assert (len(listed["fields"]["caption"]), whole["fields"]["caption"]) == (401, CAPTIONS[4])


def test_the_map_is_the_principal_components(store, client):
    """Against numpy's singular value decomposition of all vectors at once."""
    known = look_at(Artifact(store, "embeddings", "embe0123456789"))
    table = rows.read_columns(known, "^embeddings", ["image"])
    assert table is not None
    vectors = np.array(table["image"].to_pylist(), dtype=np.float64)
    centred = vectors - vectors.mean(axis=0)
    _, lengths, axes = np.linalg.svd(centred, full_matrices=False)
    found = project(known)
    assert np.allclose(np.abs(found.points), np.abs(centred @ axes[:6].T), atol=1e-5)
    assert np.allclose(found.explained, (lengths**2 / (lengths**2).sum())[:6])
    run = {"run": run_of(client)}
    data = client.get("/api/map/points", params=run).content
    assert np.array_equal(np.frombuffer(data, "<u4", 207), np.arange(207))
    assert np.array_equal(np.frombuffer(data, "<f4", offset=4 * 207), found.points.T.ravel())
    matches = client.get("/api/map/matches", params=run | {"search": "zebra"}).content
    assert np.flatnonzero(np.frombuffer(matches, np.uint8)).tolist() == [2]
    classes = client.get("/api/map/colours", params=run | {"by": "verdict"}).json()
    assert (classes["classes"], sum(classes["codes"])) == (["kept", "near duplicate"], 20)


def test_stages_that_are_not_there_are_named(tmp_path):
    """The rest is shown: images without a verdict and without a score."""
    client = client_of(write_store(tmp_path / "store", CAPTIONS, side=4, without=["embeddings", "dedup", "evaluation"]))
    views = {view["name"]: view for view in client.get("/api/views", params={"run": run_of(client)}).json()}
    assert views["samples"]["lacks"] == "evaluation is missing: not made in this run yet"
    assert (views["images"]["lacks"], len(views["images"]["without"])) == ("", 2)
    assert "verdict" not in ask(client)["rows"][0]["fields"]
    refused = client.get("/api/rows", params={"run": run_of(client), "view": "duplicates"})
    assert refused.status_code == 404 and "dedup is missing" in refused.json()["error"]


def test_a_file_that_is_gone_or_rotten_is_said(tmp_path):
    made = write_store(tmp_path / "store", CAPTIONS, side=4, dimensions=8)
    (tmp_path / "store/dedup/dedu0123456789/keep.parquet").unlink()
    rotten = tmp_path / "store/captions/capt0123456789/captions.parquet"
    rotten.write_bytes(b"x" * rotten.stat().st_size)
    client = client_of(made)
    views = {view["name"]: view for view in client.get("/api/views", params={"run": run_of(client)}).json()}
    assert views["duplicates"]["lacks"] == "dedup is damaged: keep.parquet is missing"
    refused = client.get("/api/rows", params={"run": run_of(client), "view": "captions"})
    assert refused.status_code == 409 and "lightgen store verify" in refused.json()["error"]
    assert ask(client)["total"] == 207


def test_what_does_not_exist_is_refused_by_name(client):
    run = run_of(client)
    for asked, message in (
        ({"run": "report/none", "view": "images"}, "there is no run 'report/none'"),
        ({"run": run, "view": "none"}, "there is no view 'none'"),
        ({"run": run, "view": "images", "filter": "caption:x"}, "cannot be filtered by 'caption'"),
        ({"run": run, "view": "images", "sort": "latents"}, "no column 'latents' to sort by"),
    ):
        refused = client.get("/api/rows", params=asked)
        assert (refused.status_code, message in refused.json()["error"]) == (404, True)


def snapshot(folder: Path) -> dict[Path, int]:
    """Return the time of each file's and folder's last change."""
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_looking_changes_nothing_in_the_store(tmp_path):
    write_store(tmp_path / "store", CAPTIONS, side=4, dimensions=8)
    before = snapshot(tmp_path)
    client = client_of(open_store(str(tmp_path / "store")))
    for view in ("captions", "dropped-captions", "images", "dropped", "duplicates", "pairs", "samples"):
        for image in ask(client, view)["rows"][0]["images"]:
            assert client.get(f"/{image['url']}").status_code == 200
    client.get("/api/map", params={"run": run_of(client)})
    assert snapshot(tmp_path) == before
    assert [client.request(method, "/api/runs").status_code for method in ("POST", "PUT", "DELETE")] == [405] * 3


def test_a_store_elsewhere_is_read_through_its_protocol():
    client = client_of(write_store("memory://browse-test", CAPTIONS, side=4, dimensions=8))
    row = ask(client, search="#70")["rows"][0]
    assert client.get(f"/{row['images'][0]['url']}").content == noise_images(4)[6] + (70).to_bytes(8)


def test_of_row_groups_the_latest_are_kept(store, monkeypatch):
    monkeypatch.setattr(rows, "CACHE_BYTES", 1)
    reader, known = rows.ImageReader(), look_at(Artifact(store, "pairs", "pair0123456789"))
    read = [reader.read(known, "^pairs", column, 3) for column in ("winner_image", "loser_image", "winner_image")]
    assert read == [noise_images(4)[3], noise_images(4)[4], noise_images(4)[3]]
    assert len(reader._groups) == 1


def test_another_name_or_no_key_is_refused(store):
    guarded = client_of(store, hosts=("127.0.0.1",))
    assert guarded.get("/api/runs", headers={"Host": "evil.example"}).status_code == 400
    policy = guarded.get("/").headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self';")
    locked = client_of(store, key="sésame")
    statuses = [locked.get("/").status_code]
    for key in ("other", "sésame"):
        sent = base64.b64encode(f"me:{key}".encode()).decode()
        statuses.append(locked.get("/", headers={"Authorization": f"Basic {sent}"}).status_code)
    assert statuses == [401, 401, 200]
