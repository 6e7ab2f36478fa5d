"""Standard error: a bar on a terminal, plain lines elsewhere, Prefect's own states only where they are asked for."""

import logging
import os
import pty
import re
import subprocess
import sys

import pytest

from flows import terminal
from flows.terminal import StderrHandler, describe_progress, stage_bar
from tasks.context.progress import Progress, ignore_progress

WORK = """
import logging, time
from flows.environment import log_to_stderr
from flows.terminal import stage_bar
from tasks.context.progress import Progress
log_to_stderr()
log = logging.getLogger("tasks.context.context")
with stage_bar("pretrain") as bar:
    bar(Progress(1, 4, "steps", 125.0, {"loss": 0.51234, "images_per_second": 87.65}))
    log.info("pretrain: step 1 of 4", extra={"shown_by_bar": True})
    log.info("pretrain: phases of training: 1")
    time.sleep(0.3)
log.info("pretrain made 4 rows", extra={"shown_by_bar": True})
"""


def record(name: str, message: str, level: int = logging.INFO, **fields: bool) -> logging.LogRecord:
    made = logging.LogRecord(name, level, "", 0, message, (), None)
    made.__dict__ |= fields
    return made


@pytest.mark.parametrize(
    ("name", "message", "level", "kept"),
    [
        ("prefect.flow_runs", "Beginning flow run 'smoke-8cf2' for flow 'lightgen'", logging.INFO, False),
        ("prefect.task_runs", "Finished in state Completed()", logging.INFO, False),
        ("prefect.task_runs", "Finished in state Failed()", logging.ERROR, False),
        ("prefect.flow_runs", "Crash detected! Execution was aborted by a termination signal.", logging.ERROR, False),
        ("prefect.flow_runs", "Finished in state Crashed('Execution was aborted by ...')", logging.ERROR, False),
        ("prefect.flow_runs", "Crash detected! MemoryError", logging.ERROR, True),
        ("prefect.task_runs", "Task run failed with exception: x - Retry 1/3 will start in 30 s", logging.INFO, True),
        ("lightgen", "Finished in state Completed()", logging.INFO, True),
    ],
)
def test_states_of_prefect_are_left_out_unless_asked_for(name, message, level, kept):
    handler = StderrHandler()
    assert handler.filter(record(name, message, level)) is kept
    handler.prefect_states = True
    assert handler.filter(record(name, message, level)) is True


def test_a_line_that_the_hubs_library_prints_itself_comes_once():
    assert StderrHandler().filter(record("huggingface_hub.utils._http", "Retrying in 1s", logging.WARNING)) is False


def test_what_a_bar_shows_is_no_line_beside_it():
    handler, line = StderrHandler(), record("tasks", "step 1 of 4", shown_by_bar=True)
    assert handler.filter(line) is True
    handler.bar = True
    assert handler.filter(line) is False
    assert handler.filter(record("tasks", "loss is high", logging.WARNING, shown_by_bar=True)) is True


@pytest.mark.parametrize(
    ("progress", "rate", "text"),
    [
        (Progress(0, 1, "shards"), "", "0 of 1 shard"),
        (Progress(3, 9, "shards", 95.0, rows=30), "12 rows/s", "3 of 9 shards, 12 rows/s, 2 minutes left"),
        (
            Progress(40, 2600, "steps", 4000, {"loss": 0.98765}),
            "87 images/s",
            "40 of 2,600 steps, 87 images/s, loss 0.988, 1 hour and 7 minutes left",
        ),
        (Progress(4, 4, "steps", 0.0), "", "4 of 4 steps"),
    ],
)
def test_progress_is_told_in_words(progress, rate, text):
    assert describe_progress(progress, rate) == text


def test_a_terminal_gets_a_bar_and_whole_lines_above_it():
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", WORK], stderr=theirs, stdout=subprocess.PIPE, env=os.environ | {"COLUMNS": "140"}
    )
    os.close(theirs)
    shown = b""
    while True:
        try:
            shown += os.read(ours, 1 << 16)
        except OSError:  # Linux's end of a terminal
            break
    os.close(ours)
    output, _ = process.communicate()
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown.decode())
    assert (process.returncode, output) == (0, b"")
    assert "1 of 4 steps, 87.7 images/s, loss 0.512, 2 minutes left" in text
    assert "step 1 of 4\n" not in text
    lines = [line.strip() for line in text.replace("\r", "\n").split("\n")]
    whole = [line[10:] for line in lines if re.match(r"\d\d:\d\d:\d\d  ", line)]
    assert whole == ["pretrain: phases of training: 1", "pretrain made 4 rows"]


def test_a_bar_of_waiting_ends_when_a_stage_has_its_own():
    """A terminal has room for one."""
    shown: list[str] = []
    with terminal.waiting_bar("server"):
        terminal._waiting.callback(shown.append, "server ends")
        shown.append("the flow begins")
        with stage_bar("captions"):
            shown.append("captions")
    assert shown == ["the flow begins", "server ends", "captions"]


def test_where_there_is_no_terminal_all_lines_are_plain():
    done = subprocess.run([sys.executable, "-c", WORK], capture_output=True, text=True)
    assert done.stdout == ""
    assert [line[10:] for line in done.stderr.splitlines()] == [
        "pretrain: step 1 of 4",
        "pretrain: phases of training: 1",
        "pretrain made 4 rows",
    ]


def test_without_a_terminal_a_stage_reports_to_nobody(capsys):
    with stage_bar("pretrain") as bar:
        assert bar is ignore_progress
