"""One device, many runs: a stage that needs it holds a slot of a global concurrency limit for as long as it works."""

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from prefect_runs import get, kill, newest_run, wait_until
from prefect_server import PrefectServer, prefect_server

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
        for name in ("gpu0", "gpu1"):
            assert running.run("-m", "prefect", "gcl", "create", name, "--limit", "1").returncode == 0
        yield running


def limited(server: PrefectServer, name: str) -> PrefectServer:
    return replace(server, environment=server.environment | {"LIGHTGEN_DEVICE_LIMIT": name})


def new_store(folder: Path, trouble: str = "") -> Path:
    folder.mkdir()
    (folder / "trouble").write_text(trouble)
    return folder


def waits_for_the_device(log: Path, name: str) -> bool:
    return f"waiting for the device (limit {name})" in log.read_text()


@pytest.fixture(scope="module")
def orphan(server, tmp_path_factory):
    """A run that was killed with the device, when that was, how its lease was renewed before, and one that waits."""
    folder, gpu1 = tmp_path_factory.mktemp("killed"), limited(server, "gpu1")
    killed = gpu1.start("-c", OFTEN, str(new_store(folder / "a", "wait")), log=folder / "a.log")
    wait_until((folder / "a" / "waits").exists)
    (lease,) = Path(server.environment["PREFECT_HOME"]).glob("concurrency_leases/????????-*.json")
    seen: set[int] = set()
    wait_until(lambda: seen.add(lease.stat().st_mtime_ns) or len(seen) == 3)
    kill(killed)
    died = time.time()
    waiting = gpu1.start("tests/two_stages.py", str(new_store(folder / "b")), log=folder / "b.log")
    yield folder, died, waiting
    waiting.kill()
    waiting.wait()


def test_a_limit_that_is_missing_fails_the_run_with_the_command_that_makes_it(server, orphan, tmp_path):
    done = limited(server, "gpu7").run("-m", "flows", "run", "smoke", "--store", str(tmp_path), "--until", "embeddings")
    told = (
        "stage embeddings failed: the Prefect server has no concurrency limit 'gpu7', which LIGHTGEN_DEVICE_LIMIT "
        "names; make it: prefect gcl create gpu7 --limit 1"
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines()[-2:] == [f"lightgen: {told}", "`lightgen --debug ...` shows the traceback."]
    assert told in newest_run(server, tmp_path)["state"]["message"]


def test_two_runs_never_have_the_device_at_once_and_both_finish(server, orphan, tmp_path):
    gpu0 = limited(server, "gpu0")
    first, second = new_store(tmp_path / "first", "wait"), new_store(tmp_path / "second")
    one = gpu0.start("tests/two_stages.py", str(first), log=tmp_path / "one.log")
    wait_until((first / "waits").exists)
    two = gpu0.start("tests/two_stages.py", str(second), log=tmp_path / "two.log")
    wait_until(lambda: waits_for_the_device(tmp_path / "two.log", "gpu0"))
    assert (second / "made").read_text().split() == ["captions-00000.parquet"]
    (first / "trouble").unlink()
    assert (one.wait(240), two.wait(240)) == (0, 0)
    (manifest,) = first.glob("synthesis/*/manifest.json")
    (shard,) = second.glob("synthesis/*/synthesis-00000.parquet")
    assert manifest.stat().st_mtime_ns < shard.stat().st_mtime_ns
    assert get(server, "v2/concurrency_limits/gpu0")["active_slots"] == 0


def test_a_stage_that_is_done_asks_for_no_device(server, orphan, tmp_path):
    store = new_store(tmp_path / "store")
    assert server.run("tests/two_stages.py", str(store)).returncode == 0
    assert limited(server, "gpu7").run("tests/two_stages.py", str(store)).returncode == 0  # there is no such limit


def test_a_killed_run_gives_the_device_back_when_its_lease_ends(orphan):
    folder, died, waiting = orphan
    assert waits_for_the_device(folder / "b.log", "gpu1")
    assert waiting.wait(LEASE_SECONDS + 240) == 0
    (shard,) = folder.glob("b/synthesis/*/synthesis-00000.parquet")
    assert LEASE_SECONDS - 10 < shard.stat().st_mtime - died < LEASE_SECONDS + 30


def test_a_limit_without_a_server_in_common_is_an_error(monkeypatch):
    from flows.device_limit import DeviceLimitError, device_slot
    from flows.server import TEMPORARY

    monkeypatch.setenv(TEMPORARY, "1")
    with pytest.raises(DeviceLimitError, match="prefect server start"), device_slot("gpu0")():
        pass
