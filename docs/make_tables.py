"""Write docs/tables.md: the published tables as `lightgen table` prints them, and the lines that score their models.

python docs/make_tables.py
"""

import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from flows.commands.table_markdown import describe_commands, describe_table  # noqa: E402
from flows.commands.table_rows import published_rows  # noqa: E402
from lightgen_core.evaluation.published import published  # noqa: E402

TABLES = ROOT / "docs/tables.md"
INTRODUCTION = """# Published tables, and your results beside them

Written by `python docs/make_tables.py` from `lightgen_core/evaluation/published.yaml`; do not edit it by hand.

```
lightgen table                        the tables: 1, 2, 3 of the paper, and peers by cost
lightgen table 2 scored demo          a table with results beside it, as markdown; --json, -o FILE
lightgen table 2 --commands           the `lightgen eval` that scores each of its models
```

A result is

- a folder that `lightgen eval -o` has written: its scores with their intervals, the size of its images;
- or a student in a store with its evaluation (a recipe, `STAGE/KEY`, a folder): scores, parameters, images that it
  was trained on, and the device-days of its whole lineage, as `lightgen ledger` counts them. A finished recipe
  gives a row for each of its students.

A measured row stands below the published one of the same model, any other at the end. Its notes say where it leaves
the protocol: another size of images, fewer than GenEval's 553 prompts, prompts of the same form that are not its
authors'. Measured rows are by GenEval-HF, which is not the original judge; compare them with measured rows of the
peers first, and with published ones after. Results on the scene world stand in a table of their own, marked "scene
world, not comparable"; those of any other benchmark are refused.

Published numbers are what the sources print, contradictions included, which the notes name. What no source at hand
says is "not found". A row whose overall score is not the mean of its six, by more than rounding, is refused unless
it says so.
"""
COMMANDS = """## Scoring the peers

`lightgen table NAME --commands`. Download GenEval's own prompts first (the first line says where); steps and
guidance are those of the source that a line names. Scores of models without a pipeline of diffusers are taken from
their images, in GenEval's layout, by `images:FOLDER`. One of the lines is tested, with a tiny pipeline in place
of the hub's (`tests/flows/commands/test_table.py`); none of the peers was scored yet.
"""


def tables() -> str:
    """Return the whole page."""
    listed = published().tables
    parts = [INTRODUCTION, "## Tables\n"]
    for name, table in listed.items():
        parts.append(f"`lightgen table {name}`\n\n{describe_table(table, published_rows(table), ())}\n")
    parts.append(COMMANDS)
    for name in ("3", "peers"):
        parts.append(f"`lightgen table {name} --commands`\n\n```\n{describe_commands(listed[name])}\n```\n")
    return "\n".join(parts)


if __name__ == "__main__":
    TABLES.write_text(tables(), encoding="utf-8")
