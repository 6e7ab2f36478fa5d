"""A Ray cluster of two nodes on this machine, one of which can be killed the hard way."""

import contextlib
import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

from lightgen_core.launch.ray_cluster import without_api_server

NODE = {"object_store_memory": 80 * 2**20, "include_dashboard": False}
QUIET = {  # a dead node is missed after five periods; a slow one has its usual ten seconds to answer each time
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "1000",
    "RAY_worker_niceness": "0",  # as in clusters that LightGen starts; with Ray's own 15 they starve beside other tests
}


class TwoNodes:
    """address: for RAY_ADDRESS; a process that connects is a driver on the first node."""

    def __init__(self, cpus: float, folder: Path) -> None:
        from ray.cluster_utils import Cluster

        self._cluster = Cluster()
        with without_api_server():
            self._first = self._cluster.add_node(**NODE, num_cpus=cpus, temp_dir=str(folder / "1"))
            self._second = self._cluster.add_node(**NODE, num_cpus=cpus, temp_dir=str(folder / "2"))
        self.address: str = self._cluster.address
        self.first_id, self.second_id = self._first.node_id, self._second.node_id

    def kill_second(self) -> None:
        """As if its power went: SIGKILL for the raylet, its agents and all of its workers, in one go."""
        started = [info.process for infos in self._second.all_processes.values() for info in infos]
        for pid in [pid for process in started for pid in _family(process.pid)]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for process in started:
            process.wait()

    def close(self) -> None:
        """Ends everything, this process's connection too."""
        import ray

        ray.shutdown()
        self._cluster.shutdown()


def _family(pid: int) -> list[int]:
    """A process, what it started, and what those started."""
    found = [pid]
    with contextlib.suppress(OSError):  # it has ended
        for path in Path(f"/proc/{pid}/task").glob("*/children"):
            found += [member for child in path.read_text().split() for member in _family(int(child))]
    return found


@contextlib.contextmanager
def two_nodes(cpus: float = 1) -> Iterator[TwoNodes]:
    """A cluster of two nodes with so many CPUs each and no GPU; RAY_ADDRESS is set to it meanwhile."""
    # Not in a test's own folder: the path of a socket has room for a hundred characters.
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        (Path(folder) / "ray").mkdir()
        with mock.patch.dict(os.environ, QUIET | {"RAY_TMPDIR": folder}):
            nodes = TwoNodes(cpus, Path(folder))
            os.environ["RAY_ADDRESS"] = nodes.address
            try:
                yield nodes
            finally:
                nodes.close()
