"""What every test gets: no telemetry, a Prefect home of its own, and shapes in annotations checked at run time."""

import os
import tempfile
from pathlib import Path

HOME = Path(tempfile.mkdtemp(prefix="lightgen-tests-"))
os.environ["PREFECT_HOME"] = str(HOME / "prefect")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("LIGHTGEN_THREADS", "2")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # several processes share the cores: threads that wait must sleep
