"""A lock between processes of one machine that the kernel frees when its holder dies."""

import contextlib
import fcntl
import logging
from collections.abc import Iterator
from pathlib import Path

log = logging.getLogger(__name__)


@contextlib.contextmanager
def file_lock(path: Path, *, wait: bool = True) -> Iterator[bool]:
    """Hold `path` exclusively, waiting as long as another process holds it; yield whether it is held.

    Without `wait` it may not be. `flock` belongs to the open file, so a holder that is killed leaves no lock behind.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not wait:
                yield False
                return
            log.info("waiting for another run that is making %s", path.stem)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield True
