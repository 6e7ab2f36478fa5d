"""Text output of the command line."""

import shlex
import textwrap
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from humanize import naturalsize

from storage.plural import pluralize
from tasks.context.progress import duration_in_words

if TYPE_CHECKING:
    from storage.manifest import Manifest

FILES_SHOWN = 20
"""Files of an artifact that `store show` lists."""

format_bytes = partial(naturalsize, format="%.3g")
"""Return a number of bytes with a decimal unit: 23 kB, 1.25 GB."""


def describe_run(result: Mapping[str, Any], request: Sequence[str] = (), prompt: str = "") -> str:
    """Return a run's stages, scores and report as text, and the next commands; `request`: recipe and its options."""
    rows = [
        (_label(stage), stage["state"], f"{stage['seconds']:.1f} s", pluralize(stage["rows"], "row"))
        for stage in result["stages"]
    ]
    lines = table(rows)
    if all(stage["state"] == "cached" for stage in result["stages"]):
        lines.append("nothing to do: every stage was done already")
    lines += _score_lines(result["scores"])
    lines.append(f"{result['seconds']:.0f} s in all; artifacts in {result['store']}")
    if result["report"]:
        lines.append(f"report: {_link(result['report'])}")
        if request:
            lines += _next_commands(result["report"], request, prompt)
    return "\n".join(lines)


def _link(address: str) -> str:
    """Return an address that a terminal opens: a local path as a file URI."""
    return address if "://" in address else Path(address).absolute().as_uri()


def _next_commands(report: str, request: Sequence[str], prompt: str) -> list[str]:
    """Return what to do with a finished run, as commands; a recipe names its student unless --set changed it."""
    key, store = report.split("/")[-2], request[request.index("--store") :][:2] if "--store" in request else []
    student = f"report/{key[:8]}" if "--set" in request else request[0]
    commands = (
        ["open", *request],
        ["sample", student, prompt, *store, "-o", "out"],
        ["inpaint", student, "IMAGE.png", "MASK.png", prompt, *store, "-o", "out.png"],
    )
    return ["next:", *(f"  {shlex.join(['lightgen', *command])}" for command in commands)]


def _label(stage: Mapping[str, Any]) -> str:
    return stage.get("label", stage["stage"])


def _score_lines(scores: Mapping[str, Any]) -> list[str]:
    if not scores:  # not evaluated yet
        return []
    scores = {student: table for student, table in scores.items() if table is not None}
    if not scores:
        return ["", "no scorer applies: nothing here can judge images of these captions; the report shows them", ""]
    rows = [("score", *scores)]
    for name in next(iter(scores.values())):
        cells = [score.get(name) for score in scores.values()]
        rows.append((name, *(_interval(cell) if cell else "-" for cell in cells)))
    return ["", *table(rows), ""]


def _interval(score: Mapping[str, float]) -> str:
    return f"{score['value']:.2f} [{score['low']:.2f}, {score['high']:.2f}]"


def describe_comparison(result: Mapping[str, Any]) -> str:
    """Return two students' cost, recipes, shared stages and scores as tables."""
    a, b = result["a"], result["b"]
    lines = table([("", "student", "seconds", "with the device"), _side_row("A", a), _side_row("B", b)])
    fields = _field_rows(result["fields"])
    lines += ["", *table([("field", "A", "B"), *fields])] if fields else ["", "no field of the recipes differs"]
    shared = [stage["stage"] for stage in result["stages"] if stage["shared"]]
    lines += ["", f"shared stages: {', '.join(shared) or 'none'}"]
    for side, other in (("a", "b"), ("b", "a")):
        if alone := [stage["stage"] for stage in result["stages"] if stage[other] is None]:
            lines.append(f"stages of {side.upper()} alone: {', '.join(alone)}")
    lines.append("")
    if a["scores"] and b["scores"]:
        lines += _compared_scores(a["scores"], b["scores"], result["difference"])
    else:
        lines.append("no scores to compare: a student was not evaluated, or nobody judges its captions")
    return "\n".join([*lines, *([f"images: {_link(result['images'])}"] if result["images"] else [])])


def _side_row(side: str, summary: Mapping[str, Any]) -> tuple[str, ...]:
    seconds = f"{summary['seconds']:,.0f}" + (f", {len(summary['lost'])} artifacts lost" if summary["lost"] else "")
    return side, f"{summary['name']} ({summary['student']})", seconds, f"{summary['device_seconds']:,.0f}"


def _field_rows(fields: Mapping[str, Sequence[Any]]) -> list[tuple[str, ...]]:
    """Return a row for each field, and one for a whole section that only one of the recipes has."""
    sections: dict[str, list[str]] = {}
    for name in fields:
        sections.setdefault(name.partition(".")[0], []).append(name)
    rows = []
    for section, names in sections.items():
        given = [any(fields[name][side] is not None for name in names) for side in (0, 1)]
        if all(given) or len(names) == 1:
            rows += [(name, *map(_value, fields[name])) for name in names]
        else:
            rows.append((f"{section}.*", *(pluralize(len(names), "field") if side else "-" for side in given)))
    return rows


def _value(value: Any) -> str:
    return "-" if value is None else textwrap.shorten(str(value), 40, placeholder=" ...")


def _compared_scores(a: Mapping[str, Any], b: Mapping[str, Any], difference: Mapping[str, Any] | None) -> list[str]:
    rows: list[tuple[str, ...]] = [("score", "A", "B", "B - A")]
    for name in dict.fromkeys((*a, *b)):
        cells = [_interval(score[name]) if name in score else "-" for score in (a, b)]
        rows.append((name, *cells, _signed(difference[name]) if difference and name in difference else "-"))
    note = (
        "B - A is paired over captions and seeds"
        if difference
        else "B - A has no interval: captions or seeds differ, or an exported folder lists no images"
    )
    return [*table(rows), "", f"95 % intervals; {note}"]


def _signed(score: Mapping[str, float]) -> str:
    return f"{score['value']:+.3f} [{score['low']:+.3f}, {score['high']:+.3f}]"


def describe_plan(result: Mapping[str, Any]) -> str:
    """Return a plan as a table, and the number of stages to run."""
    rows = [(_label(stage), stage["state"], stage["key"], stage["why"]) for stage in result["stages"]]
    pending = sum(stage["state"] != "done" for stage in result["stages"])
    text = f"{pending} of {pluralize(len(rows), 'stage')} to make" if pending else "nothing to do: every stage is done"
    return "\n".join([*table(rows), f"{text}; artifacts in {result['store']}"])


def describe_artifact(uri: str, manifest: "Manifest") -> str:
    """Return a summary of an artifact's manifest as text."""
    import yaml

    spent = f"{manifest.timings['seconds']:,.1f} s, {manifest.device_seconds:,.1f} s of them with the device"
    facts = [
        ("artifact", f"{manifest.stage}/{manifest.key}"),
        ("path", uri),
        ("made", f"{format_time(manifest.created_at)} UTC in {spent}"),
        ("by", f"lightgen {manifest.software.get('lightgen', '?')}, stage version {manifest.stage_version}"),
        ("with", ", ".join(f"{name} {version}" for name, version in manifest.software.items() if name != "lightgen")),
        ("on", ", ".join(f"{name} {what}" for name, what in manifest.host.items())),
        (
            "from",
            ", ".join(f"{label.partition('-')[0]}/{key}" for label, key in manifest.inputs.items())
            or "the recipe alone",
        ),
        ("counts", ", ".join(f"{name} {count:,}" for name, count in manifest.counts.items())),
        ("figures", f"{', '.join(manifest.metrics)}; --json shows them" if manifest.metrics else ""),
    ]
    files = [
        (f"  {file.name}", format_bytes(file.bytes), pluralize(file.rows, "row") if file.rows else "")
        for file in manifest.files[:FILES_SHOWN]
    ]
    more = len(manifest.files) - len(files)
    config = yaml.safe_dump(manifest.config, sort_keys=False, default_flow_style=None, width=100)
    return "\n".join(
        [
            *table([fact for fact in facts if fact[1]]),
            f"{pluralize(len(manifest.files), 'file')}, {format_bytes(sum(file.bytes for file in manifest.files))}",
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
        ("stage", "items", "disk", "scratch", "FLOPs", "device-hours", "money", "here", ""),
        *(
            (row["stage"], pluralize(row["items"], row["unit"].removesuffix("s")), *_costs(row), row["note"])
            for row in result["stages"]
        ),
        ("in all", "", *_costs(total), ""),
    ]
    assumed, tokens = result["assumed"], result["tokens_per_image"]
    left_out = {6: assumed["price"] is None, 7: not total["seconds_here"]}
    rows = [tuple(cell for column, cell in enumerate(row) if not left_out.get(column)) for row in rows]
    sizes = [
        f"{pluralize(count, 'token')} for images {name if name == 'as they are' else f'of {name} px'}"
        for name, count in tokens.items()
    ]
    lines = [
        f"{pluralize(result['images'], 'image')}; {result['parameters'] / 1e6:,.1f} M parameters; {'; '.join(sizes)}; "
        f"{pluralize(result['words_per_caption'], 'word')} a caption",
        "",
        *table(rows),
        "",
        f"Device-hours from FLOPs at {assumed['tflops']:g} TFLOP/s x {assumed['mfu']:g}"
        + "".join(f"; {stage} at {rate:g} a second" for stage, rate in assumed["throughput"].items())
        + ". Disk is the most it can be: nothing is dropped, no caption is short.",
    ]
    if shards := [
        f"{row['stage']} {row['shard_minutes']:.1f}" for row in result["stages"] if (row["shard_minutes"] or 0) > 0.05
    ]:
        lines.append(f"Minutes of a shard on one device, the most that a kill loses: {', '.join(shards)}.")
    if total["seconds_here"]:
        lacking = [row["stage"] for row in result["stages"] if row["seconds_here"] is None]
        lines.append(
            "Here: at the speed of this machine's newest artifact of each stage in the store"
            + (f"; none tells of {', '.join(lacking)}." if lacking else ".")
        )
    if total["not_counted"]:
        lines.append(f"Time not known, give --throughput: {', '.join(total['not_counted'])}")
    return "\n".join(lines)


def describe_teachers(result: Mapping[str, Any]) -> str:
    """Return the known teachers' costs as a table, with the assumptions and sources."""
    assumed, rows = result["assumed"], result["teachers"]
    head: tuple[str, ...] = ("teacher", "parameters", "image tokens", "text tokens", "steps", "passes")
    head += ("TFLOP an image", "of the denoiser", "device-hours", *([] if assumed["price"] is None else ["money"]))
    cells = [
        (
            row["teacher"] + (" (the recipe's)" if row["of_the_recipe"] else ""),
            f"{row['parameters'] / 1e9:.2f} B",
            f"{row['image_tokens']:,}",
            f"{row['text_tokens']:,}" + (" padded" if row["padded"] else ""),
            str(row["steps"]),
            str(row["passes"]),
            f"{row['flops_per_image'] / 1e12:,.1f}",
            f"{row['denoiser_flops'] / 1e12:,.1f}",
            f"{row['device_hours']:,.0f}" if row["device_hours"] >= 10 else f"{row['device_hours']:.2g}",
            *([] if row["money"] is None else [f"{row['money']:,.2f}"]),
        )
        for row in rows
    ]
    lines = [
        f"{pluralize(result['images'], 'image')} of {result['height']} x {result['width']} px; "
        f"{pluralize(result['words_per_caption'], 'text token')} a caption, for teachers that do not pad",
        "",
        *table([head, *cells]),
        "",
        f"Device-hours at {assumed['tflops']:g} TFLOP/s x {assumed['mfu']:g}: an assumption, measured of no teacher. "
        "Parameters are the denoiser's; passes: its evaluations at each step.",
        "FLOPs are those of matrix products and convolutions, attention included; what is not the denoiser's is the "
        "text encoder's and the decoder's. A step cache is not counted.",
        "",
        *table([(row["teacher"], row["source"]) for row in rows]),
    ]
    return "\n".join(lines)


def _costs(row: Mapping[str, Any]) -> tuple[str, ...]:
    """Return disk, scratch, FLOPs, device-hours, money and the time on this machine as cells."""
    return (
        format_bytes(row["bytes"]),
        format_bytes(row["scratch_bytes"]) if row["scratch_bytes"] else "",
        "?" if row["flops"] is None else format(row["flops"], ".3g"),
        "?" if row["device_hours"] is None else format(row["device_hours"], ",.2f"),
        "" if row["money"] is None else format(row["money"], ",.2f"),
        "" if row["seconds_here"] is None else duration_in_words(row["seconds_here"]),
    )


def describe_checks(findings: Sequence[Mapping[str, str]]) -> str:
    """Return the checks of `doctor` as a table, and the verdict."""
    rows = table([(finding["check"], finding["word"], finding["found"]) for finding in findings])
    missing = [finding["check"] for finding in findings if finding["state"] == "missing"]
    return "\n".join([*rows, f"not ready: {', '.join(missing)}" if missing else "ready"])


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return rows of cells as lines with aligned columns."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))] if rows else []
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
