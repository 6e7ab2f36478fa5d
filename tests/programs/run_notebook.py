"""Run a notebook's cells as a kernel does, in one name space and inside an event loop.

python -m tests.programs.run_notebook FILE NAME=VALUE ...

The values replace those of the cell with the tag `parameters`. Prints what the last expression of each cell shows.
"""

import ast
import asyncio
import json
import sys
from pathlib import Path
from typing import Any


async def run_notebook(path: Path, parameters: dict[str, Any]) -> list[Any]:
    """Run all code cells; return the value that each cell ends with, None for one that ends with a statement."""
    names: dict[str, Any] = {}
    values = []
    for number, cell in enumerate(json.loads(path.read_text())["cells"]):
        if cell["cell_type"] != "code":
            continue
        body = ast.parse("".join(cell["source"]), f"{path.name}, cell {number}").body
        last = body.pop() if isinstance(body[-1], ast.Expr) else None
        exec(compile(ast.Module(body, []), f"{path.name}, cell {number}", "exec"), names)
        value = (
            eval(compile(ast.Expression(last.value), f"{path.name}, cell {number}", "eval"), names) if last else None
        )
        if "parameters" in cell["metadata"].get("tags", ()):
            names |= parameters
        values.append(value)
    return values


if __name__ == "__main__":
    given = dict(word.split("=", 1) for word in sys.argv[2:])
    for shown in asyncio.run(run_notebook(Path(sys.argv[1]), given)):
        if shown is not None:
            print(repr(shown))
