"""A lock between processes of one machine that the kernel frees when its holder dies."""

import contextlib
import fcntl
import logging
from collections.abc import Iterator
from pathlib import Path

log = logging.getLogger(__name__)


@contextlib.contextmanager
def file_lock(path: Path, *, wait: bool = True, shared: bool = False) -> Iterator[bool]:
    """Hold `path` alone, or shared with others, waiting as long as another process stands against it.

    Yields whether it is held; without `wait` it may not be. `flock` belongs to the open file, so a holder that is
    killed leaves no lock behind.
    """
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        try:
            fcntl.flock(file, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            if not wait:
                yield False
                return
            log.info("waiting for another run, which holds %s", path.stem)
            fcntl.flock(file, kind)
        yield True
