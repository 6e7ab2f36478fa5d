"""Lines that lead from the Prefect UI to a report: true links where the store is served, else a command."""

import logging
import shlex

import pytest
from click.testing import CliRunner

from flows.cli import cli
from flows.pages.links import report_line
from storage.artifact import Artifact
from storage.open_store import open_store
from tasks.config.settings import InvalidSettings, Settings
from tests.support.stores import commit

KEY = "0123456789abcdef0123"


@pytest.fixture
def report(tmp_path, monkeypatch) -> Artifact:
    monkeypatch.setenv("LIGHTGEN_STORE", str(tmp_path / "my store"))
    artifact = Artifact(open_store(str(tmp_path / "my store")), "report", KEY)
    artifact.add("report.html", b"<html></html>", 0, {})
    commit(artifact)
    return artifact


@pytest.mark.parametrize("address", ["http://127.0.0.1:7861", "https://data.example/a/store/"])
def test_a_served_store_is_linked_to(report, monkeypatch, address):
    monkeypatch.setenv("LIGHTGEN_STORE_URL", address)
    page = f"{address.rstrip('/')}/report/{KEY}/report.html"
    assert report_line(report).startswith(f"[Report]({page}) · [samples as they come]({page}#grid) · ")


def test_without_an_address_the_command_that_opens_it_is_named(report, monkeypatch):
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    line = report_line(report)
    name, command = line.split("`")[:2]
    assert name == "Report: " and "](" not in line
    words = shlex.split(command)
    assert words[:3] == ["lightgen", "open", "report/01234567"]
    assert CliRunner().invoke(cli, words[1:], catch_exceptions=False).exit_code == 0
    assert opened == [(report.store.local_path(report.path) / "report.html").as_uri()]


def test_another_store_than_the_served_one_gets_no_dead_link(report, monkeypatch, tmp_path, caplog):
    monkeypatch.setenv("LIGHTGEN_STORE_URL", "http://127.0.0.1:7861")
    monkeypatch.setenv("LIGHTGEN_STORE", str(tmp_path / "other"))
    with caplog.at_level(logging.WARNING, "lightgen"):
        assert report_line(report).startswith("Report: `lightgen open ")
    assert "LIGHTGEN_STORE_URL serves LIGHTGEN_STORE" in caplog.text


def test_a_file_that_lies_beside_its_name_is_linked_to_there(report, monkeypatch):
    """Two machines that make one report in a store without locks write beside each other."""
    monkeypatch.setenv("LIGHTGEN_STORE_URL", "http://127.0.0.1:7861")
    monkeypatch.setattr(Artifact, "uri_of", lambda self, name: f"{self.uri}/report~12.html")
    assert f"/report/{KEY}/report~12.html#grid" in report_line(report)


@pytest.mark.parametrize("address", ["bucket.example", "s3://bucket/store", "file:///store"])
def test_an_address_that_no_browser_opens_is_refused(monkeypatch, address):
    monkeypatch.setenv("LIGHTGEN_STORE_URL", address)
    with pytest.raises(InvalidSettings, match=r"LIGHTGEN_STORE_URL: found '.*'"):
        Settings()
