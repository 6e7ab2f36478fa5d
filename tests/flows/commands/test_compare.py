"""`lightgen compare`: fields, shared stages, paired differences, images."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from flows.cli import cli
from flows.commands.compare import compare
from flows.commands.console import describe_comparison
from flows.commands.export import export
from flows.commands.opened_report import page_to_open
from flows.errors import UserError
from storage.artifact import Artifact
from storage.open_store import open_store
from storage.tables import read_table
from tests.factories.finished_run import finished_run
from tests.support.paths import ROOT

pytestmark = [pytest.mark.slow(rank=16), pytest.mark.usefixtures("one_thread")]


@pytest.fixture(scope="module")
def made():
    return finished_run()


@pytest.fixture(scope="module")
def result(made, tmp_path_factory):
    """The pre-trained student beside the tuned one of the same run."""
    before = f"pretrain/{made.artifact('pretrain').key}"
    return compare(before, made.recipe, made.store, tmp_path_factory.mktemp("compare") / "images.svg")


def test_students_of_one_run_share_all_stages_but_the_tuning(result):
    own = {row["stage"] for row in result["stages"] if not row["shared"]}
    assert own == {"pairs", "dpo", "report"}
    assert [result[side]["student"] for side in "ab"] == ["pretrain", "dpo"]


def test_only_sections_of_the_later_stages_differ(result):
    """None stands for what is not in a lineage."""
    sections = {name.partition(".")[0] for name in result["fields"]}
    assert {"pairs", "dpo"} <= sections and not sections & {"captions", "synthesis", "pretrain", "sampler"}
    assert result["fields"]["dpo.steps"] == [None, 2]


def test_the_difference_is_that_of_the_paired_verdicts(made, result):
    rows = read_table(made.artifact("evaluation"), "^samples").to_pylist()
    verdicts = {}
    for row in rows:
        verdicts.setdefault((row["prompt"], row["category"], row["caption"], row["seed"]), {})[row["student"]] = row
    changes = [int(pair["dpo"]["correct"]) - int(pair["pretrain"]["correct"]) for pair in verdicts.values()]
    assert result["difference"]["overall"]["n"] == len(changes) == len(rows) / 2
    expected = result["b"]["scores"]["overall"]["value"] - result["a"]["scores"]["overall"]["value"]
    assert result["difference"]["overall"]["value"] == pytest.approx(expected, abs=1e-12)


def test_the_cost_is_the_sum_over_the_lineage(made, result):
    stages = ("captions", "synthesis", "embeddings", "dedup", "tokens", "pretrain")
    expected = sum(made.artifact(stage).manifest().timings["seconds"] for stage in stages)
    assert result["a"]["seconds"] == pytest.approx(expected)
    assert result["b"]["seconds"] > result["a"]["seconds"]


def test_images_of_both_stand_side_by_side(result):
    drawn = Path(result["images"]).read_text()
    assert drawn.startswith("<svg xmlns=") and drawn.endswith("</svg>")
    captions = 12  # two of each of six categories
    assert drawn.count("<image ") == 2 * captions
    assert drawn.count(">A</text>") == drawn.count(">B</text>") == captions


def test_an_exported_folder_compares_by_its_record(made, tmp_path):
    export(made.student, tmp_path / "exported")
    result = compare(str(tmp_path / "exported"), made.recipe, made.store)
    assert result["a"]["scores"] == result["b"]["scores"] and result["fields"] == {}
    assert result["difference"] is None
    with pytest.raises(UserError, match=r"images of .*exported are not at hand: it is an exported folder"):
        compare(str(tmp_path / "exported"), made.recipe, made.store, tmp_path / "images.svg")


def test_a_folder_without_a_record_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"no lineage\.json"):
        compare(str(tmp_path), str(tmp_path))


def test_the_command_prints_the_table_or_json(made):
    arguments = ["compare", made.recipe, made.recipe, "--store", made.store]
    shown = CliRunner().invoke(cli, arguments, catch_exceptions=False).output
    assert "no field of the recipes differs" in shown
    assert re.search(r"\+0\.000 \[-(0\.\d+), \+\1\]", shown), "two that agree may differ on other prompts"
    read = json.loads(CliRunner().invoke(cli, [*arguments, "--json"], catch_exceptions=False).stdout)
    assert set(read) == {"a", "b", "fields", "stages", "difference", "images"}


def test_a_section_of_one_recipe_alone_is_one_row(result):
    lines = describe_comparison(result).splitlines()
    (row,) = [line.split() for line in lines if line.startswith("pairs.")]
    assert row == ["pairs.*", "-", str(sum(name.startswith("pairs.") for name in result["fields"])), "fields"]


def test_stages_of_one_student_alone_are_named(result):
    """Such as further rounds of tuning, of which no field tells."""
    alone = [line for line in describe_comparison(result).splitlines() if " alone: " in line]
    assert alone == ["stages of B alone: pairs, dpo, report"]


@pytest.fixture
def two_runs(made, tmp_path):
    """A store with a run of the same name before, with another bootstrap."""
    shutil.copytree(made.store, tmp_path / "store")
    for stage in ("evaluation", "report"):
        folder = next((tmp_path / "store" / stage).iterdir())
        before = json.loads((folder / "manifest.json").read_text())
        before |= {"key": "0" * 20, "created_at": "2026-01-01T00:00:00+00:00"}
        if stage == "report":
            before["inputs"]["evaluation"] = "0" * 20
        else:
            before["config"]["evaluation"]["resamples"] = 7
        shutil.copytree(folder, folder.parent / ("0" * 20))
        (folder.parent / ("0" * 20) / "manifest.json").write_text(json.dumps(before))
    return str(tmp_path / "store")


def test_one_student_is_compared_with_the_run_before_it(made, two_runs):
    result = compare(made.recipe, store=two_runs)
    assert result["a"]["name"] == "report/00000000 of 2026-01-01T00:00:00+00:00"
    assert result["fields"] == {"evaluation.resamples": [7, 200]}
    assert result["difference"]["overall"]["value"] == 0


@pytest.fixture
def both(made, two_runs):
    """The report of the fixture's recipe in the store with two runs, and a folder for the page that is opened."""
    return Artifact(open_store(two_runs), "report", made.artifact("report").key), Path(two_runs).parent / "scratch"


def test_an_opened_report_shows_the_run_before(both):
    report, scratch = both
    opened = page_to_open(report, scratch)
    text, plain = opened.read_text(), report.open("report.html").read().decode()
    part = text[text.index('<section id="before">') : text.index('<section id="lineage">')]
    assert "<code>evaluation.resamples</code></th><td>7</td><td>200</td>" in part
    assert re.search(r"\+0\.000<small>-(0\.\d+) to \+\1</small>", part), "paired: the same verdicts"
    assert part.count("<img ") == 2 * 12 and "; 0 were." in part
    model = report.store.local_path(report.path) / "model"
    assert f'href="{model.as_uri()}/"' in text and model.is_dir()
    assert (opened.parent, plain.count("The run before")) == (scratch / "opened", 0)


def test_the_first_run_of_a_name_opens_as_it_lies_in_the_store(made, both):
    first = Artifact(both[0].store, "report", "0" * 20)
    assert page_to_open(first, both[1]) == first.store.local_path(first.path) / "report.html"
    assert page_to_open(made.artifact("report"), both[1]).parent.name == made.artifact("report").key
    assert not both[1].exists()


def test_a_run_before_that_lost_its_samples_is_said(both, caplog):
    """Without them its report still opens, with what its manifests tell."""
    for file in Path(both[0].store.uri).glob(f"evaluation/{'0' * 20}/samples-*"):
        file.unlink()
    assert page_to_open(*both).name == "report.html"
    assert "the run before is not shown beside this one" in caplog.text


def test_where_no_run_was_before_that_is_said(made, two_runs):
    with pytest.raises(UserError, match=r"holds no run of tiny before report/.*name one of them"):
        compare("report/0000", store=two_runs)
    with pytest.raises(UserError, match=r"holds no run of tiny before report/\S+ of \S+$"):
        compare(made.recipe, store=made.store)
    with pytest.raises(UserError, match="is not the student of a report"):
        compare(f"pretrain/{made.artifact('pretrain').key}", store=two_runs)


def test_the_difference_needs_no_torch(made):
    code = (
        "import sys; from flows.commands.compare import compare; "
        f"compare({made.recipe!r}, {made.recipe!r}, {made.store!r}); "
        "sys.exit('torch' in sys.modules or 'prefect' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
