"""`lightgen serve-model` and `gallery`: a student as an OpenAI-compatible images endpoint, and a page to try it in."""

import logging
from pathlib import Path

from flows.checkpoint import find_student
from flows.commands.web_server import allowed_hosts, serve_key, serve_until_stopped
from flows.student import Student
from flows.terminal import stage_bar

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
    key = serve_key(host)
    folder = find_student(checkpoint, store_uri).folder
    with stage_bar("student"):
        student = Student.from_pretrained(folder)
        from lightgen_core.serving.app import batch_sampler, create_app
        from lightgen_core.serving.batcher import Batcher

    batcher = Batcher(batch_sampler(student.model), max_batch, max_queue)
    served = name or Path(checkpoint).stem
    app = create_app(student.model, batcher, served, key, allowed_hosts(host, key))
    if page:
        from lightgen_core.serving.gallery import add_gallery

        add_gallery(app, student.model, batcher, served, key=bool(key))
    end = "" if page else "v1"
    ready = "%s is served at %s%s; Ctrl-C or SIGTERM ends it"
    serve_until_stopped(app, host, port, lambda address: log.info(ready, served, address, end))
    counts = batcher.counts
    log.info("ended: %d images served, %d refused, %d failed", counts.served, counts.refused, counts.failed)
