"""Particulars of S3: the number of requests, the cost of a transient error, and messages for a person."""

import os
import re
import socket
import subprocess
import sys
from collections import Counter
from pathlib import Path

import boto3
import pytest
from click.testing import CliRunner

from flows.cli import cli, main
from storage import s3
from storage.artifact import Artifact
from storage.open_store import open_store
from storage.store import Store, StoreError, StoreUnavailable
from tests.support.paths import ROOT
from tests.support.s3_server import s3_server
from tests.support.stores import commit


class Server:
    """The server of this module: what it was asked, and what it is to answer in place of the truth, by pattern."""

    def __init__(self) -> None:
        self.requests: list[str] = []
        self.faults: list[tuple[str, int, str, int]] = []

    def fault(self, request: str) -> tuple[int, str] | None:
        """Return the first fault that matches and is not used up."""
        for index, (pattern, status, code, times) in enumerate(self.faults):
            if re.search(pattern, request) and times:
                self.faults[index] = (pattern, status, code, times - 1)
                return status, code
        return None

    def kinds(self) -> dict[str, int]:
        """Return how many requests of each method there were."""
        return dict(Counter(request.split()[0] for request in self.requests))


@pytest.fixture(scope="module")
def running():
    server = Server()
    with s3_server(server.requests, server.fault) as uri:
        yield server, open_store(uri)


@pytest.fixture
def server(running):
    running[0].faults.clear()
    running[1].remove("")
    running[0].requests.clear()
    return running[0]


@pytest.fixture
def store(running, server):
    return running[1]


def made(store: Store, files: int = 5) -> Artifact:
    artifact = Artifact(store, "captions", "0123")
    for number in range(files):
        artifact.add(f"part-{number}", b"%d" % number, 1, {})
    commit(artifact)
    return artifact


@pytest.mark.parametrize("as_file", [False, True])
def test_an_object_names_its_type_so_that_a_page_is_shown(store, tmp_path, as_file):
    report = Artifact(store, "report", "0123")
    for name in ("report.html", "figure.svg", "ledger.json", "model/weights.safetensors"):
        (tmp_path / "any").write_bytes(b"x")
        report.add_file(name, tmp_path / "any") if as_file else report.add(name, b"x", 0, {})
    bucket, _, prefix = store.uri.removeprefix("s3://").partition("/")
    client = boto3.client("s3")
    types = {
        name: client.head_object(Bucket=bucket, Key=f"{prefix}/report/0123/{name}")["ContentType"]
        for name in ("report.html", "figure.svg", "ledger.json", "model/weights.safetensors")
    }
    assert types.pop("model/weights.safetensors") == "binary/octet-stream"
    assert list(types.values()) == ["text/html", "image/svg+xml", "application/json"]


def test_checking_a_finished_artifact_takes_three_requests(server, store):
    """It does not matter how many files it has."""
    made(store)
    server.requests.clear()
    assert Artifact(store, "captions", "0123").check().state == "done"
    assert (server.kinds(), sum("list-type" in request for request in server.requests)) == ({"GET": 3}, 1)


def test_a_finished_file_is_not_fetched_again_to_be_hashed(server, store):
    artifact = made(store)
    assert artifact.check().state == "done"
    assert not [request for request in server.requests if request.startswith("GET") and "part-0?" in f"{request}?"]


def test_a_large_file_is_sent_and_fetched_in_parts(server, store, tmp_path, monkeypatch):
    monkeypatch.setattr(s3, "PART", 5 << 20)
    (tmp_path / "big").write_bytes(os.urandom(12 << 20))
    store.write("big", tmp_path / "big")
    assert len([request for request in server.requests if "partNumber" in request]) == 3
    server.requests.clear()
    store.download("big", tmp_path / "back")
    assert server.kinds() == {"GET": 4}
    assert (tmp_path / "back").read_bytes() == (tmp_path / "big").read_bytes()


def test_an_upload_that_breaks_off_leaves_no_file_and_no_parts(server, store, tmp_path, monkeypatch):
    monkeypatch.setattr(s3, "PART", 5 << 20)
    (tmp_path / "big").write_bytes(os.urandom(12 << 20))
    server.faults.append(("partNumber=2", 403, "AccessDenied", 9))
    with pytest.raises(StoreError, match="denies access"):
        store.write("big", tmp_path / "big")
    assert store.files("") == {}
    bucket = store.uri.split("/")[2]
    assert "Uploads" not in boto3.client("s3").list_multipart_uploads(Bucket=bucket)


@pytest.mark.parametrize(("status", "code"), [(500, "InternalError"), (503, "SlowDown")])
def test_a_passing_error_of_the_server_is_waited_out(server, store, status, code):
    server.faults += [("PUT", status, code, 2), ("GET", status, code, 2)]
    store.write("x", b"1")
    assert store.read("x") == b"1"


@pytest.mark.parametrize(
    ("status", "code", "kind", "message"),
    [
        (503, "SlowDown", StoreUnavailable, "run the same command again"),
        (500, "InternalError", StoreUnavailable, "run the same command again"),
        (400, "RequestTimeout", StoreUnavailable, "run the same command again"),
        (501, "NotImplemented", StoreError, "If-None-Match"),
        (400, "InvalidArgument", StoreError, "refused a request.*InvalidArgument"),
        (403, "QuotaExceeded", StoreError, "refused a request.*QuotaExceeded"),
    ],
)
def test_only_a_passing_error_is_unavailable_and_worth_a_retry(server, store, monkeypatch, status, code, kind, message):
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    server.faults.append(("PUT", status, code, 99))
    with pytest.raises(StoreError, match=f"(?s){message}") as raised:
        open_store(store.uri).create("x", b"1")
    assert type(raised.value) is kind


def test_a_manifest_whose_answer_was_lost_finishes_the_artifact(server, store):
    """The write is sent again by the client, and refused, as its own first one is there."""
    put = store._put

    def twice(path, content, mode):
        put(path, content, mode)
        put(path, content, mode)

    artifact = Artifact(store, "captions", "0123")
    artifact.add("a", b"1", 1, {})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "_put", twice)
        assert commit(artifact)
    assert Artifact(store, "captions", "0123").check().state == "done"


@pytest.mark.parametrize(("code", "created"), [("ConditionalRequestConflict", True), ("PreconditionFailed", False)])
def test_a_conditional_write_is_retried_after_a_conflict(server, store, code, created):
    """It ends where there is a file."""
    server.faults.append(("PUT", 409 if created else 412, code, 2))
    assert store.create("x", b"1") is created
    assert store.exists("x") is created


@pytest.mark.parametrize("code", ["AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken"])
def test_a_store_without_rights_lists_the_rights_it_needs(server, store, code):
    server.faults.append(("list-type", 403, code, 99))
    with pytest.raises(StoreError, match=f"denies access.*{code}(.|\n)*s3:PutObject"):
        open_store(store.uri)


def test_a_folder_that_a_console_created_is_no_file(store):
    bucket, prefix = store.uri.removeprefix("s3://").split("/")
    boto3.client("s3").put_object(Bucket=bucket, Key=f"{prefix}/captions/")
    store.write("captions/a", b"1")
    assert (store.files("captions"), store.files(""), store.folders("")) == ({"a": 1}, {"captions/a": 1}, ["captions"])


def test_the_address_for_s3_goes_before_that_of_all_services(store, monkeypatch):
    store.write("x", b"1")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", os.environ["AWS_ENDPOINT_URL"])
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    assert open_store(store.uri).read("x") == b"1"


def test_a_missing_bucket_is_named_with_the_command_to_create_it(server):
    with pytest.raises(StoreError, match=r"no bucket 'none' at http://127(.|\n)*aws s3 mb s3://none"):
        open_store("s3://none/x")


def test_a_server_that_is_not_there_is_unavailable(server, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(StoreUnavailable, match=r"cannot be reached at http://127.0.0.1:9(.|\n)*AWS_ENDPOINT_URL"):
        open_store("s3://bucket/x")


def test_missing_credentials_are_an_error_at_once(server, monkeypatch, tmp_path):
    """Even if the metadata service never answers."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        with pytest.raises(StoreError, match="Set AWS_ACCESS_KEY_ID"):
            open_store("s3://bucket/x")


def test_without_its_package_the_store_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(StoreError, match=r"pip install 'lightgen\[s3\]'"):
        open_store("s3://bucket/x")


@pytest.mark.parametrize(("server_up", "status"), [(True, 2), (False, 1)])
def test_the_command_line_ends_with_a_few_lines_and_a_status(server, monkeypatch, capsys, server_up, status):
    if not server_up:
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setattr(sys, "argv", ["lightgen", "plan", "smoke", "--store", "s3://none/x"])
    with pytest.raises(SystemExit) as end:
        main()
    said = capsys.readouterr().err
    assert (end.value.code, "Traceback" in said, "s3://none/x" in said) == (status, False, True)


def test_the_store_verbs_work_on_s3(store):
    artifact, runner = made(store), CliRunner()
    place = ["--store", store.uri]

    def said(*words: str, status: int = 0) -> str:
        result = runner.invoke(cli, ["store", *words, *place])
        assert result.exit_code == status, result.output
        return result.output

    assert "captions  0123  done  5 rows" in said("ls")
    assert "part-4" in said("show", "captions/01")
    assert "1 artifact: 1 whole, 0 damaged" in said("verify")
    store.write("captions/0123/part-4", b"X")
    assert "the content of part-4 is not what was written" in said("verify", status=1)
    assert "would delete captions/0123" in said("gc", "--keep", "smoke")
    assert artifact.is_committed()
    assert "deleted captions/0123" in said("gc", "--keep", "smoke", "--delete")
    assert [name for name in store.files("") if not name.startswith(".")] == []


def test_the_server_leaves_the_environment_as_it_was():
    before = dict(os.environ)
    with s3_server():
        assert os.environ["AWS_ENDPOINT_URL"] != before.get("AWS_ENDPOINT_URL")
    assert dict(os.environ) == before


MAKING = """
import os, signal, sys
from storage.artifact import Artifact
from storage.open_store import open_store
from storage.store import Store
from tests.support.stores import commit
artifact = Artifact(open_store(sys.argv[1]), "tokens", "k")
for number in range(4):
    if f"part-{number}" not in artifact.records():
        if number == int(sys.argv[2]):
            os.kill(os.getpid(), signal.SIGKILL)
        artifact.add(f"part-{number}", b"%d" % number, 1, {})
        print(number)
commit(artifact)
"""


def test_after_a_killed_process_the_next_writes_only_the_rest(store, tmp_path):
    def making(die_at: int) -> tuple[int, str]:
        path = str(ROOT)
        command = [sys.executable, "-c", MAKING, store.uri, str(die_at)]
        ended = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": path})
        return ended.returncode, ended.stdout

    assert making(2) == (-9, "0\n1\n")
    artifact = Artifact(store, "tokens", "k")
    assert artifact.check().state == "partial"
    assert making(-1) == (0, "2\n3\n")
    assert artifact.check(rehash=True).state == "done"
    assert artifact.names() == [f"part-{number}" for number in range(4)]


def test_nothing_of_s3_is_imported_for_a_local_store(tmp_path: Path):
    code = (
        "import sys; from storage.open_store import open_store; open_store(sys.argv[1]).files(''); print(*sys.modules)"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], check=True, capture_output=True, text=True
    ).stdout.split()
    assert {"s3fs", "botocore", "fsspec"} & set(loaded) == set()
