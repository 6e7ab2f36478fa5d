"""An S3 server of the test's own: moto on a free port of loopback, which other processes can reach too."""

import os
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import boto3
import fsspec
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from werkzeug.serving import make_server
from werkzeug.wrappers import Response

_OF_A_USER = ["PROFILE", "SESSION_TOKEN", "ENDPOINT_URL_S3", "CONFIG_FILE", "SHARED_CREDENTIALS_FILE"]
"""Other names under `AWS_` in a user's environment, which would lead elsewhere."""


def s3_files() -> fsspec.AbstractFileSystem:
    """Return a new client of the server of now; fsspec would share one of a former server."""
    return fsspec.filesystem("s3", skip_instance_cache=True)


@contextmanager
def s3_server(
    requests: list[str] | None = None, fault: Callable[[str], tuple[int, str] | None] = lambda request: None
) -> Iterator[str]:
    """Serve S3 with one empty bucket and point `AWS_*` of the environment at it; yield `s3://<bucket>/store`.

    Args:
        requests: hears "GET /bucket/key?query" of each request, in the order of their ends.
        fault: hears of each request before it is done; may give a status and S3's name of an error to answer instead.
    """
    moto = DomainDispatcherApplication(create_backend_app)
    turn = threading.Lock()

    def one_at_a_time(environ: Any, start_response: Any) -> Any:
        with turn:  # moto looks whether a key is there and then writes it: S3 does both as one step
            if wrong := fault(f"{environ['REQUEST_METHOD']} {environ['REQUEST_URI']}"):
                environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
                error = f"<Error><Code>{wrong[1]}</Code><Message>as the test has it</Message></Error>"
                return Response(error, wrong[0], mimetype="application/xml")(environ, start_response)
            return moto(environ, start_response)

    class Handler(MotoRequestHandler):
        def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
            if requests is not None:
                requests.append(f"{self.command} {self.path}")

    server = make_server("127.0.0.1", 0, one_at_a_time, threaded=True, request_handler=Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    ours = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.server_port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "NO_PROXY": "127.0.0.1",
    }
    try:
        with mock.patch.dict(os.environ, ours):
            for name in _OF_A_USER:
                os.environ.pop(f"AWS_{name}", None)
            bucket = f"lightgen-{uuid.uuid4().hex}"
            boto3.client("s3").create_bucket(Bucket=bucket)
            if requests is not None:
                requests.clear()
            yield f"s3://{bucket}/store"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
