"""`lightgen serve-model` and `gallery`: a student as an OpenAI-compatible images endpoint, and a page to try it in."""

import ipaddress
import logging
from pathlib import Path

from flows.checkpoint import find_student
from flows.errors import UserError
from flows.student import Student
from tasks.config.settings import Settings

log = logging.getLogger("lightgen")


def serve_model(
    checkpoint: str,
    host: str,
    port: int,
    name: str | None,
    max_batch: int,
    max_queue: int,
    store_uri: str | None,
    page: bool = False,
) -> None:
    """Serve a student until SIGTERM or Ctrl-C, then answer what was accepted and return.

    page: also the gallery.

    Raises:
        UserError: no student, a port that is taken, or an address beyond this machine without LIGHTGEN_SERVE_KEY.
    """
    key, loopback = Settings().serve_key.get_secret_value().strip(), is_loopback(host)
    if not loopback and not key:
        raise UserError(
            f"--host {host} would be reached from other machines: set LIGHTGEN_SERVE_KEY to a key that requests must "
            "bring, or keep to 127.0.0.1"
        )
    student = Student.from_pretrained(find_student(checkpoint, store_uri).folder)
    import uvicorn

    from lightgen_core.serving.app import batch_sampler, create_app
    from lightgen_core.serving.batcher import Batcher

    batcher = Batcher(batch_sampler(student.model), max_batch, max_queue)
    hosts = ("127.0.0.1", "localhost") if loopback and not key else ()
    served = name or Path(checkpoint).stem
    app = create_app(student.model, batcher, served, key, hosts)
    if page:
        from lightgen_core.serving.gallery import add_gallery

        add_gallery(app, student.model, batcher, served, key=bool(key))
    config = uvicorn.Config(app, host=host, port=port, log_level="warning", access_log=False, server_header=False)
    try:
        socket = config.bind_socket()
    except SystemExit as error:  # uvicorn has logged the reason
        raise UserError(f"{host}:{port} cannot be served at; give another --port, or 0 for any that is free") from error
    address = socket.getsockname()
    path = "" if page else "v1"
    log.info("%s is served at http://%s:%d/%s; Ctrl-C or SIGTERM ends it", served, host, address[1], path)
    try:
        uvicorn.Server(config).run(sockets=[socket])
    except KeyboardInterrupt:  # uvicorn raises the signal again after its orderly end
        counts = batcher.counts
        log.info("ended: %d images served, %d refused, %d failed", counts.served, counts.refused, counts.failed)


def is_loopback(host: str) -> bool:
    """Return whether an address is reached from this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
