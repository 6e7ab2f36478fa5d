"""One device, many runs: a stage that needs it holds a slot of a global concurrency limit for as long as it works."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from subprocess import Popen

import pytest
from prefect_server import PrefectServer, prefect_server
from processes import kill, stop
from waiting import PATIENCE, wait_until

from flows.device_limit import LEASE_SECONDS

OFTEN = """
import runpy, sys, prefect.concurrency._leases as leases
leases._RENEWAL_FRACTION = 0.05
sys.argv[0] = "tests/two_stages.py"
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[PrefectServer]:
    with prefect_server(
        tmp_path_factory.mktemp("server"), PREFECT_SERVER_SERVICES_REPOSSESSOR_LOOP_SECONDS="1"
    ) as running:
        assert running.run("-m", "prefect", "gcl", "create", "gpu0", "--limit", "1").returncode == 0
        running.api.post("v2/concurrency_limits/", name="gpu1", limit=1)
        yield running


def limited(server: PrefectServer, name: str) -> PrefectServer:
    return replace(server, environment=server.environment | {"LIGHTGEN_DEVICE_LIMIT": name})


def new_store(folder: Path, trouble: str = "") -> Path:
    folder.mkdir()
    (folder / "trouble").write_text(trouble)
    return folder


def wait_for_the_device(log: Path, name: str) -> None:
    """Wait until a run says that another has the device."""
    wait_until(lambda: f"waiting for the device (limit {name})" in log.read_text(), said=log.read_text)


def lease_of(server: PrefectServer, name: str) -> datetime:
    """Return when the only lease of a limit ends."""
    limit = server.api.get(f"v2/concurrency_limits/{name}")["id"]
    files = Path(server.environment["PREFECT_HOME"], "concurrency_leases").glob("????????-*.json")
    (lease,) = [lease for lease in (json.loads(path.read_text()) for path in files) if limit in lease["resource_ids"]]
    return datetime.fromisoformat(lease["expiration"])


@dataclass(frozen=True)
class Orphan:
    """A run was killed that had the device, and another waits for it."""

    expires: datetime
    """When the lease of the killed run ends."""
    died: datetime
    folder: Path
    waiting: Popen[bytes]


@pytest.fixture(scope="module")
def orphan(server, tmp_path_factory) -> Iterator[Orphan]:
    folder, gpu1 = tmp_path_factory.mktemp("killed"), limited(server, "gpu1")
    killed = gpu1.start("-c", OFTEN, str(new_store(folder / "a", "wait")), log=folder / "a.log")
    wait_until((folder / "a" / "waits").exists)
    first = lease_of(server, "gpu1")
    waiting = gpu1.start("tests/two_stages.py", str(new_store(folder / "b")), log=folder / "b.log")
    try:
        wait_for_the_device(folder / "b.log", "gpu1")
        wait_until(lambda: lease_of(server, "gpu1") > first)
        kill(killed)
        yield Orphan(lease_of(server, "gpu1"), datetime.now(UTC), folder, waiting)
    finally:
        stop(killed)
        stop(waiting)


def test_a_limit_that_is_missing_fails_the_run_with_the_command_that_makes_it(server, orphan, tmp_path):
    few = ["--set", "captions.count=40", "--set", "synthesis.count=40"]
    command = ["-m", "flows", "run", "smoke", "--store", str(tmp_path), "--until", "embeddings", *few]
    done = limited(server, "gpu7").run(*command)
    told = (
        "stage embeddings failed: the Prefect server has no concurrency limit 'gpu7', which LIGHTGEN_DEVICE_LIMIT "
        "names; make it: prefect gcl create gpu7 --limit 1"
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines()[-2:] == [f"lightgen: {told}", "`lightgen --debug ...` shows the traceback."]
    assert told in server.api.newest_run(tmp_path)["state"]["message"]


def test_two_runs_never_have_the_device_at_once_and_both_finish(server, orphan, tmp_path):
    gpu0 = limited(server, "gpu0")
    first, second = new_store(tmp_path / "first", "wait"), new_store(tmp_path / "second")
    one = gpu0.start("tests/two_stages.py", str(first), log=tmp_path / "one.log")
    wait_until((first / "waits").exists)
    two = gpu0.start("tests/two_stages.py", str(second), log=tmp_path / "two.log")
    wait_for_the_device(tmp_path / "two.log", "gpu0")
    assert (second / "made").read_text().split() == ["captions-00000.parquet"]
    (first / "trouble").unlink()
    assert (one.wait(PATIENCE), two.wait(PATIENCE)) == (0, 0)
    (manifest,) = first.glob("synthesis/*/manifest.json")
    (shard,) = second.glob("synthesis/*/synthesis-00000.parquet")
    assert manifest.stat().st_mtime_ns < shard.stat().st_mtime_ns
    assert server.api.get("v2/concurrency_limits/gpu0")["active_slots"] == 0


def test_a_stage_that_is_done_asks_for_no_device(server, orphan, tmp_path):
    store = new_store(tmp_path / "store")
    assert server.run("tests/two_stages.py", str(store)).returncode == 0
    assert limited(server, "gpu7").run("tests/two_stages.py", str(store)).returncode == 0  # there is no such limit


def test_a_killed_run_gives_the_device_back_when_its_lease_ends(orphan):
    assert orphan.expires - orphan.died <= timedelta(seconds=LEASE_SECONDS)
    assert orphan.waiting.wait(PATIENCE) == 0
    (shard,) = orphan.folder.glob("b/synthesis/*/synthesis-00000.parquet")
    assert shard.stat().st_mtime >= orphan.expires.timestamp()


def test_a_limit_without_a_server_in_common_is_an_error(monkeypatch):
    from flows.device_limit import DeviceLimitError, device_slot
    from flows.server import TEMPORARY

    monkeypatch.setenv(TEMPORARY, "1")
    with pytest.raises(DeviceLimitError, match="prefect server start"), device_slot("gpu0")():
        pass
