"""What the command line says to a person, and what Prefect is told so that it says no more than that."""

import logging
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from tasks.worker import LOGGERS

PREFECT_DEFAULTS = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
    "PREFECT_SERVER_UI_V2_ENABLED": "false",  # the newer UI asks an analytics service for its settings
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",  # its own 20 s are too short for a busy laptop
    "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "60",  # flows/automations/crashed.yaml waits for ten of them
    # In memory, as by default, a server that restarts forgets who holds a device, and never frees it.
    "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
    "PREFECT_LOGGING_EXTRA_LOGGERS": ",".join(LOGGERS),
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",  # what is said before a run is for the console only
    "PREFECT_CLI_COLORS": "false",
    "TQDM_DISABLE": "1",  # progress goes through the log; bars of libraries only tear it
}


def quiet_prefect() -> None:
    """Set Prefect's environment, as far as the caller has not; call it before Prefect is imported."""
    for name, value in PREFECT_DEFAULTS.items():
        os.environ.setdefault(name, value)


def log_to_prefect() -> None:
    """Show the program's own messages in the run's log, also where a worker started the run without our environment."""
    prefect = logging.getLogger("prefect.extra")
    for name in LOGGERS:
        logger = logging.getLogger(name)
        for handler in prefect.handlers:
            if handler not in logger.handlers:
                logger.addHandler(handler)
        logger.setLevel(min(logger.level or logging.INFO, logging.INFO))


def log_to_stderr() -> None:
    """Send the program's own messages, and warnings of all others, to standard error; no bars of libraries."""
    os.environ.setdefault("TQDM_DISABLE", PREFECT_DEFAULTS["TQDM_DISABLE"])
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(asctime)s  %(message)s", datefmt="%H:%M:%S")
    for name in LOGGERS:
        logging.getLogger(name).setLevel(logging.INFO)


def describe_run(result: Mapping[str, Any]) -> str:
    """Return the end of a run in words: stages, scores, the report's place."""
    rows = [
        (stage["stage"], stage["state"], f"{stage['seconds']:.1f} s", f"{stage['rows']} rows")
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
    """Return a model's scores as a table, with intervals and numbers of pictures."""
    rows = [("score", result["judge"], "pictures")]
    rows += [(name, _interval(score), str(score["n"])) for name, score in result["scores"].items()]
    prompts = f"prompts: {result['prompts']}, seed {result['seed']}"
    intervals = "intervals: 95 %, bootstrapped over prompts (Wilson's where all or none are right)"
    return "\n".join([*table(rows), f"{prompts}; {intervals}"])


def _interval(score: Mapping[str, float]) -> str:
    return f"{score['value']:.2f} [{score['low']:.2f}, {score['high']:.2f}]"


def describe_plan(result: Mapping[str, Any]) -> str:
    """Return a plan as a table."""
    return "\n".join(
        table([(stage["stage"], stage["state"], stage["key"], stage["why"]) for stage in result["stages"]])
    )


def describe_estimate(result: Mapping[str, Any]) -> str:
    """Return what `estimate` reckons as a table, with what it assumes."""
    rows = [("stage", "items", "disk", "scratch", "FLOPs", "device-hours", "money", "")]
    for row in result["stages"]:
        items = f"{row['items']:,} {row['unit']}"
        rows.append((row["stage"], items, *_costs(row), row["note"]))
    total = result["total"] | {"scratch_bytes": result["total"]["largest_scratch_bytes"]}
    rows.append(("in all", "", *_costs(total), ""))
    assumed, tokens = result["assumed"], result["tokens_per_image"]
    lines = [
        f"{result['images']:,} images; {result['parameters'] / 1e6:,.1f} M parameters; "
        + "; ".join(f"{count} tokens for pictures of {name} px" for name, count in tokens.items()).replace(
            "of as they are px", "as they are"
        )
        + f"; {result['words_per_caption']} words a caption",
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


def _costs(row: Mapping[str, Any]) -> tuple[str, str, str, str, str]:
    """Return disk, scratch, FLOPs, device-hours and money as cells."""

    def told(value: float | None, form: str) -> str:
        return "?" if value is None else format(value, form)

    return (
        size(row["bytes"]),
        size(row["scratch_bytes"]) if row["scratch_bytes"] else "",
        told(row["flops"], ".3g"),
        told(row["device_hours"], ",.2f"),
        "" if row["money"] is None else format(row["money"], ",.2f"),
    )


def size(count: float) -> str:
    """Return bytes with a decimal unit."""
    for unit, power in (("TB", 12), ("GB", 9), ("MB", 6)):
        if count >= 10**power:
            return f"{count / 10**power:.3g} {unit}"
    return f"{count / 1e3:.3g} kB"


def describe_checks(findings: Sequence[Mapping[str, str]]) -> str:
    """Return what `doctor` found as a table."""
    return "\n".join(table([(finding["check"], finding["state"], finding["found"]) for finding in findings]))


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return rows of cells as lines with aligned columns."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))] if rows else []
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
