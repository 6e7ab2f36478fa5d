"""Text output of the command line."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from storage.manifest import Manifest
from storage.plural import counted

FILES_SHOWN = 20
"""Files of an artifact that `store show` lists."""


def describe_run(result: Mapping[str, Any]) -> str:
    """Return a run's stages, scores and report path as text."""
    rows = [
        (stage["stage"], stage["state"], f"{stage['seconds']:.1f} s", counted(stage["rows"], "row"))
        for stage in result["stages"]
    ]
    lines = table(rows)
    if all(stage["state"] == "cached" for stage in result["stages"]):
        lines.append("nothing to do: every stage was done already")
    lines += _score_lines(result["scores"])
    lines.append(f"{result['seconds']:.0f} s in all; artifacts in {result['store']}")
    if result["report"]:
        lines.append(f"report: {result['report']}")
    return "\n".join(lines)


def _score_lines(scores: Mapping[str, Any]) -> list[str]:
    if not scores:  # not evaluated yet
        return []
    if None in scores.values():
        return ["", "no scorer applies: nothing here can judge pictures of these captions; the report shows them", ""]
    names = list(next(iter(scores.values())))
    rows = [("score", *scores)]
    for name in names:
        cells = [scores[student].get(name) for student in scores]
        rows.append((name, *(_interval(cell) if cell else "-" for cell in cells)))
    return ["", *table(rows), ""]


def describe_evaluation(result: Mapping[str, Any]) -> str:
    """Return a model's scores as a table, with intervals and image counts."""
    rows = [("score", result["judge"], "pictures")]
    rows += [(name, _interval(score), str(score["n"])) for name, score in result["scores"].items()]
    prompts = f"prompts: {result['prompts']}, seed {result['seed']}"
    intervals = "intervals: 95 %, bootstrapped over prompts (Wilson's where all or none are right)"
    return "\n".join([*table(rows), f"{prompts}; {intervals}"])


def _interval(score: Mapping[str, float]) -> str:
    return f"{score['value']:.2f} [{score['low']:.2f}, {score['high']:.2f}]"


def describe_plan(result: Mapping[str, Any]) -> str:
    """Return a plan as a table, and the number of stages to run."""
    rows = [(stage["stage"], stage["state"], stage["key"], stage["why"]) for stage in result["stages"]]
    to_make = sum(stage["state"] != "done" for stage in result["stages"])
    said = f"{to_make} of {counted(len(rows), 'stage')} to make" if to_make else "nothing to do: every stage is done"
    return "\n".join([*table(rows), f"{said}; artifacts in {result['store']}"])


def describe_artifact(uri: str, manifest: Manifest) -> str:
    """Return a summary of an artifact's manifest as text."""
    inputs = ", ".join(f"{stage}/{key}" for stage, key in manifest.inputs.items())
    software = ", ".join(f"{name} {version}" for name, version in manifest.software.items() if name != "lightgen")
    spent = f"{manifest.timings['seconds']:,.1f} s, {manifest.device_seconds:,.1f} s of them with the device"
    facts = [
        ("artifact", f"{manifest.stage}/{manifest.key}"),
        ("place", uri),
        ("made", f"{format_time(manifest.created_at)} UTC in {spent}"),
        ("by", f"lightgen {manifest.software.get('lightgen', '?')}, stage version {manifest.stage_version}"),
        ("with", software),
        ("on", ", ".join(f"{name} {what}" for name, what in manifest.host.items())),
        ("from", inputs or "the recipe alone"),
        ("counts", ", ".join(f"{name} {count:,}" for name, count in manifest.counts.items())),
        ("figures", f"{', '.join(manifest.metrics)}; --json shows them" if manifest.metrics else ""),
    ]
    files = [
        (f"  {file.name}", format_bytes(file.bytes), counted(file.rows, "row") if file.rows else "")
        for file in manifest.files[:FILES_SHOWN]
    ]
    more = len(manifest.files) - len(files)
    config = yaml.safe_dump(manifest.config, sort_keys=False, default_flow_style=None, width=100)
    return "\n".join(
        [
            *table([(name, text) for name, text in facts if text]),
            f"{counted(len(manifest.files), 'file')}, {format_bytes(sum(file.bytes for file in manifest.files))}",
            *table(files),
            *([f"  and {more:,} more"] if more else []),
            "the part of the recipe that decides it",
            textwrap.indent(config, "  ").rstrip(),
        ]
    )


def format_time(created_at: str) -> str:
    """Return a manifest's ISO 8601 time to the minute, UTC."""
    return created_at[:16].replace("T", " ")


def describe_estimate(result: Mapping[str, Any]) -> str:
    """Return an estimate as a table, with its assumptions."""
    total = result["total"] | {"scratch_bytes": result["total"]["largest_scratch_bytes"]}
    rows: list[tuple[str, ...]] = [
        ("stage", "items", "disk", "scratch", "FLOPs", "device-hours", "money", ""),
        *((row["stage"], _items(row), *_costs(row), row["note"]) for row in result["stages"]),
        ("in all", "", *_costs(total), ""),
    ]
    assumed, tokens = result["assumed"], result["tokens_per_image"]
    if assumed["price"] is None:
        rows = [(*row[:6], row[7]) for row in rows]
    lines = [
        f"{counted(result['images'], 'image')}; {result['parameters'] / 1e6:,.1f} M parameters; "
        + "; ".join(f"{counted(count, 'token')} for pictures of {name} px" for name, count in tokens.items()).replace(
            "of as they are px", "as they are"
        )
        + f"; {counted(result['words_per_caption'], 'word')} a caption",
        "",
        *table(rows),
        "",
        f"Device-hours from FLOPs at {assumed['tflops']:g} TFLOP/s x {assumed['mfu']:g}"
        + "".join(f"; {stage} at {rate:g} a second" for stage, rate in assumed["throughput"].items())
        + ". Disk is the most it can be: nothing is dropped, no caption is short.",
    ]
    if total["not_counted"]:
        lines.append(f"Time not known, give --throughput: {', '.join(total['not_counted'])}")
    return "\n".join(lines)


def _items(row: Mapping[str, Any]) -> str:
    return counted(row["items"], row["unit"].removesuffix("s"))


def _costs(row: Mapping[str, Any]) -> tuple[str, str, str, str, str]:
    """Return disk, scratch, FLOPs, device-hours and money as cells."""

    def told(value: float | None, form: str) -> str:
        return "?" if value is None else format(value, form)

    return (
        format_bytes(row["bytes"]),
        format_bytes(row["scratch_bytes"]) if row["scratch_bytes"] else "",
        told(row["flops"], ".3g"),
        told(row["device_hours"], ",.2f"),
        "" if row["money"] is None else format(row["money"], ",.2f"),
    )


def format_bytes(count: float) -> str:
    """Return a number of bytes with a decimal unit: 23 kB, 1.25 GB."""
    from humanize import naturalsize

    return naturalsize(count, format="%.3g")


def describe_checks(findings: Sequence[Mapping[str, str]]) -> str:
    """Return the checks of `doctor` as a table, and the verdict."""
    rows = table([(finding["check"], finding["word"], finding["found"]) for finding in findings])
    lacking = [finding["check"] for finding in findings if finding["state"] == "missing"]
    return "\n".join([*rows, f"not ready: {', '.join(lacking)}" if lacking else "ready"])


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return rows of cells as lines with aligned columns."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))] if rows else []
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
