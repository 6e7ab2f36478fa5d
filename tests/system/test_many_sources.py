"""Two captioners, two teachers and a set of pictures in ten stages: the same bytes after a kill, and a report."""

import json
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from html import escape
from pathlib import Path

import pytest

from flows.distill import NAMES
from lightgen_core.report.formats import percent
from lightgen_core.vlm.recaption import KINDS
from storage.artifact import Artifact
from storage.open_store import open_store
from storage.tables import read_table
from tests.factories.many_sources import PROMPTS, save_many_sources
from tests.support.contents import contents
from tests.support.held import hold_at
from tests.support.paths import ROOT
from tests.support.waiting import PATIENCE, wait_until

pytestmark = pytest.mark.slow(rank=5)

RUN = re.compile(r'<section id="run".*?</section>', re.DOTALL)
"""The part of the page on time and cost, which differs between two runs of one recipe."""
DONE, HELD = "judgements-00001.parquet", "judgements-00002.parquet"
"""Files of the stage dedup between which the run is killed: the judge has scored two shards of images."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """The folder of a user: models, captions, pictures, heads and the recipe."""
    folder = tmp_path_factory.mktemp("many")
    save_many_sources(folder)
    return folder


def start(folder: Path, store: str, *path: str) -> subprocess.Popen:
    """Start the recipe by the command line; `path`: folders before the project's on PYTHONPATH."""
    place = {"PYTHONPATH": os.pathsep.join([*path, str(ROOT)]), "PREFECT_HOME": str(folder / f"prefect-{store}")}
    environment = os.environ | place | {"LIGHTGEN_THREADS": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "flows", "run", "many_sources.yaml", "--store", store, "--json"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, **pipes, text=True, cwd=folder, env=environment, start_new_session=True)


def finish(process: subprocess.Popen) -> dict:
    """Return what a run prints."""
    printed, said = process.communicate(timeout=3 * PATIENCE)
    assert process.returncode == 0, said
    return json.loads(printed)


def artifacts(folder: Path, store: str, result: dict) -> dict[str, Artifact]:
    place = open_store(str(folder / store))
    return {row["stage"]: Artifact(place, row["stage"], row["key"]) for row in result["stages"]}


@pytest.fixture(scope="module")
def result(folder) -> dict:
    return finish(start(folder, "store"))


@pytest.fixture(scope="module")
def made(folder, result) -> dict[str, Artifact]:
    """Artifacts of a run without a kill, by stage."""
    return artifacts(folder, "store", result)


@pytest.fixture(scope="module")
def page(made) -> str:
    return made["report"].store.read(f"{made['report'].path}/report.html").decode().replace("\xa0", " ")


@pytest.fixture(scope="module")
def rows(page) -> list[list[str]]:
    """The rows of all tables on the page, as texts of their cells."""
    found = re.findall(r"<tr>.*?</tr>", page, re.DOTALL)
    return [[re.sub("<.*?>", "", cell) for cell in re.findall("<t[hd].*?>(.*?)</t[hd]>", row)] for row in found]


def test_ten_stages_run_and_every_source_gives_its_share(result, made):
    assert [(row["stage"], row["state"]) for row in result["stages"]] == [(name, "ran") for name in NAMES]
    images = read_table(made["synthesis"], "^images", ["teacher", "caption_source"]).to_pylist()
    assert {(row["teacher"], row["caption_source"]) for row in images} == {
        ("flux", "llama"), ("flux", "mistral"), ("sd3", "llama"), ("sd3", "mistral"), ("museum", "museum"),
    }  # fmt: skip
    counts = Counter(row["teacher"] for row in images)
    assert counts["flux"] == pytest.approx(2 * counts["sd3"], abs=1)


def test_a_run_killed_while_judging_ends_with_the_same_bytes(folder, made, tmp_path):
    """The kill is of the whole process group, without a word."""
    hold = hold_at(tmp_path, HELD)
    hold.flag.touch()
    process = start(folder, "killed", hold.path)
    dedup = folder / "killed" / "dedup"

    def held() -> bool:
        return any(dedup.glob(f"*/{DONE}")) and any(dedup.glob("*/.*.partial"))

    try:
        wait_until(lambda: process.poll() is not None or held(), 3 * PATIENCE)  # four stages, on a busy machine too
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    assert not list(dedup.glob(f"*/{HELD}")) and process.returncode == -signal.SIGKILL
    resumed = finish(start(folder, "killed"))
    states = {row["stage"]: row["state"] for row in resumed["stages"]}
    assert list(states.values()) == ["cached"] * 3 + ["ran"] * 7
    again = artifacts(folder, "killed", resumed)
    for stage, artifact in made.items():
        one, other = contents(artifact), contents(again[stage])
        if stage == "report":
            pages = [each[stage].store.read(f"{each[stage].path}/report.html").decode() for each in (made, again)]
            assert RUN.sub("", pages[0]) == RUN.sub("", pages[1])
            one, other = ({name: each[name] for name in each if name.startswith("model/")} for each in (one, other))
        assert one == other and again[stage].key == artifact.key, stage


def test_the_report_shows_the_share_of_each_source(made, rows):
    phases = made["pretrain"].manifest().metrics["source_shares"]
    by_teacher = made["synthesis"].manifest().metrics["images_by_teacher"]
    by_source = made["captions"].manifest().metrics["captions_by_source"]
    for column, counts in {"teacher": by_teacher, "caption_source": by_source}.items():
        for name, count in counts.items():
            shares = [count / sum(counts.values()), *(phase[column].get(name, 0.0) for phase in phases)]
            assert [name, str(count), *map(percent, shares)] in rows
    assert phases[0]["teacher"]["museum"] < phases[1]["teacher"]["museum"], "which weighs it four times"


def test_the_report_shows_how_often_each_caption_is_seen(made, rows):
    """An image without a short or long caption comes with its original; the second phase takes no long ones."""
    images = made["synthesis"].manifest()
    written, total = images.metrics["recaptions"], images.counts["rows"]
    shown = {row[0]: row[1:] for row in rows if row and row[0] in ("original", *KINDS) and len(row) == 5}
    counts = {"original": total} | {kind: written[kind]["captions"] for kind in KINDS}
    assert {kind: cells[:2] for kind, cells in shown.items()} == {
        kind: [str(count), percent(count / total)] for kind, count in counts.items()
    }
    first, second = ({kind: float(cells[phase].split()[0]) for kind, cells in shown.items()} for phase in (2, 3))
    assert 20 < first["original"] < 60 and 0 < first["long"] < 40 and sum(first.values()) == pytest.approx(100, abs=1.5)
    assert second["long"] == 0 and 0 < second["short"] <= 50


def test_the_report_has_examples_of_each_reason_for_a_drop(made, page):
    verdicts = read_table(made["dedup"], "^keep").to_pylist()
    counts = Counter(row["reason"] for row in verdicts if not row["kept"] and row["duplicate_of"] is None)
    assert {"small", "elongated", "blurred", "uniform", "low text-image score"} <= counts.keys()
    assert {"low aesthetic", "high unsafe", "low judge score"} <= counts.keys()
    part = page[page.index("Images that filters dropped") :]
    for reason, count in counts.items():
        title = f"<h4>{reason.capitalize()}: {count}</h4>"
        shown = part[part.index(title) + len(title) :].partition("<h")[0]
        assert shown.count("<img ") == shown.count(", threshold ") == min(count, 3)
        assert shown.count("no value") == (min(count, 3) if reason == "no judge score" else 0)


def test_the_report_has_examples_of_each_reason_for_no_text(made, rows):
    """Captions and images that were left out, and short and long captions that the model failed to write."""
    dropped = [row for row in read_table(made["captions"], "^dropped").to_pylist() if row["duplicate_of"] is None]
    missing = read_table(made["synthesis"], "^recaptions").to_pylist()
    tables = [dropped, read_table(made["synthesis"], "^quarantine").to_pylist()]
    tables += [[{"caption": row["caption"], "reason": row[f"{kind}_reason"]} for row in missing] for kind in KINDS]
    for table in tables:
        reasons = Counter(row["reason"] for row in table if row["reason"])
        assert reasons
        for reason, count in reasons.items():
            first = next(row["caption"] for row in table if row["reason"] == reason)
            assert any(
                (row[0], row[-1]) == (reason, str(count)) and row[1].startswith(escape(first or "")) for row in rows
            ), (reason, count, first)
    assert PROMPTS[1] in {row["caption"] for row in dropped if row["reason"] == "evaluation prompt"}
