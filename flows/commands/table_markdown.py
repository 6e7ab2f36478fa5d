"""A table of `lightgen table` as markdown: published and measured rows, notes, sources; and commands to score peers."""

import shlex
from collections.abc import Callable, Sequence
from functools import partial

from flows.commands.evaluate_tables import as_markdown
from flows.commands.table_rows import SCENE_MARK, TableRow
from lightgen_core.evaluation.published import CATEGORIES, PublishedTable, published

NOT_FOUND = "not found"
_PROMPTS = {True: "rewritten", False: "as they are"}
METADATA = "evaluation_metadata.jsonl"
_METADATA_AT = "https://github.com/djghosh13/geneval/blob/main/prompts/evaluation_metadata.jsonl"
_HEADS = {"overall": "overall", "single_object": "single", "two_object": "two", "color_attr": "attribution"}
_INTERVALS = "measured: 95 % intervals in brackets, as `lightgen eval` and runs give them"


def describe_table(table: PublishedTable, rows: Sequence[TableRow], scenes: Sequence[TableRow]) -> str:
    """Return the table as markdown, rows of the scene world in one of their own below it."""
    sources = list(dict.fromkeys(name for row in rows for name in row.sources))
    lines = [f"### {table.title}", "", *_grid(rows, sources), "", *_notes(table, rows)]
    if scenes:
        lines += ["", f"### Scene world: {SCENE_MARK.partition(', ')[2]} with the rows above", "", *_grid(scenes, [])]
        lines += ["", f"- {_INTERVALS}; judged by {scenes[0].judge} on its own held-out captions"]
    listed = published().sources
    lines += ["", *(f"{number}. [{listed[name].title}]({listed[name].url})" for number, name in enumerate(sources, 1))]
    return "\n".join(lines).rstrip()


def _grid(rows: Sequence[TableRow], sources: Sequence[str]) -> list[str]:
    """Return the rows as a table, without the columns of cost and steps where none is known."""
    columns: dict[str, Callable[[TableRow], str]] = {
        "model": lambda row: row.model if row.benchmark == "geneval" else f"{row.model} ({SCENE_MARK})",
        "kind": lambda row: row.kind + (f", {row.judge}" if row.judge else ""),
        "params": lambda row: _cell(row, row.params, _parameters),
        "images": lambda row: _cell(row, row.images, _count),
        "px": lambda row: _cell(row, row.px, str),
        "prompts": lambda row: _cell(row, row.rewritten, lambda given: _PROMPTS[bool(given)]),
    }
    if any(row.steps is not None for row in rows):
        columns["steps"] = lambda row: _cell(row, row.steps, str)
    for name in (*CATEGORIES, "overall"):
        columns[_HEADS.get(name, name)] = partial(_score, name=name)
    if any(row.device_days is not None for row in rows):
        columns["device-days"] = _days
    if sources:
        columns["source"] = lambda row: " ".join(f"[{sources.index(name) + 1}]" for name in row.sources)
    return as_markdown([list(columns), *([cell(row) for cell in columns.values()] for row in rows)])


def _cell(row: TableRow, value: float | None, written: Callable[[float], str]) -> str:
    """Return a value, or that a published one was not found; what is unknown of a measured row is empty."""
    if value is None:
        return NOT_FOUND if row.kind == "published" else ""
    return written(value)


def _score(row: TableRow, name: str) -> str:
    score = row.scores.get(name)
    if score is None:
        return _cell(row, None, str)
    value = f"{score['value']:.2f}"
    return value if row.kind == "published" else f"{value} [{score['low']:.2f}, {score['high']:.2f}]"


def _days(row: TableRow) -> str:
    return _cell(row, row.device_days, lambda days: f"{days:.3g} {row.device or ''}".rstrip())


def _parameters(number: float) -> str:
    """Return a number of parameters, in billions as papers do from a tenth on: 0.7B, 34M."""
    return f"{number / 1e9:.3g}B" if number >= 1e8 else _count(number)


def _count(number: float) -> str:
    """Return a number with its unit of thousands: 2M, 470k."""
    for unit, size in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:.3g}{unit}"
    return f"{number:.0f}"


def _notes(table: PublishedTable, rows: Sequence[TableRow]) -> list[str]:
    """Return the notes of the table and of its rows as a list."""
    notes = ["published: as the source prints it, by the original GenEval; `not found`: no source at hand says it"]
    if table.note:
        notes.append(table.note)
    if any(row.kind == "measured" for row in rows):
        notes.append(f"{_INTERVALS}; GenEval-HF is transformers' port of the judge, not calibrated for its thresholds")
    for row in rows:
        if row.notes:
            notes.append(f"{row.model}: {'; '.join(row.notes)}")
    return [f"- {note}" for note in notes]


def eval_command(model: str, table: PublishedTable) -> list[str] | None:
    """Return the words of the `lightgen eval` that scores a model as a table does; None if it cannot be run."""
    run = published().models[model].run
    if run is None:
        return None
    size = table.px if table.px and run.source.startswith("diffusers:") else None
    words = ["lightgen", "eval", run.source, "--benchmark", table.benchmark, "--metadata", METADATA, "--images", "4"]
    for option, value in (("--steps", run.steps), ("--cfg", run.cfg), ("--size", size)):
        words += [option, f"{value:g}"] if value is not None else []
    return [*words, "-o", f"scored/{model}" + (f"-{size}" if size else "")]


def describe_commands(table: PublishedTable) -> str:
    """Return a line for each model of a table: the command that scores it, or the reason for having none."""
    listed, lines = published(), [f"# prompts of GenEval's authors: {_METADATA_AT}"]
    for name in dict.fromkeys(row.model for row in table.rows):
        model, words = listed.models[name], eval_command(name, table)
        if words is None or model.run is None:
            lines.append(f"# {model.name}: published only; {model.not_run}")
            continue
        settings = listed.sources[model.run.settings].title if model.run.settings else ""
        about = "; ".join(filter(None, (settings, model.run.note)))
        lines += [f"# {model.name}" + (f": {about}" if about else ""), shlex.join(words)]
    lines.append("# any other images: lightgen eval images:FOLDER --benchmark geneval -o scored/NAME")
    return "\n".join(lines)
