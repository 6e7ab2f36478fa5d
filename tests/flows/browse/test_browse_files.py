"""The store's files through the data page's server: reports as they are, nothing beside them."""

import http.client
import threading
from collections.abc import Iterator

import pytest
import uvicorn
from fastapi.testclient import TestClient

from benchmarks.browse import commit_tables, write_store
from flows.browse.app import create_app
from flows.browse.library import Library
from storage.artifact import Artifact
from storage.store import Store
from tests.support.waiting import wait_until

KEY = "repo0123456789"
WEIGHTS = bytes(3 << 20)
SECRET = "not of the store"
PAGE = b"<!doctype html><title>report</title><script>document.title = 'owned'</script>"


def with_report(store: Store) -> Store:
    report = Artifact(store, "report", KEY)
    for name, data in {
        "report.html": PAGE,
        "model/config.json": b"{}",
        "model/a b.safetensors": WEIGHTS,
    }.items():
        report.add(name, data, 0, {})
    commit_tables(report, iter([]), {"evaluation": "eval0123456789"})
    return store


def client_of(store: Store) -> TestClient:
    return TestClient(create_app(Library(store)), base_url="http://127.0.0.1")


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Store:
    folder = tmp_path_factory.mktemp("files")
    (folder / "secret").write_text(SECRET)
    return with_report(write_store(folder / "store", ["a cat", "a dog"] * 10, side=4, dimensions=8))


@pytest.fixture(scope="module")
def client(store) -> TestClient:
    return client_of(store)


def test_a_report_is_served_as_it_lies_in_the_store(client):
    answer = client.get(f"/report/{KEY}/report.html")
    assert (answer.status_code, answer.content) == (200, PAGE)
    assert answer.headers["content-type"].startswith("text/html")
    assert client.head(f"/report/{KEY}/report.html").status_code == 200


def test_a_page_of_the_store_runs_no_script(client):
    """It has the data page's origin, and may come from others."""
    for path in (f"report/{KEY}/report.html", f"report/{KEY}/"):
        policy = client.get(f"/{path}").headers["content-security-policy"]
        assert policy == "sandbox; default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def test_weights_are_saved_and_not_shown(client):
    answer = client.get(f"/report/{KEY}/model/a%20b.safetensors")
    assert answer.content == WEIGHTS
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers["content-disposition"] == "attachment; filename*=UTF-8''a%20b.safetensors"


def test_a_folder_is_a_list_of_links_that_lead_on(client):
    page = client.get(f"/report/{KEY}/").text
    for link in ("report.html", "model/config.json", "model/a%20b.safetensors", "manifest.json"):
        assert f'href="{link}"' in page
        assert client.get(f"/report/{KEY}/{link}").status_code == 200
    below = client.get(f"/report/{KEY}/model/").text
    assert 'href="config.json"' in below and "report.html" not in below


def test_the_list_of_an_artifact_leads_to_its_rows(client):
    page = client.get("/evaluation/eval0123456789/").text
    assert f'href="../../?run=report%2F{KEY}&amp;view=samples"' in page


def test_a_run_names_its_report(client):
    runs = client.get("/api/runs").json()["runs"]
    assert [run["report"] for run in runs if run["id"] == f"report/{KEY}"] == [f"report/{KEY}/report.html"]


@pytest.mark.parametrize(
    "path",
    [
        f"report/{KEY}/../../../secret",
        f"report/{KEY}/..%2f..%2f..%2fsecret",
        f"report/{KEY}/model/%2e%2e/%2e%2e/%2e%2e/%2e%2e/secret",
        f"report/{KEY}//etc/passwd",
        f"report/{KEY}/%00",
        "report/../secret",
        "report/..%2f../secret",
        "..%2f/secret/",
        "tmp/x/y",
        f"report/{KEY}/report",
        f"report/{KEY}/_progress/files/report.html.json",
        "report/none/report.html",
    ],
)
def test_paths_out_of_an_artifact_are_refused(path, address):
    """By a client that sends them as they are."""
    connection = http.client.HTTPConnection(*address)
    connection.request("GET", f"/{path}")
    answer = connection.getresponse()
    assert (answer.status, SECRET.encode() in answer.read()) == (404, False)
    connection.close()


@pytest.fixture(scope="module")
def address(store) -> Iterator[tuple[str, int]]:
    config = uvicorn.Config(create_app(Library(store)), host="127.0.0.1", port=0, log_level="warning")
    socket, server = config.bind_socket(), uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [socket]})
    thread.start()
    try:
        wait_until(lambda: server.started)
        yield socket.getsockname()
    finally:
        server.should_exit = True
        thread.join()


def test_files_are_only_read(client):
    assert [client.request(method, f"/report/{KEY}/report.html").status_code for method in ("PUT", "DELETE")] == [
        405
    ] * 2


def test_a_store_elsewhere_is_sent_in_pieces():
    client = client_of(with_report(write_store("memory://browse-files", ["a cat"] * 10, side=4, dimensions=8)))
    assert client.get(f"/report/{KEY}/report.html").content == PAGE
    assert client.get(f"/report/{KEY}/model/a%20b.safetensors").content == WEIGHTS


def test_a_locked_page_locks_the_files(store):
    locked = TestClient(create_app(Library(store), key="sesame"), base_url="http://127.0.0.1")
    assert locked.get(f"/report/{KEY}/report.html").status_code == 401
