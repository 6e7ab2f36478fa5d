"""Ablations that an opened report shows: those with a point whose training was that of its student."""

import json

import pytest

from flows.commands.ablations_of import ablations_of
from flows.commands.opened_report import page_to_open
from lightgen_core.report.page import render_report
from storage.artifact import Artifact
from storage.manifest import Manifest
from storage.open_store import open_store
from tests.core.report.test_page import report as report_data

SCORE = {"value": 0.5, "low": 0.4, "high": 0.6, "n": 96}
TRAINING = {"steps": 40, "model": {"width": 48}}
MADE = "2026-01-01T00:00:0{}+00:00"


def committed(store, stage: str, key: str, *, made: int = 0, **manifest) -> Artifact:
    """Commit an artifact of a stage with its inputs and config."""
    artifact = Artifact(store, stage, key * 20)
    for name, content in manifest.pop("files", {}).items():
        artifact.add(name, content, 0, {})
    recorded = tuple(sorted(artifact.records().values(), key=lambda entry: entry.name))
    about = {"config": {}, "inputs": {}} | manifest
    spent = {"counts": {"rows": 0}, "timings": {"seconds": 1.0}, "device_seconds": 0.0, "software": {}, "host": {}}
    fields = {
        "stage": stage,
        "key": artifact.key,
        "stage_version": 7,
        "files": recorded,
        "created_at": MADE.format(made),
    }
    artifact.commit(Manifest(**fields, **about, **spent))
    return artifact


def ablation(store, key: str, *pretrains: Artifact, made: int = 0, values: tuple = (1, 4)) -> Artifact:
    """Commit an ablation with a point, evaluated, of each training."""
    inputs = {}
    for number, pretrain in enumerate(pretrains):
        evaluation = committed(store, "evaluation", f"{key}{number}", inputs={"pretrain": pretrain.key})
        inputs[f"evaluation-{number + 1}-1"] = evaluation.key
    points = [{"values": {"captions": value}, "scores": {"overall": SCORE}} for value in values]
    result = {"axes": ["captions"], "seeds": 1, "intervals": "95 %", "points": points}
    result["differences"] = [{"later": 1, "earlier": 0, "scores": {"overall": SCORE}}]
    files = {"results.json": json.dumps(result).encode(), "figure.svg": b"<svg/>"}
    return committed(store, "ablation", key, inputs=inputs, files=files, made=made)


@pytest.fixture
def store(tmp_path):
    return open_store(str(tmp_path / "store"))


@pytest.fixture
def own(store):
    return committed(store, "pretrain", "a", config={"pretrain": TRAINING}, inputs={"tokens": "t"})


@pytest.fixture
def report(store, own):
    page = render_report(report_data()).encode()
    return committed(store, "report", "c", inputs={"pretrain": own.key}, files={"report.html": page})


def test_ablations_of_this_training_are_shown_the_oldest_first(store, own, report):
    """Also of one that kept students of earlier steps, and learned the same."""
    kept = {"pretrain": TRAINING | {"keep_steps": [20]}}
    again = committed(store, "pretrain", "b", config=kept, inputs={"tokens": "t"})
    longer = {"pretrain": TRAINING | {"steps": 80}}
    other = committed(store, "pretrain", "d", config=longer, inputs={"tokens": "t"})
    ablation(store, "1", other, own, made=3)
    ablation(store, "2", again, made=1)
    ablation(store, "3", other, made=2)
    found = ablations_of(report)
    assert [each.key for each in found] == ["2" * 8, "1" * 8]
    first, second = found[0].points
    assert (first.values, first.change, second.values) == (["1"], None, ["4"])
    assert second.change is not None and second.change.value == 0.5


def test_a_report_that_was_ablated_opens_with_its_figures(store, own, report, tmp_path):
    assert page_to_open(report, tmp_path).name == "report.html"
    ablation(store, "1", own)
    opened = page_to_open(report, tmp_path)
    assert opened.parent == tmp_path / "opened"
    assert "Score against captions" in opened.read_text()


def test_ablations_that_were_cleaned_up_are_counted(store, own, report, caplog):
    """`lightgen store gc` keeps a result without its evaluations, which know the training."""
    ablation(store, "1", own)
    ablation(store, "2", own)
    (store.local_path(f"evaluation/{'10' * 20}") / "manifest.json").unlink()
    assert [each.key for each in ablations_of(report)] == ["2" * 8]
    assert f"1 ablation not shown: files that they need are no longer in {store.uri}" in caplog.text
