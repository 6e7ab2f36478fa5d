"""Work on several threads whose results come in the order of the work."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Given = TypeVar("Given")
Made = TypeVar("Made")


def map_ahead(make: Callable[[Given], Made], items: Iterable[Given], threads: int) -> Iterator[Made]:
    """Yield `make(item)` in order; at most twice as many items as threads are under way, so memory is bounded.

    What `make` raises is raised in its item's turn; work that has not begun by then is dropped.
    """
    pool = ThreadPoolExecutor(threads)
    waiting: deque[Future[Made]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(make, item))
            if len(waiting) >= 2 * threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
