"""One device, many runs: a stage that needs it holds a slot of a global concurrency limit for as long as it works."""

import json
import signal
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from subprocess import Popen

import pytest

from flows.errors import UserError
from flows.operations.device_limit import require_device_limit
from flows.operations.server import TEMPORARY_SERVER
from tests.support.paths import TWO_STAGES
from tests.support.prefect_server import PrefectServer, prefect_server
from tests.support.processes import kill, stop
from tests.support.waiting import PATIENCE, wait_until

pytestmark = pytest.mark.slow(rank=13)

LEASE_SECONDS = 60  # Prefect allows no shorter one
OFTEN = f"""
import runpy, sys, prefect.concurrency._leases as leases, flows.operations.device_limit as device_limit
leases._RENEWAL_FRACTION, device_limit.LEASE_SECONDS = 0.05, {LEASE_SECONDS}
sys.argv[0] = "tests/programs/two_stages.py"
runpy.run_path(sys.argv[0], run_name="__main__")
"""
# While there is a file `away` in the store's folder, the lease that is held then is lost: it is never renewed again.
AWAY = """
import pathlib, sys, httpx
from prefect.client.orchestration import SyncPrefectClient as Client
away, renew, lost = pathlib.Path(sys.argv[1]) / "away", Client.renew_concurrency_lease, set()

def renew_or_not(self, lease_id, lease_duration):
    lost.update({lease_id} if away.exists() else {})
    if lease_id in lost:
        raise httpx.ConnectError("connection refused")
    renew(self, lease_id, lease_duration)

Client.renew_concurrency_lease = renew_or_not
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[PrefectServer]:
    with prefect_server(
        tmp_path_factory.mktemp("server"), PREFECT_SERVER_SERVICES_REPOSSESSOR_LOOP_SECONDS="1"
    ) as running:
        assert running.run("-m", "prefect", "gcl", "create", "gpu0", "--limit", "1").returncode == 0
        for name in ("gpu1", "gpu2"):
            running.api.post("v2/concurrency_limits/", name=name, limit=1)
        yield running


def limited(server: PrefectServer, name: str) -> PrefectServer:
    more = {"LIGHTGEN_DEVICE_LIMIT": name, "LIGHTGEN_RETRY_SECONDS": "0.1"}
    return replace(server, environment=server.environment | more)


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
    """The end of the lease of the killed run."""
    died: datetime
    folder: Path
    waiting: Popen[bytes]


@pytest.fixture(scope="module")
def orphan(server, tmp_path_factory) -> Iterator[Orphan]:
    folder, gpu1 = tmp_path_factory.mktemp("killed"), limited(server, "gpu1")
    killed = gpu1.start("-c", OFTEN, str(new_store(folder / "a", "wait")), log=folder / "a.log")
    wait_until((folder / "a" / "waits").exists)
    first = lease_of(server, "gpu1")
    waiting = gpu1.start(TWO_STAGES, str(new_store(folder / "b")), log=folder / "b.log")
    try:
        wait_for_the_device(folder / "b.log", "gpu1")
        wait_until(lambda: lease_of(server, "gpu1") > first)
        kill(killed)
        yield Orphan(lease_of(server, "gpu1"), datetime.now(UTC), folder, waiting)
    finally:
        stop(killed)
        stop(waiting)


def test_a_missing_limit_ends_the_run_before_the_first_stage(server, orphan, tmp_path):
    """The error says how to create it."""
    done = limited(server, "gpu7").run("-m", "flows", "run", "smoke", "--store", str(tmp_path), "--until", "embeddings")
    told = (
        "the Prefect server has no concurrency limit 'gpu7', which LIGHTGEN_DEVICE_LIMIT names; make it: prefect gcl "
        "create gpu7 --limit 1"
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines()[-1] == f"lightgen: {told}"
    run = server.api.newest_run(tmp_path)
    assert (run["state"]["type"], run["state"]["message"]) == ("FAILED", told)
    assert server.api.task_runs(run) == {} and not list(tmp_path.glob("captions/*"))


def test_two_runs_never_have_the_device_at_once_and_both_finish(server, orphan, tmp_path):
    gpu0 = limited(server, "gpu0")
    first, second = new_store(tmp_path / "first", "wait"), new_store(tmp_path / "second")
    one = gpu0.start(TWO_STAGES, str(first), log=tmp_path / "one.log")
    wait_until((first / "waits").exists)
    two = gpu0.start(TWO_STAGES, str(second), log=tmp_path / "two.log")
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
    assert server.run(TWO_STAGES, str(store)).returncode == 0
    assert limited(server, "gpu7").run(TWO_STAGES, str(store)).returncode == 0  # there is no such limit


def test_a_slot_that_cannot_be_renewed_ends_the_attempt(server, tmp_path):
    """The next attempt takes a slot and goes on."""
    gpu2, store = limited(server, "gpu2"), new_store(tmp_path / "store", "wait")
    process = gpu2.start("-c", AWAY + OFTEN, str(store), log=tmp_path / "log")
    wait_until((store / "waits").exists)
    (store / "away").touch()
    lost = "did not renew this stage's slot of gpu2"
    wait_until(lambda: process.poll() is not None or lost in (tmp_path / "log").read_text())
    (store / "away").unlink()
    (store / "trouble").unlink()
    assert process.wait(PATIENCE) == 0
    shards = [f"synthesis-0000{number}.parquet" for number in range(3)]
    assert (store / "made").read_text().split() == ["captions-00000.parquet", *shards]
    run = server.api.newest_run(store)
    server.api.wait_for_states(run, captions="Completed", synthesis="Completed")
    states = server.api.history(server.api.task_runs(run)["synthesis"])
    told = [state for state in states if state not in ("Pending", "Running")]
    assert told == ["AwaitingRetry", "Retrying", "Completed"]
    server.api.wait_for_state(run, "COMPLETED")
    assert server.api.get("v2/concurrency_limits/gpu2")["active_slots"] == 0


def test_a_terminated_run_stops_and_gives_the_device_back(server, tmp_path):
    gpu2, store = limited(server, "gpu2"), new_store(tmp_path / "store", "wait")
    process = gpu2.start("-c", AWAY + OFTEN, str(store), log=tmp_path / "log")
    wait_until((store / "waits").exists)
    process.send_signal(signal.SIGTERM)
    assert process.wait(PATIENCE) != 0
    run = server.api.newest_run(store)
    server.api.wait_for_states(run, captions="Completed", synthesis="Crashed")
    assert "AwaitingRetry" not in server.api.history(server.api.task_runs(run)["synthesis"])
    server.api.wait_for_state(run, "CRASHED")
    assert server.api.get("v2/concurrency_limits/gpu2")["active_slots"] == 0


def test_a_killed_run_gives_the_device_back_when_its_lease_ends(orphan):
    assert orphan.expires - orphan.died <= timedelta(seconds=LEASE_SECONDS)
    assert orphan.waiting.wait(PATIENCE) == 0
    (shard,) = orphan.folder.glob("b/synthesis/*/synthesis-00000.parquet")
    assert shard.stat().st_mtime >= orphan.expires.timestamp()


def test_a_limit_without_a_server_in_common_is_an_error(monkeypatch):
    monkeypatch.setenv(TEMPORARY_SERVER, "1")
    with pytest.raises(UserError, match="prefect server start"):
        require_device_limit("gpu0")
    require_device_limit(None)
