"""Folders that tests name: of the repository, and of the programs that tests start."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
PROGRAMS = ROOT / "tests" / "programs"
GOLDEN = ROOT / "tests" / "golden"
TWO_STAGES = "tests/programs/two_stages.py"  # relative to the root, as an entrypoint of Prefect is
