"""Four hops from a recipe to the model, as ARCHITECTURE.md promises: each file imports the next."""

import ast
from itertools import pairwise
from pathlib import Path

ROOT = Path(__file__).parents[2]
HOPS = ["flows/distill.py", "tasks/pretrain.py", "lightgen_core/launch/run.py", "lightgen_core/model/mar.py"]


def imports_of(path: Path) -> set[str]:
    """Return the files of the project that a module imports, in its body or inside functions."""
    modules = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            modules |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return {f"{module.replace('.', '/')}.py" for module in modules}


def test_four_imports_lead_from_the_graph_to_the_student():
    for here, there in pairwise(HOPS):
        assert there in imports_of(ROOT / here)
    assert "class Student" in (ROOT / HOPS[-1]).read_text()
    assert " -> ".join(f"`{hop}`" for hop in HOPS) in " ".join((ROOT / "ARCHITECTURE.md").read_text().split())
