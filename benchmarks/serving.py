"""Load on `lightgen serve-model`: requests a second, latency and refusals at several numbers of clients.

    python -m benchmarks.serving STORE/report/KEY/model

Starts the server as its own process on loopback and asks it as fast as so many clients can, each with one request at
once; a client that is refused waits as long as the answer says. Ends with SIGTERM under load, and counts what was lost.
"""

import re
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field

import click
import httpx
import numpy as np

PROMPT = "a red circle and a blue square"


@dataclass
class Load:
    """Seconds that each served request took, and the number of answers by status; 0: the connection broke."""

    seconds: list[float] = field(default_factory=list)
    statuses: dict[int, int] = field(default_factory=dict)


def ask(address: str, clients: int, seconds: float, stopping: threading.Event | None = None) -> Load:
    """Ask from so many threads for some seconds, or until `stopping` is set and the server is gone."""
    load, lock, until = Load(), threading.Lock(), time.monotonic() + seconds

    def work(number: int) -> None:
        with httpx.Client(base_url=address, timeout=300, trust_env=False) as client:
            while time.monotonic() < until:
                started = time.monotonic()
                try:
                    answer = client.post("/v1/images/generations", json={"prompt": PROMPT, "seed": number})
                    status, wait = answer.status_code, float(answer.headers.get("Retry-After", 0))
                except httpx.ConnectError:  # nobody listens any more: the request was not accepted
                    return
                except httpx.TransportError:
                    status, wait = 0, 0.0
                with lock:
                    load.statuses[status] = load.statuses.get(status, 0) + 1
                    if status == 200:
                        load.seconds.append(time.monotonic() - started)
                if stopping is not None and status != 200:
                    return
                time.sleep(min(wait, max(0.0, until - time.monotonic())))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return load


def describe(clients: int, seconds: float, load: Load) -> str:
    """Return one row: clients, requests a second, median and p99 in ms, refusals, other failures."""
    median, p99 = np.percentile(load.seconds, [50, 99]) * 1000 if load.seconds else (np.nan, np.nan)
    refused = load.statuses.get(429, 0)
    failed = sum(count for status, count in load.statuses.items() if status not in (200, 429, 503))
    rate = len(load.seconds) / seconds
    return f"| {clients} | {rate:.1f} | {median:.0f} | {p99:.0f} | {refused} | {failed} |"


@click.command()
@click.argument("checkpoint")
@click.option("--clients", default="1,4,16,64,128", help="Numbers of clients, one after another.")
@click.option("--seconds", default=20.0, help="Of each number.")
@click.option("--max-batch", default=16)
@click.option("--max-queue", default=64)
def main(checkpoint: str, clients: str, seconds: float, max_batch: int, max_queue: int) -> None:
    """Measure a checkpoint's server."""
    limits = ["--max-batch", str(max_batch), "--max-queue", str(max_queue)]
    command = [sys.executable, "-m", "flows", "serve-model", checkpoint, "--port", "0", *limits]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert server.stderr is not None
    address = next(found[0] for line in server.stderr if (found := re.search(r"http://[\d.:]+", line)))
    ask(address, 1, 2.0)  # the first images are slower
    print("| clients | requests/s | median, ms | p99, ms | refused | failed |\n| --- | --- | --- | --- | --- | --- |")
    for count in map(int, clients.split(",")):
        print(describe(count, seconds, ask(address, count, seconds)), flush=True)
    threading.Timer(2.0, server.send_signal, (signal.SIGTERM,)).start()
    load = ask(address, 32, 120.0, threading.Event())
    print(f"SIGTERM under 32 clients: answers by status {load.statuses}, exit status {server.wait()}")
    print(server.stderr.read().strip().splitlines()[-1])


if __name__ == "__main__":
    main()
