"""A file lock between processes that the kernel frees when its holder dies."""

import contextlib
import fcntl
import logging
from collections.abc import Iterator
from pathlib import Path

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def file_lock(path: Path, *, wait: bool = True, shared: bool = False) -> Iterator[bool]:
    """Lock `path`, exclusively or shared; yield whether it is held, always True with `wait`.

    `flock` belongs to the open file, so a killed holder leaves no lock behind.
    """
    mode = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        try:
            fcntl.flock(file, mode | fcntl.LOCK_NB)
        except BlockingIOError:
            if not wait:
                yield False
                return
            logger.info("waiting for another run that holds %s", path.stem)
            fcntl.flock(file, mode)
        yield True
