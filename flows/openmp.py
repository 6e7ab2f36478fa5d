"""Spinning of OpenMP's waiting threads. Free of torch, whose OpenMP reads the environment as it loads."""

import os

SPIN_COUNT = 50_000
"""Turns of the waiting loop, a fraction of GNU's, until a thread sleeps; measured in `docs/performance.md`.

GNU's own 300,000 are milliseconds: beside a busy process the thread that is waited for has no core, and the one that
waits takes it.
"""

CROWDED = 2.0
"""Processes that want to run, for each core, above which threads sleep at once: those that spin lose their core."""

_VARIABLES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")


def bound_spinning() -> None:
    """Set `GOMP_SPINCOUNT` for this process and those that it starts; call it before torch is imported.

    `LIGHTGEN_SPIN_COUNT` gives the number, else the load of the last minute. What the caller's environment says of
    OpenMP's waiting stays as it is.
    """
    if not any(name in os.environ for name in _VARIABLES):
        os.environ["GOMP_SPINCOUNT"] = os.environ.get("LIGHTGEN_SPIN_COUNT") or str(_by_load())


def _by_load() -> int:
    return 0 if os.getloadavg()[0] > CROWDED * (os.cpu_count() or 1) else SPIN_COUNT
